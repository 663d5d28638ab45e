import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ConcordError } from '../../../dist/shared/errors.js';
import {
  createRing,
  RING_HEADER_BYTES,
  RING_USER_LINE_WORDS,
  RING_USER_LINES,
  RING_USER_WORDS,
  RingConsumer,
  RingProducer,
} from '../../../dist/shared/memory/ring.js';
import { ended, sleep, startScene } from '../../support/memory-scene.js';

const CAPACITY = 4096;

/** A ring whose counters stand at `position` already, as after that many bytes of traffic. */
function ringAt(position: number): SharedArrayBuffer {
  const sab = createRing(CAPACITY);
  const header = new Int32Array(sab, 0, 64);
  header[0] = header[16] = position | 0;
  return sab;
}

function pair(position = 0): { sab: SharedArrayBuffer; producer: RingProducer; consumer: RingConsumer } {
  const sab = ringAt(position);
  return { sab, producer: new RingProducer(sab), consumer: new RingConsumer(sab) };
}

function put(producer: RingProducer, text: string): boolean {
  const at = producer.reserve(text.length);
  if (at < 0) return false;
  producer.bytes.write(text, at, 'latin1');
  return true;
}

function take(consumer: RingConsumer): string | undefined {
  const at = consumer.next();
  return at < 0 ? undefined : consumer.bytes.toString('latin1', at, at + consumer.length);
}

describe('scenes', () => {
  test('room is given back up to a record that was read before others', () => {
    for (const begin of [0, -4096, 0x7ffffff8]) {
      const { sab, producer, consumer } = pair(begin);
      const ends: number[] = [];
      for (let round = 0; round < 500; round++) {
        while (put(producer, `${'x'.repeat(100)}${round}`));
        producer.publish();
        while (take(consumer) !== undefined) ends.push(consumer.position);
        const [end] = ends.splice(0, 1 + (round % 7)).slice(-1);
        consumer.releaseTo(end!);
        // Whoever comes later meets what was not given back.
        const later = new RingConsumer(sab);
        expect(later.position).toBe(end);
        let left = 0;
        while (take(later) !== undefined) left++;
        expect(left).toBe(ends.length);
      }
    }
  });

  test('records come out whole and in order, after publish and not before', () => {
    const { producer, consumer } = pair();
    put(producer, 'one');
    put(producer, '');
    put(producer, 'three three');
    expect(producer.hasUnpublished).toBe(true);
    expect(consumer.pending()).toBe(false);
    expect(take(consumer)).toBeUndefined();
    producer.publish();
    expect(producer.hasUnpublished).toBe(false);
    expect(consumer.pending()).toBe(true);
    expect([take(consumer), take(consumer), take(consumer), take(consumer)]).toEqual([
      'one',
      '',
      'three three',
      undefined,
    ]);
    expect(consumer.pending()).toBe(false);
  });

  test('room comes back with release, not with next', () => {
    const { producer, consumer } = pair();
    const length = producer.maxRecordBytes;
    expect(length).toBe(CAPACITY / 2 - 8);
    expect(producer.reserve(length)).toBe(8);
    expect(producer.reserve(length)).toBe(CAPACITY / 2 + 8);
    producer.publish();
    expect(producer.free()).toBe(0);
    expect(producer.reserve(0)).toBe(-1);
    expect(consumer.next()).toBe(8);
    expect(producer.reserve(0)).toBe(-1);
    consumer.release();
    expect(producer.free()).toBe(CAPACITY / 2);
    expect(producer.reserve(length)).toBe(8);
  });

  test('a record that does not fit before the end starts at offset 0', () => {
    const { producer, consumer } = pair(CAPACITY - 16);
    put(producer, 'nine bytes');
    producer.publish();
    expect(consumer.next()).toBe(8);
    expect(consumer.length).toBe(10);
    consumer.release();
    expect(producer.free()).toBe(CAPACITY);
  });

  test('a record that ends exactly at the end needs no skip', () => {
    const { producer, consumer } = pair(CAPACITY - 16);
    put(producer, 'eight by');
    put(producer, 'next');
    producer.publish();
    expect(consumer.next()).toBe(CAPACITY - 8);
    expect(consumer.next()).toBe(8);
  });

  test('the longest record fits an empty ring at every position', () => {
    for (let position = 0; position < CAPACITY; position += 8) {
      const { producer, consumer } = pair(position);
      expect(producer.reserve(producer.maxRecordBytes)).toBeGreaterThan(0);
      producer.publish();
      expect(consumer.next()).toBeGreaterThan(0);
      expect(consumer.length).toBe(producer.maxRecordBytes);
      consumer.release();
      expect(producer.free()).toBe(CAPACITY);
    }
  });

  test('a large ring that has been emptied begins at its start again, whatever is put into it', () => {
    const sab = createRing(512 * 1024);
    const producer = new RingProducer(sab);
    const consumer = new RingConsumer(sab);
    let farthest = 0;
    for (let round = 0; round < 200; round++) {
      for (let i = 0; i < 10; i++) put(producer, `${round} ${i} ${'x'.repeat(1000)}`);
      producer.publish();
      for (let i = 0; i < 10; i++) {
        expect(take(consumer)?.startsWith(`${round} ${i} x`)).toBe(true);
        farthest = Math.max(farthest, consumer.position & (512 * 1024 - 1));
      }
      consumer.release();
    }
    expect(farthest).toBeLessThan(128 * 1024);
    expect(producer.free()).toBe(512 * 1024);
    // There is room for the longest record wherever the last one ended.
    for (let round = 0; round < 300; round++) {
      put(producer, 'x'.repeat(8000 * (round % 12)));
      producer.publish();
      consumer.next();
      consumer.release();
      expect(producer.reserve(producer.maxRecordBytes)).toBeGreaterThan(0);
      producer.publish();
      expect(consumer.next()).toBeGreaterThan(0);
      expect(consumer.length).toBe(producer.maxRecordBytes);
      consumer.release();
    }
  });

  test('a large ring goes on where it is while the consumer has not released everything', () => {
    const sab = createRing(512 * 1024);
    const producer = new RingProducer(sab);
    const consumer = new RingConsumer(sab);
    for (let round = 0; round < 100; round++) {
      put(producer, 'x'.repeat(2000));
      producer.publish();
      expect(take(consumer)?.length).toBe(2000);
    }
    expect(consumer.position).toBe(100 * 2008);
    consumer.release();
    put(producer, 'first');
    put(producer, 'second');
    producer.publish();
    expect(consumer.next()).toBe(8);
    expect(take(consumer)).toBe('second');
  });

  test('what is skipped on the way to the start does not count as unpublished records', () => {
    const sab = createRing(512 * 1024);
    const producer = new RingProducer(sab);
    const consumer = new RingConsumer(sab);
    put(producer, 'x'.repeat(100_000));
    expect(producer.unpublishedBytes).toBe(100_008);
    producer.publish();
    expect(take(consumer)?.length).toBe(100_000);
    consumer.release();
    put(producer, 'first');
    expect(producer.unpublishedBytes).toBe(16);
    producer.publish();
    expect(producer.unpublishedBytes).toBe(0);
    expect(consumer.next()).toBe(8);
    put(producer, 'second');
    expect(producer.unpublishedBytes).toBe(16);
  });

  test('counters wrap at 2^32 without a gap', () => {
    const { producer, consumer } = pair(2 ** 32 - 3 * 1024);
    for (let i = 0; i < 400; i++) {
      expect(put(producer, `record ${i} ${'x'.repeat(i % 90)}`)).toBe(true);
      producer.publish();
      expect(take(consumer)).toBe(`record ${i} ${'x'.repeat(i % 90)}`);
      consumer.release();
    }
    expect(new Uint32Array(producer.header.buffer)[0]).toBeLessThan(100_000);
  });

  test('shrink gives the rest of the last record back', () => {
    const { producer, consumer } = pair();
    const at = producer.reserve(1000);
    producer.bytes.write('short', at, 'latin1');
    producer.shrink(at, 5);
    expect(producer.free()).toBe(CAPACITY - 16);
    put(producer, 'after');
    producer.publish();
    expect([take(consumer), take(consumer), take(consumer)]).toEqual(['short', 'after', undefined]);
  });

  test('only the last unpublished record shrinks, and it does not grow', () => {
    const { producer } = pair();
    const first = producer.reserve(100);
    const second = producer.reserve(100);
    expect(() => producer.shrink(first, 50)).toThrow(/not the last/);
    expect(() => producer.shrink(second, 101)).toThrow(TypeError);
    producer.shrink(second, 100);
    producer.shrink(second, 0);
    producer.publish();
    expect(() => producer.shrink(second, 0)).toThrow(/not the last/);
  });

  test('what a producer had not published is gone when another takes over', () => {
    const { sab, producer, consumer } = pair();
    put(producer, 'published');
    producer.publish();
    put(producer, 'lost with its thread');
    const successor = new RingProducer(sab);
    put(successor, 'from the next');
    successor.publish();
    expect([take(consumer), take(consumer), take(consumer)]).toEqual(['published', 'from the next', undefined]);
  });

  test('a new consumer starts at the first record that was not released', () => {
    const { sab, producer, consumer } = pair();
    for (const text of ['a', 'b', 'c']) put(producer, text);
    producer.publish();
    take(consumer);
    consumer.release();
    take(consumer);
    const successor = new RingConsumer(sab);
    expect([take(successor), take(successor), take(successor)]).toEqual(['b', 'c', undefined]);
  });

  test('user words are zero, shared by both ends and apart from the positions', () => {
    const { producer, consumer } = pair();
    for (let i = 0; i < RING_USER_LINES * RING_USER_LINE_WORDS; i++) {
      expect(producer.header[RING_USER_WORDS + i]).toBe(0);
      producer.header[RING_USER_WORDS + i] = -1;
    }
    put(producer, 'x');
    producer.publish();
    expect(take(consumer)).toBe('x');
    consumer.release();
    expect(consumer.header[RING_USER_WORDS]).toBe(-1);
  });

  test('wrong capacities and lengths are the caller’s mistakes', () => {
    for (const bytes of [0, 2048, 5000, 128 * 1024 * 1024, NaN, 4096.5])
      expect(() => createRing(bytes)).toThrow(TypeError);
    expect(() => new RingProducer(new SharedArrayBuffer(5000))).toThrow(TypeError);
    expect(() => new RingConsumer(new SharedArrayBuffer(100))).toThrow(TypeError);
    const { producer } = pair();
    for (const length of [-1, NaN, producer.maxRecordBytes + 1])
      expect(() => producer.reserve(length)).toThrow(TypeError);
  });
});

test('any order of reserve, shrink, publish, next and release equals a queue', () => {
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ op: fc.constant('reserve' as const), length: fc.integer({ min: 0, max: 700 }) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ op: fc.constant('reserve' as const), length: fc.integer({ min: 0, max: 2040 }) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ op: fc.constant('shrink' as const), part: fc.double({ min: 0, max: 1, noNaN: true }) }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ op: fc.constantFrom('publish' as const, 'release' as const, 'takeOver' as const) }),
    },
    { weight: 4, arbitrary: fc.record({ op: fc.constant('next' as const) }) },
  );
  const start = fc.oneof(
    fc.integer({ min: 0, max: 511 }).map((n) => n * 8),
    fc.integer({ min: 1, max: 1500 }).map((n) => 2 ** 32 - n * 8),
    fc.integer({ min: -1500, max: 1500 }).map((n) => 2 ** 31 + n * 8),
  );
  fc.assert(
    fc.property(start, fc.array(step, { maxLength: 300 }), (position, steps) => {
      const sab = ringAt(position);
      let producer = new RingProducer(sab);
      const consumer = new RingConsumer(sab);
      let serial = 0;
      let unpublished: { at: number; length: number; fill: number }[] = [];
      const published: { length: number; fill: number }[] = [];
      let usedAtMost = 0;
      let takenBytes = 0;
      for (const s of steps) {
        if (s.op === 'reserve') {
          const at = producer.reserve(s.length);
          // A skip wastes less than one record; without that much in use there must be room.
          if (at < 0) expect(usedAtMost + 2 * (s.length + 16)).toBeGreaterThan(CAPACITY);
          else {
            expect(at % 8).toBe(0);
            const fill = ++serial & 255;
            producer.bytes.fill(fill, at, at + s.length);
            unpublished.push({ at, length: s.length, fill });
          }
        } else if (s.op === 'shrink') {
          const last = unpublished.at(-1);
          if (last !== undefined) {
            last.length = Math.floor(last.length * s.part);
            producer.shrink(last.at, last.length);
          }
        } else if (s.op === 'publish') {
          producer.publish();
          for (const { length, fill } of unpublished) published.push({ length, fill });
          unpublished = [];
        } else if (s.op === 'takeOver') {
          unpublished = [];
          producer = new RingProducer(sab);
        } else if (s.op === 'next') {
          const at = consumer.next();
          const expected = published.shift();
          if (expected === undefined) expect(at).toBe(-1);
          else {
            expect(consumer.length).toBe(expected.length);
            expect(consumer.bytes.subarray(at, at + consumer.length).every((b) => b === expected.fill)).toBe(true);
            takenBytes += expected.length + 16;
          }
        } else {
          consumer.release();
          takenBytes = 0;
        }
        usedAtMost = CAPACITY - producer.free();
        expect(usedAtMost).toBeGreaterThanOrEqual(0);
        if (published.length === 0 && unpublished.length === 0 && takenBytes === 0) {
          consumer.release();
          expect(producer.free()).toBe(CAPACITY);
        }
      }
    }),
    { numRuns: 300 },
  );
});

describe('hostile bytes', () => {
  const codeOf = (run: () => unknown): string | undefined => {
    try {
      run();
      return undefined;
    } catch (error) {
      if (error instanceof ConcordError) return error.code;
      throw error;
    }
  };

  test('an impossible length is ERR_CORRUPT, at every further call too', () => {
    for (const [length, check] of [
      [5, 5],
      [CAPACITY, ~CAPACITY],
      [-2, ~-2],
      [17, ~17],
      [-1, 0],
      [-1, ~-1],
    ] as const) {
      const { producer, consumer } = pair();
      const at = producer.reserve(16);
      producer.words[(at >> 2) - 2] = length;
      producer.words[(at >> 2) - 1] = check;
      producer.publish();
      // 17 with a right check runs past what is published; the others cannot be at all.
      expect([length, codeOf(() => consumer.next())]).toEqual([length, 'ERR_CORRUPT']);
      expect(codeOf(() => consumer.next())).toBe('ERR_CORRUPT');
    }
  });

  test('positions that cannot be are ERR_CORRUPT', () => {
    for (const head of [CAPACITY + 8, -8, 4, 2 ** 31]) {
      const { producer, consumer } = pair();
      producer.header[0] = head | 0;
      expect([head, codeOf(() => consumer.pending())]).toEqual([head, 'ERR_CORRUPT']);
      expect([head, codeOf(() => consumer.next())]).toEqual([head, 'ERR_CORRUPT']);
    }
    const { producer } = pair();
    producer.header[16] = 64;
    expect(codeOf(() => producer.free())).toBe('ERR_CORRUPT');
  });

  test('a consumer over any bytes returns records inside the ring or ERR_CORRUPT, and comes to an end', () => {
    const word = fc.oneof(fc.integer(), fc.integer({ min: -2, max: 64 }));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(word, fc.boolean()), { minLength: 1, maxLength: 512 }),
        fc.integer({ min: 0, max: 512 }),
        fc.integer({ min: 0, max: 2 ** 29 - 1 }),
        (words, units, startUnits) => {
          const sab = ringAt(startUnits * 8);
          const consumer = new RingConsumer(sab);
          for (let i = 0; i < CAPACITY / 8; i++) {
            const [length, honest] = words[i % words.length]!;
            consumer.words[2 * i] = length;
            consumer.words[2 * i + 1] = honest ? ~length : length;
          }
          consumer.header[0] = (startUnits * 8 + units * 8) | 0;
          let count = 0;
          const code = codeOf(() => {
            for (let at; (at = consumer.next()) >= 0; count++) {
              expect(at >= 8 && consumer.length >= 0 && at + consumer.length <= CAPACITY).toBe(true);
              expect(count).toBeLessThan(CAPACITY / 8);
            }
          });
          expect([undefined, 'ERR_CORRUPT']).toContain(code);
        },
      ),
      { numRuns: 500 },
    );
    expect(RING_HEADER_BYTES).toBe(256);
  });
});

describe('threads', () => {
  test('a million records of random sizes arrive whole and in order, with both sides parking', async () => {
    const sab = createRing(64 * 1024);
    new Int32Array(sab, 0, 64).fill(-(2 ** 20), 0, 1).fill(-(2 ** 20), 16, 17);
    const count = 1_000_000;
    const consumer = startScene('ringConsumer', { sab, count });
    const producer = startScene('ringProducer', { sab, count, seed: 20_260 });
    const [sent, received] = await Promise.all([producer.message(), consumer.message()]);
    expect(received['hash']).toBe(sent['hash']);
    await Promise.all([ended(producer), ended(consumer)]);
  });

  test('a producer terminated anywhere leaves whole records without a gap', async () => {
    const sab = createRing(64 * 1024);
    const consumer = new RingConsumer(sab);
    let expected = 0;
    const drain = (): void => {
      for (let at; (at = consumer.next()) >= 0; expected++) {
        if (consumer.length !== 64) throw new Error(`record ${expected} has ${consumer.length} bytes`);
        for (let w = 0; w < 16; w++) {
          const n = consumer.words[(at >> 2) + w]!;
          if (n !== expected) throw new Error(`record ${expected} says ${n} in word ${w}`);
        }
      }
      consumer.release();
    };
    for (let round = 0; round < 10; round++) {
      const before = expected;
      const flood = startScene('ringFlood', { sab, first: expected });
      await flood.message();
      for (const end = performance.now() + 3 + round; performance.now() < end || expected < before + 100;) drain();
      const dying = flood.kill();
      await sleep(0);
      drain();
      await dying;
      drain();
    }
  });
});
