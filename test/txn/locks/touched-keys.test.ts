import { describe, expect, it } from 'vitest';
import { TouchedKeys } from '../../../dist/actors/shard/touched-keys.js';

describe('the keys that a group changes', () => {
  it('are told apart by all bits of their hashes', () => {
    const keys = new TouchedKeys();
    keys.clear();
    for (const hash of [0, -1, 5, 5 + (1 << 14), 5 - (1 << 14), 0x7fffffff]) keys.add(hash);
    for (const hash of [0, -1, 5, 5 + (1 << 14), 5 - (1 << 14), 0x7fffffff]) expect(keys.has(hash)).toBe(true);
    for (const hash of [1, -2, 6, 5 + (1 << 15), 5 - (1 << 15), 0x7ffffffe]) expect(keys.has(hash)).toBe(false);
  });

  it('are forgotten with the group', () => {
    const keys = new TouchedKeys();
    for (let group = 0; group < 100; group++) {
      keys.clear();
      for (let i = 0; i < 50; i++) expect(keys.has(i * 7919)).toBe(false);
      for (let i = 0; i < 50; i++) keys.add(i * 7919);
      for (let i = 0; i < 50; i++) expect(keys.has(i * 7919)).toBe(true);
    }
  });

  it('may be any where there are too many to tell', () => {
    const keys = new TouchedKeys();
    keys.clear();
    for (let i = 0; i < 20_000; i++) keys.add(Math.imul(i, 0x9e3779b1));
    for (let i = 0; i < 40_000; i++) if (!keys.has(Math.imul(i, 0x9e3779b1))) expect.fail(`key ${i}`);
    keys.clear();
    expect(keys.has(0)).toBe(false);
  });
});
