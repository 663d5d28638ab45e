/** Text in which every stretch tells where it stands. */
export function patternText(length, seed = 0) {
  let text = '';
  for (let block = 0; text.length < length; block++) text += `<${seed}:${length}:${block}>`;
  return text.slice(0, length);
}
