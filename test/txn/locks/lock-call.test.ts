/** Requests for locks, as bytes in a ring: what is sent is read, and nothing is read that no transaction can have sent. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeLockCall, encodeLockCall, type LockCall } from '../../../dist/actors/shard/request.js';
import { ConcordError } from '../../../dist/shared/errors.js';

const call: LockCall = {
  txn: 2 ** 40 + 1,
  age: 7,
  priority: -3,
  mode: 'update',
  space: 5,
  key: Buffer.from('key'),
  timeoutMs: 1000,
  snapshot: 0,
};

test('a lock request is read as it was written', () => {
  const bytes = encodeLockCall(call);
  expect(decodeLockCall(bytes, 0, bytes.length)).toEqual(call);
});

test.each([0, -0, -1, NaN, Infinity, 1.5, 2 ** 53])('a lock request of a transaction %d is refused', (txn) => {
  const bytes = encodeLockCall({ ...call, txn });
  expect(() => decodeLockCall(bytes, 0, bytes.length)).toThrow(ConcordError);
});

test('any bytes are a lock request of a transaction, or are refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (array) => {
      const bytes = Buffer.from(array);
      try {
        expect(decodeLockCall(bytes, 0, bytes.length).txn).toBeGreaterThan(0);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_INTERNAL' });
      }
    }),
  );
});
