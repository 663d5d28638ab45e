/**
 * What the soak's store must hold: per record the generation of its last acknowledged write, and of writes whose answer never came.
 *
 *   settled[id]   g > 0: value(id, g) is there · g < 0: deleted by generation -g · 0: never written
 *   value(id, g)  u32 id | u32 g | u32 hash of both | filler; its length depends on the generation, up to what goes to a blob file
 *
 * Threads: any; plain functions and typed arrays.
 */
export function mix32(number) {
  let x = number;
  x ^= x >>> 16;
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  x ^= x >>> 16;
  return x >>> 0;
}

/** A stream of u32 numbers from a seed. */
export function randomOf(seed) {
  let state = mix32(seed + 0x9e3779b9) || 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  return { next, below: (bound) => next() % bound };
}

export const keyOf = (id) => `soak:${String(mix32(id) % 1000).padStart(3, '0')}:${String(id).padStart(8, '0')}`;
export const idOfKey = (key) => Number(key.slice(9));

const HEAD_BYTES = 12;
const filler = Buffer.alloc(1 << 18);
const fillerRandom = randomOf(7);
for (let at = 0; at < filler.length; at += 4) filler.writeUInt32LE(fillerRandom.next(), at);

function hashOf(id, generation) {
  return mix32(mix32(id + 0x51ed27) ^ generation);
}

/** Most are small, 1 in 16 some KiB, 1 in 256 large. */
function bytesOf(hash) {
  if ((hash & 255) === 0) return 20_000 + (hash % 100_000);
  if ((hash & 15) === 0) return 1000 + (hash % 4000);
  return HEAD_BYTES + (hash % 200);
}

export function valueOf(id, generation) {
  const hash = hashOf(id, generation);
  const value = Buffer.allocUnsafe(bytesOf(hash));
  value.writeUInt32LE(id, 0);
  value.writeUInt32LE(generation, 4);
  value.writeUInt32LE(hash, 8);
  filler.copy(value, HEAD_BYTES, hash & 0xffff, (hash & 0xffff) + value.length - HEAD_BYTES);
  return value;
}

/** The generation of a whole value of the record, 0 if it is none. */
export function generationOf(id, value) {
  if (value.length < HEAD_BYTES || value.readUInt32LE(0) !== id) return 0;
  const generation = value.readUInt32LE(4);
  const hash = hashOf(id, generation);
  if (value.readUInt32LE(8) !== hash || value.length !== bytesOf(hash)) return 0;
  const from = hash & 0xffff;
  const rest = filler.subarray(from, from + value.length - HEAD_BYTES);
  return Buffer.compare(rest, value.subarray(HEAD_BYTES)) === 0 ? generation : 0;
}
