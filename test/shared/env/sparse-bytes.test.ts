import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CHUNK_BYTES, SparseBytes } from '../../../dist/shared/env/sparse-bytes.js';

const GROUP_BYTES = 512 * CHUNK_BYTES;

function bytesOf(sparse: SparseBytes): Buffer {
  const bytes = Buffer.alloc(sparse.size, 7);
  expect(sparse.read(bytes, 0, bytes.length, 0)).toBe(bytes.length);
  return bytes;
}

test('holes take no space and read as zeros, across groups', () => {
  const sparse = new SparseBytes();
  sparse.resize(5 * GROUP_BYTES);
  sparse.write(Uint8Array.of(1, 2), 0, 2, 3 * GROUP_BYTES - 1);
  expect(sparse.allocatedBytes).toBe(2 * CHUNK_BYTES);
  expect(sparse.missingBytes(2, 3 * GROUP_BYTES - 1)).toBe(0);
  expect(sparse.missingBytes(CHUNK_BYTES + 2, CHUNK_BYTES - 1)).toBe(3 * CHUNK_BYTES);
  const into = new Uint8Array(4).fill(9);
  expect(sparse.read(into, 0, 4, 3 * GROUP_BYTES - 2)).toBe(4);
  expect([...into]).toEqual([0, 1, 2, 0]);
  sparse.resize(3 * GROUP_BYTES);
  expect(sparse.allocatedBytes).toBe(CHUNK_BYTES);
  sparse.resize(0);
  expect(sparse.allocatedBytes).toBe(0);
});

test('originals and clones of clones behave like independent buffers', () => {
  const change = fc.record({
    which: fc.nat(9),
    kind: fc.constantFrom('write', 'write', 'resize', 'clone'),
    at: fc.oneof(fc.nat(3 * CHUNK_BYTES), fc.integer({ min: GROUP_BYTES - 5000, max: GROUP_BYTES + 5000 })),
    length: fc.nat(6000),
  });
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 40 }), (changes) => {
      const sparse = [new SparseBytes()];
      const plain = [Buffer.alloc(0)];
      changes.forEach(({ which, kind, at, length }, index) => {
        const target = which % sparse.length;
        const old = plain[target]!;
        if (kind === 'clone') {
          sparse.push(sparse[target]!.clone());
          plain.push(Buffer.from(old));
        } else if (kind === 'resize') {
          sparse[target]!.resize(at);
          plain[target] = Buffer.concat([old.subarray(0, at), Buffer.alloc(Math.max(0, at - old.length))]);
        } else if (length > 0) {
          sparse[target]!.write(Buffer.alloc(length, index + 1), 0, length, at);
          const grown = Buffer.concat([old, Buffer.alloc(Math.max(0, at + length - old.length))]);
          plain[target] = grown.fill(index + 1, at, at + length);
        }
      });
      sparse.forEach((bytes, index) => expect(bytesOf(bytes).equals(plain[index]!)).toBe(true));
    }),
    { numRuns: 150 },
  );
});
