/** Records of the mixed load: keys `thread_T_key_I` of 14 to 18 bytes, values of 16 to 20 that name their key. Threads: any. */
export function keyOf(id) {
  return `thread_${id & 7}_key_${id >>> 3}`;
}

/** Always at least 16 bytes. */
export function valueOf(id, salt) {
  return `${id}_`.padEnd(16 + (salt % 5), String.fromCharCode(97 + (salt % 26)));
}

export function isValueOf(value, id) {
  return value.length >= 16 && value.length <= 20 && value.startsWith(`${id}_`);
}
