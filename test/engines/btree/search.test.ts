/** The search among the heads of a leaf, against looking at each: heads that lie close together, at both ends of their range, are many or none. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { COUNT_HALFWORD, PAGE_HEADER_BYTES } from '../../../dist/engines/btree/page.js';
import { searchLeaf } from '../../../dist/engines/btree/search.js';

const HEADS_MAX = 600;
const SPREAD = 8;

it('finds the place of a head that is not there', () => {
  const u8 = new Uint8Array(4096);
  const u16 = new Uint16Array(u8.buffer);
  const u32 = new Uint32Array(u8.buffer);
  const key = Buffer.alloc(4);
  const first = fc.constantFrom(0, 1, 2 ** 31 - SPREAD, 2 ** 31 - 3, 2 ** 31, 2 ** 32 - SPREAD);
  const offset = fc.nat(SPREAD - 1);
  fc.assert(
    fc.property(first, fc.array(offset, { maxLength: HEADS_MAX, size: 'max' }), offset, (base, offsets, wanted) => {
      const heads = offsets.filter((other) => other !== wanted).map((other) => base + other);
      heads.sort((a, b) => a - b);
      u16[COUNT_HALFWORD] = heads.length;
      u32.set(heads, PAGE_HEADER_BYTES / 4);
      key.writeUInt32BE(base + wanted);
      const smaller = heads.filter((head) => head < base + wanted).length;
      expect(~searchLeaf(u8, u16, u32, 0, key, 0, 4, Infinity)).toBe(smaller);
    }),
    { numRuns: 2000 },
  );
});
