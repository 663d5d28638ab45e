import { expect, test } from 'vitest';
import { CopyPool, POOLED_BYTES_MAX } from '../../../dist/shared/memory/copy-pool.js';

test('a pooled Buffer is a Buffer in every respect', () => {
  const buffer = new CopyPool().take(5);
  buffer.write('hello');
  expect(Buffer.isBuffer(buffer)).toBe(true);
  expect(buffer.constructor).toBe(Buffer);
  expect(buffer.toString()).toBe('hello');
  expect(buffer.subarray(1, 3).toString('latin1')).toBe('el');
  expect(Buffer.isBuffer(buffer.subarray(1))).toBe(true);
  expect(buffer.equals(Buffer.from('hello'))).toBe(true);
  expect(Buffer.concat([buffer, buffer]).toString()).toBe('hellohello');
  expect([...buffer.map((byte) => byte + 1)]).toEqual([...Buffer.from('ifmmp')]);
  expect(structuredClone(buffer)).toEqual(new Uint8Array(Buffer.from('hello')));
});

test('slices never overlap, start at multiples of 8 and lie under words', () => {
  const pool = new CopyPool();
  const taken: Buffer[] = [];
  for (let i = 0; i < 500; i++) {
    const length = (i * 37) % (POOLED_BYTES_MAX + 1);
    const buffer = pool.take(length);
    expect(buffer.length).toBe(length);
    expect(buffer.byteOffset % 8).toBe(0);
    expect(pool.words.buffer).toBe(buffer.buffer);
    buffer.fill(i & 255);
    taken.push(buffer);
  }
  for (const [i, buffer] of taken.entries()) expect(buffer.every((byte) => byte === (i & 255))).toBe(true);
});
