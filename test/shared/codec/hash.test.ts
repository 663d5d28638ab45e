import { describe, expect, test } from 'vitest';
import { HASH_SEED, HASH_SLOTS, hashBytes, slotOf } from '../../../dist/shared/hash.js';
import { encodeTuple } from '../../../dist/shared/codec/tuple.js';
import { KeyScratch } from '../../../dist/shared/codec/key-encoding.js';
import { expectGolden } from './golden-file.js';

function hashOf(text: string, seed?: number): number {
  const bytes = Buffer.from(text);
  return hashBytes(bytes, 0, bytes.length, seed) >>> 0;
}

// Verification values published for MurmurHash3_x86_32.
test.each([
  ['', 0, 0],
  ['', 1, 0x514e28b7],
  ['', 0xffffffff, 0x81f16f39],
  ['test', 0, 0xba6bd213],
  ['test', 0x9747b28c, 0x704b81dc],
  ['Hello, world!', 0, 0xc0363e43],
  ['Hello, world!', 0x9747b28c, 0x24884cba],
  ['aaaa', 0x9747b28c, 0x5a97808a],
  ['aaa', 0x9747b28c, 0x283e0130],
  ['aa', 0x9747b28c, 0x5d211726],
  ['a', 0x9747b28c, 0x7fa09ea6],
  ['The quick brown fox jumps over the lazy dog', 0x9747b28c, 0x2fa826cd],
])('hash of %j with seed %d is the published value', (text, seed, hash) => {
  expect(hashOf(text, seed)).toBe(hash);
});

test('keys keep the hashes and slots that directories were written with', () => {
  const keys = ['', '\0', 'a', 'ab', 'abc', 'abcd', 'user:0000000001', 'user:0000000002', 'Zürich', 'k'.repeat(4096)];
  expectGolden(
    'codec-hash.txt',
    keys.map((key) => {
      const hash = hashOf(key);
      const name = key.length > 40 ? `'k' × ${key.length}` : JSON.stringify(key);
      return [hash.toString(16).padStart(8, '0'), `slot ${String(slotOf(hash)).padStart(4)}  ${name}`];
    }),
  );
  expect(hashOf('a', HASH_SEED)).toBe(hashOf('a'));
});

test('the hash depends on the range alone, not on where it lies', () => {
  const bytes = Buffer.alloc(80, 0x11);
  for (let length = 0; length <= 33; length++) {
    const key = Buffer.from(Array.from({ length }, (_, i) => (i * 31 + length) & 0xff));
    const expected = hashBytes(key, 0, length);
    for (let at = 0; at < 9; at++) {
      bytes.fill(at);
      bytes.set(key, at);
      expect(hashBytes(bytes, at, length)).toBe(expected);
    }
  }
});

test('signed and unsigned forms of a hash fall into the same slot, 0 to 4095', () => {
  for (const hash of [0, 1, -1, 0x7fffffff, -0x80000000, 0xdeadbeef]) {
    expect(slotOf(hash)).toBe(slotOf(hash >>> 0));
    expect(slotOf(hash)).toBeGreaterThanOrEqual(0);
    expect(slotOf(hash)).toBeLessThan(HASH_SLOTS);
  }
  expect(slotOf(-1)).toBe(HASH_SLOTS - 1);
});

/** mulberry32: UUID-like keys must be the same in every run, since the bounds below are statistical. */
function randomSource(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  };
}

const random = randomSource(1);
const word = (): string => random().toString(16).padStart(8, '0');
const scratch = new KeyScratch();
function encodedTuple(...tuple: unknown[]): Buffer {
  return Buffer.from(scratch.bytes.subarray(0, encodeTuple(tuple, scratch)));
}

const families: { name: string; key: (i: number) => Buffer }[] = [
  { name: 'sequential decimal', key: (i) => Buffer.from(String(i).padStart(16, '0')) },
  { name: 'prefixed decimal', key: (i) => Buffer.from(`user:${i}`) },
  { name: 'big-endian counter', key: (i) => Buffer.from([i >>> 24, i >>> 16, i >>> 8, i]) },
  { name: 'little-endian counter', key: (i) => Buffer.from([i, i >>> 8, i >>> 16, i >>> 24, 0, 0, 0, 0]) },
  { name: 'uuid', key: () => Buffer.from(`${word()}-${word().slice(4)}-4${word().slice(5)}-${word()}${word()}`) },
  { name: 'tuple', key: (i) => encodedTuple('city', i % 200, `name ${i % 977}`, i) },
];

describe.each(families)('$name keys', ({ key }) => {
  test('spread evenly over the slots', () => {
    const keyCount = HASH_SLOTS * 40;
    const counts = new Uint32Array(HASH_SLOTS);
    for (let i = 0; i < keyCount; i++) {
      const bytes = key(i);
      counts[slotOf(hashBytes(bytes, 0, bytes.length))]!++;
    }
    const expected = keyCount / HASH_SLOTS;
    const chiSquare = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    // 4095 degrees of freedom: mean 4095, standard deviation 90.5. Five deviations either side; too even is as suspect for the
    // random families, but a counter may well be more even than chance, so only the upper side is a failure.
    expect(chiSquare).toBeLessThan(4095 + 5 * 90.5);
    expect(Math.max(...counts)).toBeLessThan(2.5 * expected);
  });
});

test('flipping any input bit flips each output bit in about half of all keys', () => {
  const keyBytes = 16;
  const rounds = 400;
  const bytes = Buffer.alloc(keyBytes);
  let worst = 0;
  for (let bit = 0; bit < keyBytes * 8; bit++) {
    const flips = new Uint32Array(32);
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < keyBytes; i++) bytes[i] = random();
      const before = hashBytes(bytes, 0, keyBytes);
      bytes[bit >>> 3]! ^= 1 << (bit & 7);
      const changed = before ^ hashBytes(bytes, 0, keyBytes);
      for (let out = 0; out < 32; out++) flips[out]! += (changed >>> out) & 1;
    }
    for (const count of flips) worst = Math.max(worst, Math.abs(count / rounds - 0.5));
  }
  // 4096 bit pairs, each with a deviation of 0.025: six deviations are never reached by chance.
  expect(worst).toBeLessThan(0.15);
});
