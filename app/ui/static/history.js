// Trigger a custom event with the index of the card whose button was pressed.
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (!button) return;
  const chosen = { index: Number(button.dataset.index) };
  if (button.dataset.action === 'again') trigger('again', chosen);
  else trigger('restore', chosen);
});
