/**
 * Records of the mixed load: keys `thread_T_key_I` of 14 to 18 bytes, values of 16 to 20 that name their key, both printed into memory that is used again, as
 * the original's bench does. What keyOf() and valueOf() return lasts until they are called again. Threads: any.
 */
const VALUE_BYTES_MIN = 16;
const VALUE_BYTES_MAX = 20;
const UNDERSCORE = 0x5f;
const ZERO = 0x30;

const key = Buffer.from('thread_0_key_'.padEnd(32, '0'), 'latin1');
const KEY_THREAD_AT = 7;
const KEY_NUMBER_AT = 13;
const value = Buffer.alloc(VALUE_BYTES_MAX);
/** By length. */
const keys = Array.from({ length: key.length + 1 }, (_, length) => key.subarray(0, length));
const values = Array.from({ length: value.length + 1 }, (_, length) => value.subarray(0, length));

/** Returns where the digits end. */
function print(number, into, at) {
  let digits = 1;
  for (let rest = number; rest >= 10; rest = (rest / 10) | 0) digits++;
  let rest = number;
  for (let place = at + digits - 1; place >= at; place--) {
    const next = (rest / 10) | 0;
    into[place] = ZERO + rest - next * 10;
    rest = next;
  }
  return at + digits;
}

export function keyOf(id) {
  key[KEY_THREAD_AT] = ZERO + (id & 7);
  return keys[print(id >>> 3, key, KEY_NUMBER_AT)];
}

export function valueOf(id, salt) {
  const length = VALUE_BYTES_MIN + (salt % 5);
  const filler = 97 + (salt % 26);
  let at = print(id, value, 0);
  value[at++] = UNDERSCORE;
  while (at < length) value[at++] = filler;
  return values[length];
}

export function isValueOf(bytes, id) {
  const { length } = bytes;
  if (length < VALUE_BYTES_MIN || length > VALUE_BYTES_MAX) return false;
  let number = 0;
  let at = 0;
  for (; bytes[at] !== UNDERSCORE; at++) {
    if (at === length || bytes[at] < ZERO || bytes[at] > ZERO + 9) return false;
    number = number * 10 + bytes[at] - ZERO;
  }
  return at > 0 && number === id;
}
