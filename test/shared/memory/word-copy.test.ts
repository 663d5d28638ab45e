import { describe, expect, it } from 'vitest';
import { WordCopy } from '../../../dist/shared/memory/word-copy.js';

const SENTINEL = 0xee;

/** Random enough, and no two words alike. */
function filled(bytes: Uint8Array): Uint8Array {
  for (let at = 0; at < bytes.length; at++) bytes[at] = (at * 167 + (at >> 3) * 31) & 0xff;
  return bytes;
}

describe('a copy in words', () => {
  it('is that of bytes at every alignment of source, array and target, up to the last byte of the array', () => {
    const memory = new SharedArrayBuffer(1024);
    const to = new Uint8Array(memory);
    const words = new Int32Array(memory);
    let copies = 0;
    for (let byteOffset = 0; byteOffset < 4; byteOffset++) {
      // The last bytes are the end of the buffer, whole words or not.
      for (const bytes of [600, 601, 602, 603]) {
        const from = filled(new Uint8Array(new ArrayBuffer(byteOffset + bytes), byteOffset));
        const copy = new WordCopy();
        copy.copy(from, 0, 1, to, words, 0);
        for (const length of [0, 1, 3, 4, 15, 16, 17, 18, 19, 31, 116, 511, 512, 513]) {
          for (const start of [0, 1, 2, 3, 40, from.length - length - 1, from.length - length]) {
            for (let at = 16; at < 20; at++) {
              to.fill(SENTINEL);
              copy.copy(from, start, length, to, words, at);
              const expected = new Uint8Array(to.length).fill(SENTINEL);
              expected.set(from.subarray(start, start + length), at);
              copies++;
              if (Buffer.compare(to, expected) !== 0)
                expect.fail(`${length} bytes from ${byteOffset} + ${start} of ${bytes} to ${at}`);
            }
          }
        }
      }
    }
    expect(copies).toBe(4 * 4 * 14 * 7 * 4);
  });

  it('is of the array it is given, not of the one before, and of what stands there now', () => {
    const memory = new SharedArrayBuffer(256);
    const to = new Uint8Array(memory);
    const words = new Int32Array(memory);
    const copy = new WordCopy();
    const one = new Uint8Array(64).fill(1);
    const other = new Uint8Array(64).fill(2);
    const copied = (from: Uint8Array): number => {
      copy.copy(from, 1, 40, to, words, 9);
      expect(new Set(to.subarray(9, 49)).size).toBe(1);
      return to[9]!;
    };
    expect([copied(one), copied(one), copied(other), copied(other), copied(one)]).toEqual([1, 1, 2, 2, 1]);
    one.fill(3);
    expect(copied(one)).toBe(3);
    copy.forget();
    expect(copied(other)).toBe(2);
  });

  it('is right however many arrays take turns', () => {
    const memory = new SharedArrayBuffer(256);
    const to = new Uint8Array(memory);
    const words = new Int32Array(memory);
    const copy = new WordCopy();
    const arrays = Array.from({ length: 20 }, (_, number) => new Uint8Array(100).fill(number + 1));
    for (let turn = 0; turn < 2000; turn++) {
      const number = (turn * 7 + (turn >> 3)) % (turn < 1000 ? 6 : 20);
      const at = 1 + (turn % 5);
      for (let time = 0; time <= turn % 3; time++) {
        to.fill(SENTINEL);
        copy.copy(arrays[number]!, turn % 7, 90, to, words, at);
        const expected = new Uint8Array(256).fill(SENTINEL).fill(number + 1, at, at + 90);
        if (Buffer.compare(to, expected) !== 0) expect.fail(`turn ${turn}: array ${number}`);
      }
      if (turn % 500 === 499) copy.forget();
    }
  });
});
