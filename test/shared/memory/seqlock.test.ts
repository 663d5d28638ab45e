import { describe, expect, test } from 'vitest';
import { toOwnerId } from '../../../dist/shared/memory/lock-owner.js';
import { SeqLock } from '../../../dist/shared/memory/seqlock.js';
import { ended, sharedWords, startScene, until } from '../../support/memory-scene.js';

function handles(...owners: number[]): SeqLock[] {
  const words = sharedWords(16);
  return owners.map((owner) => new SeqLock(words, 0, toOwnerId(owner)));
}

describe('scenes', () => {
  test('a read at rest returns what it copied, whatever that is', async () => {
    const [lock] = handles(1) as [SeqLock];
    expect(lock.read(() => 7)).toBe(7);
    expect(lock.read(() => undefined)).toBeUndefined();
    expect(await lock.readAsync(() => 7)).toBe(7);
    expect(lock.tryRead(() => undefined)).toEqual({ value: undefined });
  });

  test('a read that a write overlapped is done again', () => {
    const [writer, reader] = handles(1, 2) as [SeqLock, SeqLock];
    let value = 0;
    let calls = 0;
    const result = reader.read(() => {
      const seen = value;
      if (++calls <= 3) writer.write(() => value++);
      return seen;
    });
    expect([result, calls]).toEqual([3, 4]);
  });

  test('while a writer is in the middle nothing is read: undefined, fallback or ERR_TIMEOUT', async () => {
    const [writer, reader] = handles(4, 2) as [SeqLock, SeqLock];
    writer.begin();
    let calls = 0;
    const copy = (): number => ++calls;
    expect(reader.readBegin()).toBeUndefined();
    expect(reader.tryRead(copy)).toBeUndefined();
    expect(reader.read(copy, { timeoutMs: 3, fallback: () => -1 })).toBe(-1);
    expect(await reader.readAsync(copy, { timeoutMs: 3, fallback: () => -1 })).toBe(-1);
    const expected = { code: 'ERR_TIMEOUT', details: { timeoutMs: 3, owner: 4 } };
    expect(() => reader.read(copy, { timeoutMs: 3 })).toThrow(expect.objectContaining(expected));
    await expect(reader.readAsync(copy, { timeoutMs: 3 })).rejects.toMatchObject(expected);
    expect(calls).toBe(0);
    setTimeout(() => writer.end(), 5);
    expect(await reader.readAsync(copy)).toBe(1);
  });

  test('readBegin and readValid tell whether a write came between', () => {
    const [writer, reader] = handles(1, 2) as [SeqLock, SeqLock];
    const sequence = reader.readBegin()!;
    expect(reader.readValid(sequence)).toBe(true);
    writer.begin();
    expect(reader.readValid(sequence)).toBe(false);
    writer.end();
    expect(reader.readValid(sequence)).toBe(false);
    expect(reader.readValid(reader.readBegin()!)).toBe(true);
  });

  test('a copy that throws on half-changed data is repeated, on whole data its error is the caller’s', () => {
    const [writer, reader] = handles(1, 2) as [SeqLock, SeqLock];
    let calls = 0;
    expect(
      reader.read(() => {
        if (++calls === 1) {
          writer.write(() => undefined);
          throw new Error('torn');
        }
        return calls;
      }),
    ).toBe(2);
    expect(() =>
      reader.read(() => {
        throw new Error('whole');
      }),
    ).toThrow('whole');
  });

  test('the sequence wraps at 2^32', () => {
    const words = sharedWords(16);
    words[0] = -2;
    const lock = new SeqLock(words, 0, toOwnerId(1));
    for (const expected of [0, 2]) {
      lock.begin();
      expect(lock.readBegin()).toBeUndefined();
      lock.end();
      expect(lock.readBegin()).toBe(expected);
    }
    words[0] = 2 ** 31 - 2;
    lock.write(() => undefined);
    expect(lock.readBegin()).toBe(-(2 ** 31));
  });

  test('two writers at once, and an end without begin, are broken invariants', () => {
    const [a, b] = handles(1, 2) as [SeqLock, SeqLock];
    const broken = expect.objectContaining({ code: 'ERR_INTERNAL' });
    expect(() => a.end()).toThrow(broken);
    a.begin();
    expect(() => b.begin()).toThrow(broken);
    expect(() => a.begin()).toThrow(broken);
    expect(() => b.end()).toThrow(broken);
    expect(a.writer).toBe(1);
    a.end();
    b.write(() => undefined);
    expect(a.writer).toBe(0);
  });

  test('recover repairs only what the dead thread left in the middle', () => {
    const [a, b] = handles(1, 2) as [SeqLock, SeqLock];
    let repairs = 0;
    const repair = (): void => void repairs++;
    expect(b.recover(toOwnerId(1), repair)).toBe(false);
    a.begin();
    expect(b.recover(toOwnerId(3), repair)).toBe(false);
    expect(repairs).toBe(0);
    expect(() =>
      b.recover(toOwnerId(1), () => {
        throw new Error('not yet');
      }),
    ).toThrow('not yet');
    expect(b.tryRead(() => 1)).toBeUndefined();
    expect(b.recover(toOwnerId(1), repair)).toBe(true);
    expect(repairs).toBe(1);
    expect(b.read(() => 1)).toBe(1);
    b.write(() => undefined);
  });

  test('wrong arguments are the caller’s mistakes', async () => {
    for (const index of [1, 16, -16])
      expect(() => new SeqLock(sharedWords(16), index, toOwnerId(1))).toThrow(TypeError);
    const [lock] = handles(1) as [SeqLock];
    expect(() => lock.read(() => 1, { timeoutMs: -1 })).toThrow(TypeError);
    await expect(lock.readAsync(() => 1, { timeoutMs: NaN })).rejects.toThrow(TypeError);
  });
});

describe('threads', () => {
  test('readers never see a torn or an older state while a thread writes', async () => {
    const words = sharedWords(48);
    const writer = startScene('seqWriter', { words, owner: 1, stop: 32, pause: 20 });
    await writer.message();
    await until(() => Atomics.load(words, 16) > 0);
    const readers = [2, 3].map((owner) => startScene('seqReader', { words, owner, reads: 200_000 }));
    for (const reader of readers) {
      const result = await reader.message();
      expect([result['torn'], result['backwards']]).toEqual([0, 0]);
      expect(result['last']).toBeGreaterThan(0);
    }
    Atomics.store(words, 32, 1);
    expect((await writer.message())['writes']).toBe(words[16]);
    await Promise.all([writer, ...readers].map(ended));
  });

  test('a writer terminated in the middle keeps readers out until its write is repaired', async () => {
    const words = sharedWords(48);
    const lock = new SeqLock(words, 0, toOwnerId(2));
    const writer = startScene('seqDieInTheMiddle', { words, owner: 1 });
    await writer.message();
    await writer.kill();
    expect(() => lock.read(() => words[16], { timeoutMs: 5 })).toThrow(
      expect.objectContaining({ code: 'ERR_TIMEOUT', details: { timeoutMs: 5, owner: 1 } }),
    );
    expect(lock.recover(toOwnerId(1), () => (words[16] = 0))).toBe(true);
    expect(lock.read(() => words[16])).toBe(0);
  });
});
