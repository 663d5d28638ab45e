/**
 * A tree without files: tables are lists of numbers, merges are made at once or later. For what the picker chooses over a long time, and for checks that share
 * nothing with it.
 */
import { pickCompaction } from '../../../../dist/engines/lsm/compaction/picker.js';
import type { CompactionPlan, PickState } from '../../../../dist/engines/lsm/compaction/plan.js';
import { tasksOf } from '../../../../dist/engines/lsm/compaction/split.js';
import type { CompactionTask, LsmOptions, TableInfo } from '../../../../dist/engines/lsm/types.js';
import { expect } from '../../../support/expect.js';

export const ENTRY_BYTES = 100;

export function keyOf(number: number): Uint8Array {
  const key = Buffer.alloc(6);
  key.writeUIntBE(number, 0, 6);
  return new Uint8Array(key);
}

export function numberOf(key: Uint8Array): number {
  return Buffer.from(key).readUIntBE(0, 6);
}

export function tableOf(number: number, level: number, run: number, keys: readonly number[], seq = number): TableInfo {
  return {
    number,
    level,
    run,
    bytes: keys.length * ENTRY_BYTES,
    entries: keys.length,
    keys: keys.length,
    tombstones: 0,
    rawBytes: keys.length * ENTRY_BYTES,
    smallestKey: keyOf(keys[0]!),
    largestKey: keyOf(keys.at(-1)!),
    smallestSeq: seq,
    largestSeq: seq,
    expiring: 0,
    firstExpiry: 0,
    lastExpiry: 0,
    blobs: [],
    createdAt: 1000,
  };
}

/** Smaller is newer. */
function age(level: number, run: number): number {
  return level === 0 ? -run : level;
}

export class Simulation {
  tables = new Map<number, TableInfo>();
  keys = new Map<number, readonly number[]>();
  running: CompactionPlan[] = [];
  nextFile = 1;
  run = 0;
  /** One for all entries of a flush. */
  seq = 0;
  nowMs = 1000;
  flushedBytes = 0;
  writtenBytes = 0;
  plans = new Map<string, number>();

  constructor(
    readonly options: LsmOptions,
    readonly parallelism: number,
    /** Whether each plan is looked at: that takes longer than all else. */
    readonly isChecked = true,
  ) {}

  state(changes: Partial<PickState> = {}): PickState {
    return {
      tables: [...this.tables.values()],
      blobs: [],
      tombstones: [],
      snapshots: [],
      memtableSeq: Infinity,
      nowMs: this.nowMs,
      isIdle: false,
      ...changes,
    };
  }

  flush(numbers: readonly number[]): void {
    this.run++;
    this.seq++;
    const keys = [...new Set(numbers)].sort((a, b) => a - b);
    this.flushedBytes += this.#write(0, this.run, keys, this.seq, this.seq);
  }

  get level0Runs(): number {
    return new Set([...this.tables.values()].filter(({ level }) => level === 0).map(({ run }) => run)).size;
  }

  bytesOf(level: number): number {
    return [...this.tables.values()].reduce((sum, table) => sum + (table.level === level ? table.bytes : 0), 0);
  }

  /** In tables of tableBytes. */
  #write(level: number, run: number, keys: readonly number[], smallestSeq: number, largestSeq: number): number {
    const step = Math.max(1, Math.floor(this.options.tableBytes / ENTRY_BYTES));
    let bytes = 0;
    for (let first = 0; first < keys.length; first += step) {
      const some = keys.slice(first, first + step);
      const own = tableOf(this.nextFile++, level, run, some);
      const table = { ...own, smallestSeq, largestSeq, createdAt: this.nowMs };
      this.tables.set(table.number, table);
      this.keys.set(table.number, some);
      bytes += table.bytes;
    }
    this.writtenBytes += bytes;
    return bytes;
  }

  pick(changes: Partial<PickState> = {}): CompactionPlan | undefined {
    const plan = pickCompaction(this.state(changes), this.options, this.running);
    if (plan !== undefined && this.isChecked) this.check(plan);
    return plan;
  }

  tasks(plan: CompactionPlan): CompactionTask[] {
    return tasksOf(
      plan,
      {
        directory: '/',
        identity: { storeId: new Uint8Array(16), shard: 0, tree: 1 },
        options: this.options,
        snapshots: [],
        tombstones: [],
        nowMs: this.nowMs,
        takeFiles: (count) => (this.nextFile += count) - count,
        cancel: new Int32Array(1),
        rate: undefined,
      },
      this.parallelism,
    );
  }

  /** What every plan must hold to, said in other words than the picker's. */
  check(plan: CompactionPlan): void {
    const inputs = plan.inputs.flat();
    const chosen = new Set(inputs.map(({ number }) => number));
    expect(chosen.size, 'no table twice').toBe(inputs.length);
    const taken = new Set(this.running.flatMap((other) => other.inputs.flat().map(({ number }) => number)));
    let before = -Infinity;
    for (const run of plan.inputs) {
      expect(run.length).toBeGreaterThan(0);
      const ages = new Set(run.map((table) => age(table.level, table.run)));
      expect(ages.size, 'an input run is a part of one run').toBe(1);
      const [ownAge] = [...ages];
      expect(ownAge!, 'runs come newest first').toBeGreaterThan(before);
      before = ownAge!;
      for (let index = 1; index < run.length; index++) {
        expect(numberOf(run[index - 1]!.largestKey)).toBeLessThan(numberOf(run[index]!.smallestKey));
      }
    }
    for (const table of inputs) {
      expect(this.tables.get(table.number), 'an input is a table of the tree').toBe(table);
      expect(taken.has(table.number), 'an input is in no running plan').toBe(false);
    }
    if (plan.kind === 'drop') return;
    const outputAge = age(plan.outputLevel, plan.outputRun);
    const smallest = Math.min(...inputs.map((table) => numberOf(table.smallestKey)));
    const largest = Math.max(...inputs.map((table) => numberOf(table.largestKey)));
    expect([numberOf(plan.smallest!), numberOf(plan.largest!)]).toEqual([smallest, largest]);
    const oldest = Math.max(outputAge, ...inputs.map((table) => age(table.level, table.run)));
    const bounds = inputs.map((table) => ({
      low: numberOf(table.smallestKey),
      high: numberOf(table.largestKey),
      own: age(table.level, table.run),
    }));
    const older = plan.olderRanges.map(([low, high]) => [numberOf(low), numberOf(high)] as const);
    for (const table of this.tables.values()) {
      if (chosen.has(table.number)) continue;
      const ownAge = age(table.level, table.run);
      const [low, high] = [numberOf(table.smallestKey), numberOf(table.largestKey)];
      for (const input of bounds) {
        if (input.low > high || input.high < low) continue;
        const isBetween = (ownAge > input.own && ownAge <= outputAge) || (ownAge < input.own && ownAge >= outputAge);
        if (isBetween)
          throw new Error(`table ${table.number} of level ${table.level} lies between an input and the output`);
      }
      const isInBounds = low <= largest && high >= smallest;
      if (plan.kind === 'merge' && ownAge === outputAge && isInBounds) {
        throw new Error(`table ${table.number} lies where the output comes to lie`);
      }
      if (plan.kind === 'merge' && ownAge > oldest && isInBounds) {
        const isTold = older.some((range) => range[0] <= low && high <= range[1]);
        if (!isTold) throw new Error(`table ${table.number} is older and not told of`);
      }
    }
    for (const other of this.running) {
      if (other.kind === 'drop' || age(other.outputLevel, other.outputRun) !== outputAge) continue;
      const isApart = numberOf(other.largest!) < smallest || numberOf(other.smallest!) > largest;
      expect(isApart || plan.outputLevel === 0, 'outputs of plans lie apart').toBe(true);
    }
  }

  start(plan: CompactionPlan): void {
    this.plans.set(plan.cause, (this.plans.get(plan.cause) ?? 0) + 1);
    this.running.push(plan);
    if (plan.kind !== 'merge') this.finish(this.running.length - 1);
  }

  finish(index: number): void {
    const [plan] = this.running.splice(index, 1);
    const inputs = plan!.inputs.flat();
    const merged = new Set<number>();
    for (const table of inputs) {
      this.tables.delete(table.number);
      if (plan!.kind === 'merge') {
        for (const key of this.keys.get(table.number)!) merged.add(key);
      }
      if (plan!.kind === 'move') this.tables.set(table.number, { ...table, level: plan!.outputLevel, run: 0 });
      else this.keys.delete(table.number);
    }
    if (plan!.kind === 'merge') {
      this.#write(
        plan!.outputLevel,
        plan!.outputRun,
        [...merged].sort((a, b) => a - b),
        Math.min(...inputs.map((table) => table.smallestSeq)),
        Math.max(...inputs.map((table) => table.largestSeq)),
      );
    }
    if (this.isChecked) this.checkRuns();
  }

  /** Tables of a run never meet. */
  checkRuns(): void {
    const runs = new Map<number, TableInfo[]>();
    for (const table of this.tables.values()) {
      const own = age(table.level, table.run);
      runs.set(own, [...(runs.get(own) ?? []), table]);
    }
    for (const run of runs.values()) {
      run.sort((a, b) => numberOf(a.smallestKey) - numberOf(b.smallestKey));
      for (let index = 1; index < run.length; index++) {
        const [before, table] = [run[index - 1]!, run[index]!];
        if (numberOf(before.largestKey) >= numberOf(table.smallestKey)) {
          throw new Error(`tables ${before.number} and ${table.number} of level ${table.level} meet`);
        }
      }
    }
  }

  /** Starts what may run, up to the parallelism. */
  startAll(changes: Partial<PickState> = {}): void {
    while (this.running.length < this.parallelism) {
      const plan = this.pick(changes);
      if (plan === undefined) return;
      this.start(plan);
    }
  }

  settle(changes: Partial<PickState> = {}, plansMax = 2000): number {
    let plans = 0;
    for (this.startAll(changes); this.running.length > 0; this.startAll(changes)) {
      this.finish(0);
      if (++plans > plansMax) throw new Error(`more than ${plansMax} plans`);
    }
    return plans;
  }
}
