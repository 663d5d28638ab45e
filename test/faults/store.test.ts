/**
 * One disk fault at each file operation of a workload on a shard store, one run per place. Whatever fails, fails with a code; what is
 * visible is what was acknowledged; and a reopened store has all of it that was handed to the disk.
 *
 *   FAULT_WORKLOADS=10   more workloads (default 1)
 */
import { describe, expect, test } from 'vitest';
import { Durability } from '../../dist/engines/store/shard-store.js';
import type { ShardStore } from '../../dist/engines/store/shard-store.js';
import { preallocateSegment } from '../../dist/engines/wal/preallocate.js';
import { FaultEnv } from '../../dist/shared/env/fault-env.js';
import type { FaultOperation, FaultRule } from '../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { ConcordError } from '../../dist/shared/errors.js';
import { Random } from '../../dist/shared/random.js';
import {
  DIRECTORY,
  SEGMENT_BYTES,
  applied,
  buildGroup,
  checkpoint,
  createStore,
  openStore,
  readState,
  stateText,
} from '../support/store-scene.js';
import type { Operation, State } from '../support/store-scene.js';

const SEEDS = Array.from({ length: Number(process.env.FAULT_WORKLOADS ?? 1) }, (_, index) => index + 1);
const STEPS = 70;
/** A full disk cannot be opened for writing. */
const SPACE = { capacityBytes: Infinity };
const CODES = ['ERR_DISK_FULL', 'ERR_IO'];

interface Group {
  readonly lsn: number;
  readonly state: State;
}

/** A workload that goes on over failures, and what it knows. */
class Run {
  readonly disk = new MemEnv();
  readonly env = new FaultEnv(this.disk);
  readonly store: ShardStore;
  /** Acknowledged groups, in order. */
  readonly groups: Group[] = [{ lsn: 0, state: new Map() }];
  /** A group whose sync failed: it may or may not be on disk. */
  doubtful: Group | undefined;
  readonly failures: string[] = [];
  readonly #random: Random;
  #nextSeq = 1;
  #step = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
    createStore(this.disk).close();
    this.store = openStore(this.env);
  }

  run(steps: number): void {
    for (const end = this.#step + steps; this.#step < end; this.#step++) this.#act();
  }

  #act(): void {
    const random = this.#random;
    const { store, env } = this;
    const dice = random.below(100);
    // Drawn whatever happens, so that every run does the same until its fault.
    const operations = this.#operations(random.pick([1, 2, 10]));
    const level = random.pick([Durability.Memory, Durability.Os, Durability.Sync]);
    if (dice < 70) this.#group(operations, level);
    else if (dice < 76) this.#attempt(() => store.sync());
    else if (dice < 82) this.#attempt(() => store.writeOut());
    else if (dice < 93) this.#attempt(() => checkpoint(env, store));
    else this.#attempt(() => store.log.offerSpare(preallocateSegment(env, DIRECTORY, SEGMENT_BYTES)));
  }

  #operations(count: number): Operation[] {
    const random = this.#random;
    return Array.from({ length: count }, (): Operation => {
      const key = `key-${random.below(30)}`;
      const kind = random.below(10);
      if (kind === 0) return { kind: 'clear', low: key, high: `${key}9` };
      if (kind < 3) return { kind: 'del', key };
      return { kind: 'put', key, value: random.bytes(random.pick([0, 30, 300, 2500, 4500])) };
    });
  }

  #group(operations: readonly Operation[], level: 0 | 1 | 2): void {
    const { store } = this;
    const state = applied(this.groups.at(-1)!.state, operations);
    const before = store.log.lastLsn;
    const firstSeq = this.#nextSeq;
    this.#attempt(() => {
      this.#nextSeq += buildGroup(store, operations);
      store.commit(level, firstSeq, () => {
        store.setSnapshots(new Float64Array(0), 0);
      });
      this.groups.push({ lsn: store.log.lastLsn, state });
    });
    // The frame was written, its sync failed.
    if (store.log.lastLsn > before && this.groups.at(-1)!.lsn !== store.log.lastLsn)
      this.doubtful = { lsn: store.log.lastLsn, state };
  }

  #attempt(work: () => void): void {
    try {
      work();
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      this.store.discardGroup();
      this.failures.push(error.code);
      expect(CODES).toContain(error.code);
      expect(String(error.details.file)).toContain(DIRECTORY);
    }
  }

  /** Memory shows what was acknowledged, and both kinds of reopening find what they must. */
  verify(where: string): void {
    const { store, groups, disk } = this;
    expect(stateText(readState(store)), where).toBe(stateText(groups.at(-1)!.state));
    expect(store.tree.check(), where).toEqual([]);
    this.#verifyReopened(disk.crash(new Random(1), 'keep-all', SPACE), store.log.writtenLsn, `${where}, killed`);
    this.#verifyReopened(disk.crash(new Random(1), 'drop-all', SPACE), store.log.syncedLsn, `${where}, power lost`);
    this.#verifyReopened(disk.crash(new Random(2), 'random', SPACE), store.log.syncedLsn, `${where}, power lost`);
  }

  #verifyReopened(disk: MemEnv, safeLsn: number, where: string): void {
    const reopened = openStore(disk);
    const found = stateText(readState(reopened));
    const possible = this.groups.filter(
      (group, i) => group.lsn >= safeLsn || (this.groups[i + 1]?.lsn ?? Infinity) > safeLsn,
    );
    if (this.doubtful !== undefined) possible.push(this.doubtful);
    expect(
      possible.map((group) => stateText(group.state)),
      where,
    ).toContain(found);
    expect(reopened.tree.check(), where).toEqual([]);
  }
}

interface Scenario {
  readonly name: string;
  readonly operation: FaultOperation;
  readonly fault: Partial<FaultRule> & Pick<FaultRule, 'error'>;
  /** The log may refuse everything afterwards. */
  readonly mayEnd: boolean;
}

const SCENARIOS: readonly Scenario[] = [
  { name: 'no space for one write', operation: 'write', fault: { error: 'ENOSPC' }, mayEnd: false },
  { name: 'no space for some writes', operation: 'write', fault: { error: 'ENOSPC', times: 6 }, mayEnd: false },
  {
    name: 'a write cut short by a full disk',
    operation: 'write',
    fault: { error: 'ENOSPC', shortWriteBytes: 700 },
    mayEnd: false,
  },
  {
    name: 'a write cut short by an I/O error',
    operation: 'write',
    fault: { error: 'EIO', shortWriteBytes: 49 },
    mayEnd: false,
  },
  { name: 'no space for a new file', operation: 'create', fault: { error: 'ENOSPC' }, mayEnd: false },
  { name: 'a failed sync', operation: 'sync', fault: { error: 'EIO' }, mayEnd: true },
  { name: 'a failed rename', operation: 'rename', fault: { error: 'EIO' }, mayEnd: false },
  { name: 'a failed removal', operation: 'remove', fault: { error: 'EIO' }, mayEnd: false },
  { name: 'a failed sync of the directory', operation: 'syncDirectory', fault: { error: 'EIO' }, mayEnd: true },
];

/** How often each operation is called without faults. */
function countOperations(seed: number): (operation: FaultOperation) => number {
  const run = new Run(seed);
  const before = new Map(SCENARIOS.map(({ operation }) => [operation, run.env.count(operation)]));
  run.run(STEPS);
  expect(run.failures).toEqual([]);
  run.verify('without a fault');
  return (operation) => run.env.count(operation) - before.get(operation)!;
}

describe.each(SEEDS)('a fault at each place of workload %i', (seed) => {
  const count = countOperations(seed);

  test.each(SCENARIOS)('$operation: $name', ({ operation, fault, mayEnd }) => {
    const places = count(operation);
    expect(places).toBeGreaterThan(3);
    let failed = 0;
    for (let place = 0; place < places; place++) {
      const run = new Run(seed);
      const rule = run.env.addRule({ operation, after: place, times: 1, ...fault });
      run.run(STEPS);
      const where = `${operation} ${place} of workload ${seed}`;
      expect(rule.firedCount, where).toBeGreaterThan(0);
      run.verify(where);
      failed += run.failures.length;
      // The fault is over: what follows works, unless the log has ended.
      run.env.removeAllRules();
      const before = run.failures.length;
      run.run(20);
      const hasEnded = run.failures.length > before;
      if (hasEnded)
        expect({ mayEnd, codes: new Set(run.failures.slice(before)) }, where).toEqual({
          mayEnd: true,
          codes: new Set(['ERR_IO']),
        });
      run.verify(`${where}, later`);
    }
    expect(failed).toBeGreaterThan(0);
  });
});

test('a disk that fills up and empties again and again loses nothing that was acknowledged', () => {
  for (let seed = 1; seed <= 10; seed++) {
    const run = new Run(seed);
    for (let round = 0; round < 6; round++) {
      // Nearly full: what is left is used up at some place in the middle.
      run.disk.setCapacity(run.disk.usedBytes + 4096 * ((seed + round) % 12));
      run.run(25);
      run.verify(`seed ${seed}, round ${round}`);
      run.disk.setCapacity(Infinity);
      const failures = run.failures.length;
      run.run(8);
      expect(run.failures.length).toBe(failures);
    }
    expect(run.failures).toContain('ERR_DISK_FULL');
  }
});
