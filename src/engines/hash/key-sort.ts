/**
 * Sorting many short byte strings: order of keys that stand one after another in a buffer.
 *
 * By four bytes at a time: a run of keys is sorted by (its next four bytes, place) packed into one double each, which the engine of the language
 * sorts natively; runs of equal four bytes go on with the next four. Short runs are compared whole.
 * Threads: any; pure.
 */
const INSERTION_KEYS_MAX = 16;
/** 32 bits of key and 21 of place fit a double's 53. */
const PACKED_KEYS_MAX = 2 ** 21;

/**
 * The indexes of `count` keys in memcmp order; key i is bytes[offsets[i], offsets[i + 1]).
 */
export function sortedKeys(bytes: Uint8Array, offsets: Float64Array, count: number): Uint32Array {
  const order = new Uint32Array(count);
  for (let index = 0; index < count; index++) order[index] = index;
  sortRun(bytes, offsets, order, 0, count, 0);
  return order;
}

function sortRun(
  bytes: Uint8Array,
  offsets: Float64Array,
  order: Uint32Array,
  start: number,
  end: number,
  depth: number,
): void {
  const count = end - start;
  if (count <= INSERTION_KEYS_MAX) {
    insertionSort(bytes, offsets, order, start, end, depth);
    return;
  }
  const compare = (a: number, b: number): number => compareKeys(bytes, offsets, a, b, depth);
  if (count > PACKED_KEYS_MAX) {
    order.subarray(start, end).sort(compare);
    return;
  }
  const common = depth + commonBytes(bytes, offsets, order, start, end, depth);
  const packed = new Float64Array(count);
  const run = order.slice(start, end);
  let isWhole = true;
  for (let index = 0; index < count; index++) {
    const key = run[index]!;
    const at = offsets[key]! + common;
    const keyEnd = offsets[key + 1]!;
    let head = 0;
    for (let byte = 0; byte < 4; byte++) head = head * 256 + (at + byte < keyEnd ? bytes[at + byte]! : 0);
    if (at + 4 > keyEnd) isWhole = false;
    packed[index] = head * PACKED_KEYS_MAX + index;
  }
  packed.sort();
  for (let index = 0; index < count; index++) order[start + index] = run[packed[index]! % PACKED_KEYS_MAX]!;
  for (let from = 0; from < count;) {
    const head = Math.floor(packed[from]! / PACKED_KEYS_MAX);
    let to = from + 1;
    while (to < count && Math.floor(packed[to]! / PACKED_KEYS_MAX) === head) to++;
    if (to - from > 1) {
      // Zeros may stand for bytes that a key has not: then only whole keys tell.
      if (isWhole) sortRun(bytes, offsets, order, start + from, start + to, common + 4);
      else order.subarray(start + from, start + to).sort(compare);
    }
    from = to;
  }
}

/** How many bytes behind `depth` all keys of the run have in common. */
function commonBytes(
  bytes: Uint8Array,
  offsets: Float64Array,
  order: Uint32Array,
  start: number,
  end: number,
  depth: number,
): number {
  const first = order[start]!;
  const firstAt = offsets[first]! + depth;
  let common = offsets[first + 1]! - firstAt;
  for (let index = start + 1; index < end && common > 0; index++) {
    const key = order[index]!;
    const at = offsets[key]! + depth;
    common = Math.min(common, offsets[key + 1]! - at);
    for (let byte = 0; byte < common; byte++) {
      if (bytes[at + byte] !== bytes[firstAt + byte]) common = byte;
    }
  }
  return Math.max(0, common);
}

function insertionSort(
  bytes: Uint8Array,
  offsets: Float64Array,
  order: Uint32Array,
  start: number,
  end: number,
  depth: number,
): void {
  for (let index = start + 1; index < end; index++) {
    const key = order[index]!;
    let at = index;
    for (; at > start && compareKeys(bytes, offsets, order[at - 1]!, key, depth) > 0; at--) order[at] = order[at - 1]!;
    order[at] = key;
  }
}

function compareKeys(bytes: Uint8Array, offsets: Float64Array, a: number, b: number, depth: number): number {
  const aEnd = offsets[a + 1]!;
  const bEnd = offsets[b + 1]!;
  let aAt = offsets[a]! + depth;
  let bAt = offsets[b]! + depth;
  for (; aAt < aEnd && bAt < bEnd; aAt++, bAt++) {
    const difference = bytes[aAt]! - bytes[bAt]!;
    if (difference !== 0) return difference;
  }
  return aEnd - aAt - (bEnd - bAt);
}
