// Custom events of the history: which card's button was pressed.
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (!button) return;
  const chosen = { index: Number(button.dataset.index) };
  if (button.dataset.action === 'again') trigger('again', chosen);
  else trigger('restore', chosen);
});
