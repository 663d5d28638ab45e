/** Whether what a transaction has read still holds, on each engine. */
import { describe, expect, test } from 'vitest';
import { Durability } from '../../../dist/engines/store/shard-store.js';
import type { ShardStore } from '../../../dist/engines/store/shard-store.js';
import { Isolation, TransactionBody, TransactionBodyWriter } from '../../../dist/engines/txn/body.js';
import type { BodyIsolation } from '../../../dist/engines/txn/body.js';
import { Validator } from '../../../dist/engines/txn/validator.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { createStore, failure } from '../../support/store-scene.js';
import { ENGINES, appendWrites, commitGroup, newArena, spacesOf } from './workload.js';
import type { Write } from './workload.js';

const EXPIRES_MS = 1_000_000;
const BEFORE_MS = EXPIRES_MS - 5;
const AFTER_MS = EXPIRES_MS + 5;

interface Read {
  readonly key: string;
  readonly seq: number;
  readonly space?: number;
}

interface Range {
  readonly low?: string;
  readonly high?: string;
}

interface Txn {
  readonly isolation?: BodyIsolation;
  readonly snapshot?: number;
  readonly readMs?: number;
  readonly reads?: readonly Read[];
  readonly ranges?: readonly Range[];
  readonly writes?: readonly string[];
}

class Scene {
  readonly store: ShardStore;
  readonly #validator: Validator;
  readonly #body = new TransactionBody();
  readonly #writer = new TransactionBodyWriter();
  readonly #snapshots: number[] = [];

  constructor(engine: string) {
    this.store = createStore(new MemEnv({ seed: 1 }), { spaces: spacesOf(engine), arena: newArena(16 << 20) });
    this.#validator = new Validator(this.store);
  }

  /** One group; a value of undefined deletes. */
  write(values: Readonly<Record<string, string | undefined>>, expiresAt = 0): void {
    const writes = Object.entries(values).map(([key, value]): Write => ({
      space: 0,
      key,
      value: value === undefined ? undefined : Buffer.from(value),
      expiresAt,
    }));
    this.store.beginGroup();
    appendWrites(this.store, writes);
    commitGroup(this.store, Durability.Os, this.store.publishedSeq + 1, this.#snapshots);
  }

  snapshot(): number {
    this.#snapshots.push(this.store.publishedSeq);
    return this.store.publishedSeq;
  }

  seq(key: string, atMs = BEFORE_MS): number {
    const bytes = Buffer.from(key);
    return this.store.versionOf(this.store.spaces.require(0), bytes, 0, bytes.length, atMs);
  }

  /** The key of the conflict; undefined: none. */
  conflict(txn: Txn): string | undefined {
    const { isolation = Isolation.Serializable, snapshot = 0, readMs = BEFORE_MS } = txn;
    const { reads = [], ranges = [], writes = [] } = txn;
    const writer = this.#writer;
    writer.begin(isolation, false, 1, snapshot, readMs, 1, 0, 0);
    for (const { key, seq, space = 0 } of reads) writer.addRead(space, Buffer.from(key), key.length, seq);
    for (const { low, high } of ranges) {
      const bound = (key: string | undefined): Buffer | undefined => (key === undefined ? undefined : Buffer.from(key));
      writer.addRange(0, bound(low), bound(high));
    }
    for (const key of writes) writer.addPut(0, Buffer.from(key), key.length, Buffer.from('w'), 1, 0);
    const { bytes, length } = writer.seal();
    return this.#validator.validate(this.#body.open(bytes, 0, length))?.key.toString();
  }
}

describe.each(ENGINES)('on %s', (engine) => {
  test('a serializable transaction holds while each key it read has the version it saw', () => {
    const scene = new Scene(engine);
    scene.write({ a: '1', b: '1' });
    const reads = ['a', 'b', 'c'].map((key) => ({ key, seq: scene.seq(key) }));
    expect(reads[2]!.seq).toBe(0);
    expect(scene.conflict({ reads })).toBeUndefined();
    scene.write({ d: '1' });
    expect(scene.conflict({ reads, writes: ['d'] })).toBeUndefined();
    scene.write({ b: '2' });
    expect(scene.conflict({ reads })).toBe('b');
    expect(scene.conflict({ reads: [reads[0]!, { key: 'b', seq: scene.seq('b') }, reads[2]!] })).toBeUndefined();
  });

  test('a key that has come, and one that has gone, are conflicts; one that came and went is none', () => {
    const scene = new Scene(engine);
    scene.write({ a: '1' });
    const reads = ['a', 'b'].map((key) => ({ key, seq: scene.seq(key) }));
    scene.write({ b: '1' });
    expect(scene.conflict({ reads })).toBe('b');
    scene.write({ b: undefined });
    expect(scene.conflict({ reads })).toBeUndefined();
    scene.write({ a: undefined });
    expect(scene.conflict({ reads })).toBe('a');
    // Written anew it is another version.
    scene.write({ a: '1' });
    expect(scene.conflict({ reads })).toBe('a');
  });

  test('an entry that has expired meanwhile is judged by the time of the transaction', () => {
    const scene = new Scene(engine);
    scene.write({ a: '1' }, EXPIRES_MS);
    const { publishedSeq: seq } = scene.store;
    expect(scene.conflict({ reads: [{ key: 'a', seq }], readMs: BEFORE_MS })).toBeUndefined();
    expect(scene.conflict({ reads: [{ key: 'a', seq: 0 }], readMs: BEFORE_MS })).toBe('a');
    expect(scene.conflict({ reads: [{ key: 'a', seq: 0 }], readMs: AFTER_MS })).toBeUndefined();
    expect(scene.conflict({ reads: [{ key: 'a', seq }], readMs: AFTER_MS })).toBe('a');
  });

  test('a key read in a space that was dropped fails with its code', () => {
    const scene = new Scene(engine);
    scene.store.dropSpace(2);
    expect(failure(() => scene.conflict({ reads: [{ key: 'a', seq: 0, space: 2 }] })).code).toBe('ERR_SPACE_DROPPED');
  });

  test('a range holds while its keys and their versions are those of its snapshot', () => {
    const scene = new Scene(engine);
    scene.write({ b: '1', d: '1', f: '1', h: '1' });
    const snapshot = scene.snapshot();
    const all: Range[] = [{}];
    const part: Range[] = [{ low: 'c', high: 'g' }];
    const conflict = (ranges: readonly Range[]): string | undefined => scene.conflict({ ranges, snapshot });
    expect([conflict(all), conflict(part)]).toEqual([undefined, undefined]);
    scene.write({ b: '2' });
    expect([conflict(all), conflict(part)]).toEqual(['b', undefined]);
    // The high bound is not in it, the low one is.
    scene.write({ g: '1' });
    expect(conflict(part)).toBeUndefined();
    expect(conflict([{ low: 'c', high: 'g\0' }])).toBe('g');
    scene.write({ e: '1' });
    expect(conflict(part)).toBe('e');
    scene.write({ e: undefined });
    expect(conflict(part)).toBeUndefined();
    scene.write({ f: undefined });
    expect([conflict(part), conflict([{ low: 'd', high: 'e' }]), conflict([{ low: 'f' }])]).toEqual([
      'f',
      undefined,
      'f',
    ]);
    scene.write({ f: '1' });
    expect(conflict(part)).toBe('f');
    expect(conflict([{ low: 'h' }])).toBeUndefined();
    scene.write({ i: '1' });
    expect(conflict([{ low: 'h' }])).toBe('i');
    expect(conflict([{ low: 'x', high: 'z' }])).toBeUndefined();
  });

  test('a change at any place of a range of thousands of keys is found, and nothing is where nothing has changed', () => {
    const scene = new Scene(engine);
    const keyOf = (index: number): string => `key-${String(index).padStart(5, '0')}`;
    for (let from = 0; from < 3000; from += 500) {
      scene.write(Object.fromEntries(Array.from({ length: 500 }, (_, i) => [keyOf(2 * (from + i)), 'v'])));
    }
    const random = new Random(5);
    for (const index of [0, 1023, 1024, 2999, random.below(3000)]) {
      const snapshot = scene.snapshot();
      expect(scene.conflict({ ranges: [{}], snapshot })).toBeUndefined();
      // One that comes, and the one before it goes.
      for (const [key, value] of [
        [keyOf(2 * index + 1), 'new'],
        [keyOf(2 * index), undefined],
      ] as const) {
        scene.write({ [key]: value });
        expect(scene.conflict({ ranges: [{}], snapshot }), key).toBe(key);
        expect(scene.conflict({ ranges: [{ low: `${keyOf(2 * index + 1)}\0` }], snapshot }), key).toBeUndefined();
        expect(scene.conflict({ ranges: [{ high: keyOf(2 * index) }], snapshot }), key).toBeUndefined();
      }
    }
  });

  test('a read-committed transaction always holds', () => {
    const scene = new Scene(engine);
    scene.write({ a: '1' });
    const reads = [{ key: 'a', seq: 99 }];
    expect(scene.conflict({ isolation: Isolation.ReadCommitted, reads, writes: ['a'] })).toBeUndefined();
  });
});
