// Read the settings from a PNG in the browser. The file is not uploaded.
element.addEventListener('change', async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  const bytes = new DataView(await file.slice(0, 65536).arrayBuffer());
  const ascii = (from, length) =>
    String.fromCharCode(...new Uint8Array(bytes.buffer, from, Math.max(0, Math.min(length, bytes.byteLength - from))));
  let text = '';
  for (let at = 8; at + 12 <= bytes.byteLength; at += 12 + bytes.getUint32(at)) {
    const kind = ascii(at + 4, 4);
    if (kind === 'IDAT') break;
    const [key, value] = kind === 'tEXt' ? ascii(at + 8, bytes.getUint32(at)).split('\0') : [];
    if (key === 'request') text = value;
  }
  event.target.value = '';
  trigger('read', { text });
});
