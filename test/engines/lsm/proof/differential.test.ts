/**
 * A B+Tree and an LSM-Tree with tiny limits live the same life in one shard, and answer alike after every step: writes, batches, long values, clears, expiry,
 * snapshots, flushes, compactions, failing jobs, full disks, checkpoints, restarts, deaths of threads and power losses between any two operations on files.
 *
 *   SEED=7                        one life, of each shape
 *   DIFFERENTIAL_STEPS=5000       longer ones (default 260)
 *   DIFFERENTIAL_SECONDS=600      more of them, for so long
 */
import { expect, test } from 'vitest';
import { Durability } from '../../../../dist/engines/store/shard-store.js';
import { CrashSignal } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import type { LsmTuning } from '../../../../dist/engines/lsm/options.js';
import { TINY } from '../store/scene.js';
import { Pair, START_MS, type Change } from './pair.js';

const { SEED, DIFFERENTIAL_STEPS, DIFFERENTIAL_SECONDS } = process.env;
const STEPS = Number(DIFFERENTIAL_STEPS ?? 260);
const SECONDS = Number(DIFFERENTIAL_SECONDS ?? 0);

const SHAPES: Readonly<Record<string, LsmTuning>> = {
  leveled: { ...TINY, bitsPerKey: 'monkey' },
  'in blob files': {
    ...TINY,
    blobValueBytes: 150,
    blobFileBytes: 32 << 10,
    blobGarbagePercent: 30,
    compression: 'none',
  },
  tiered: { ...TINY, compaction: 'tiered', level0Runs: 3, prefixFilterBytes: 3 },
};

const FILLER = 'abcdefghijklmnopqrstuvwxyz0123456789'.repeat(4000);

/** Keys of one length, beginnings of each other, and with much in common. */
const KEY_SHAPES = [
  (index: number): string => `k${String(index).padStart(5, '0')}`,
  (index: number): string => index.toString(3).replace(/0+$/, ''),
  (index: number): string => `${'prefix/'.repeat(index % 3 === 0 ? 60 : 2)}${index}`,
];

class Differential {
  readonly events: Record<string, number> = {};
  deepest = 0;
  readonly #random: Random;
  readonly #pair: Pair;
  readonly #keys: number;
  readonly #keyShape: (index: number) => string;
  /** Operations on files until the thread dies; Infinity: it does not. */
  #fuse = Infinity;
  #isAdoptable = true;
  #values = 0;
  readonly #memOptions = {
    // The clock of the disk: what a recovery goes by. It stands still, as what expires must not go before the test says so.
    startMs: START_MS,
    onOperation: (): void => {
      if (this.#fuse-- <= 0) throw new CrashSignal();
    },
  };

  constructor(tuning: LsmTuning, seed: number) {
    const random = new Random(seed);
    this.#random = random;
    this.#keys = random.pick([60, 300, 1200]);
    this.#keyShape = random.pick(KEY_SHAPES);
    const details: LsmTuning = {
      blockBytes: random.pick([512, 1024, 4096]),
      restartInterval: random.pick([1, 2, 16]),
      bitsPerKey: random.pick([0, 4, 10, 'monkey']),
      prefixFilterBytes: random.pick([0, 0, 2, 5]),
      level0Runs: random.pick([1, 2, 4]),
      tableBytes: random.pick([4 << 10, 16 << 10, 64 << 10]),
    };
    this.#pair = new Pair({ ...tuning, ...details }, seed, 1 + random.below(3), this.#memOptions);
  }

  readonly #key = (): string => this.#keyShape(this.#random.below(this.#keys));

  #expiry(): number {
    return this.#random.below(8) === 0 ? this.#pair.nowMs + 1 + this.#random.below(40_000) : 0;
  }

  #value(bytesMax: number): string {
    return `${++this.#values}:${FILLER.slice(0, this.#random.below(bytesMax))}`;
  }

  readonly #change = (): Change => {
    const random = this.#random;
    const roll = random.below(100);
    if (roll < 78) {
      return {
        kind: 'put',
        key: this.#key(),
        value: this.#value(random.pick([20, 250, 250, 2000])),
        expiresAt: this.#expiry(),
      };
    }
    if (roll < 98) return { kind: 'del', key: this.#key() };
    const [low, high] = [this.#key(), this.#key()].sort();
    return {
      kind: 'clear',
      low: random.below(6) === 0 ? undefined : low,
      high: random.below(6) === 0 ? undefined : high,
    };
  };

  #changes(max: number): Change[] {
    return Array.from({ length: 1 + this.#random.below(max) }, this.#change);
  }

  readonly #actions: Readonly<Record<string, readonly [weight: number, () => void]>> = {
    write: [60, () => { if (!this.#isStopped) this.#pair.commit(this.#changes(30), this.#random.below(15) === 0 ? Durability.Sync : Durability.Os); }],
    batch: [4, () => { if (!this.#isStopped) this.#pair.commitBatch(this.#changes(200)); }],
    large: [3, () => { if (!this.#isStopped) this.#pair.commitLarge(this.#key(), Buffer.from(this.#value(100_000)), this.#expiry()); }],
    work: [8, () => { this.#pair.work(); }],
    job: [22, () => { this.#job(); }],
    flush: [3, () => { this.#pair.flush(); }],
    compact: [2, () => {
      if (this.#random.below(2) === 0) this.#pair.compact();
      else this.#pair.compact(...[this.#key(), this.#key()].sort());
    }],
    openSnapshot: [4, () => { if (this.#pair.snapshots.length < 5) this.#pair.openSnapshot(); }],
    closeSnapshot: [4, () => { if (this.#pair.snapshots.length > 0) this.#pair.closeSnapshot(this.#random.below(this.#pair.snapshots.length)); }],
    time: [4, () => { this.#pair.nowMs += this.#random.below(15_000); }],
    expire: [4, () => { this.#pair.expire(); }],
    checkpoint: [2, () => { this.#pair.checkpoint(); }],
    fullDisk: [1, () => {
      this.#pair.env.fillDisk(/lsm-/);
      for (let round = 0; round < 4; round++) this.#job();
      this.#pair.env.freeDisk();
      this.#pair.nowMs += 60_000;
    }],
    reopen: [2, () => { this.#pair.reopen(); }],
    fuse: [3, () => { if (this.#fuse === Infinity) this.#fuse = this.#random.below(60); }],
  }; // prettier-ignore

  get #isStopped(): boolean {
    return this.#pair.tree.flow().state === 'stopped';
  }

  #job(): void {
    const { jobs } = this.#pair;
    this.#pair.work();
    if (this.#random.below(15) > 0) jobs.runNext();
    else jobs.runNext(() => ({ error: { code: 'ERR_IO', message: 'a worker died', details: {} } }));
    if (this.#random.below(2) === 0) this.#pair.work();
  }

  /** Its end, and that of the successor if it dies, too. */
  #die(): void {
    const random = this.#random;
    for (let again = random.below(3) === 0; ; again = random.below(2) === 0) {
      this.#fuse = again ? random.below(20) : Infinity;
      const end = random.pick(['adopt', 'kill', 'power loss']);
      try {
        if (end === 'adopt' && this.#isAdoptable) this.#pair.adopt(random, this.#memOptions);
        else this.#pair.powerLoss(random, end === 'power loss' ? 'random' : 'keep-all', this.#memOptions);
        this.#isAdoptable = true;
        this.#count(end);
        if (this.#fuse >= 0) return;
        this.#isAdoptable = false;
      } catch (error) {
        if (this.#fuse >= 0) throw error;
        // One that died while it began has published nothing whole: the next begins with new memory.
        this.#isAdoptable = false;
      }
    }
  }

  #count(event: string): void {
    this.events[event] = (this.events[event] ?? 0) + 1;
  }

  #compare(): void {
    const difference = this.#pair.difference(this.#random, this.#key);
    if (difference !== undefined) throw new Error(difference);
  }

  run(steps: number): this {
    const names = Object.keys(this.#actions);
    const total = names.reduce((sum, name) => sum + this.#actions[name]![0], 0);
    for (let step = 0; step < steps; step++) {
      let roll = this.#random.below(total);
      const name = names.find((candidate) => (roll -= this.#actions[candidate]![0]) < 0)!;
      this.#count(name);
      try {
        this.#actions[name]![1]();
        if (this.#fuse < 0) throw new CrashSignal();
        if (step % 4 === 0 || name === 'reopen' || name === 'compact') this.#compare();
      } catch (error) {
        // Many a handler has made another error of it.
        if (this.#fuse >= 0) throw error;
        this.#isAdoptable = name !== 'reopen';
        this.#die();
        this.#fuse = Infinity;
        this.#compare();
      }
      this.#pair.tree.figures().levels.forEach(({ level, tables }) => {
        if (tables > 0) this.deepest = Math.max(this.deepest, level);
      });
    }
    this.#fuse = Infinity;
    this.#pair.settle();
    this.#compare();
    this.#pair.compact();
    this.#compare();
    this.#pair.close();
    return this;
  }
}

function live(shape: string, seed: number): Differential {
  const command = `SEED=${seed} DIFFERENTIAL_STEPS=${STEPS} npx vitest run test/engines/lsm/proof/differential.test.ts -t '${shape}'`;
  console.log(`replay: ${command}`);
  try {
    return new Differential(SHAPES[shape]!, seed).run(STEPS);
  } catch (error) {
    throw new Error(`seed ${seed}, ${shape}; replay: ${command}`, { cause: error });
  }
}

const fresh = Math.floor(Math.random() * 2 ** 31);

test.each(Object.keys(SHAPES))(
  'an LSM-Tree (%s) and a B+Tree that are told the same answer the same',
  (shape) => {
    const endMs = performance.now() + SECONDS * 1000;
    const events: Record<string, number> = {};
    let deepest = 0;
    let lives = 0;
    do {
      const seeds = SEED === undefined ? [lives === 0 ? 5 : fresh + 2 * lives, fresh + 2 * lives + 1] : [Number(SEED)];
      for (const seed of seeds) {
        const life = live(shape, seed);
        for (const [name, count] of Object.entries(life.events)) events[name] = (events[name] ?? 0) + count;
        deepest = Math.max(deepest, life.deepest);
      }
      lives++;
    } while (performance.now() < endMs);
    console.log(JSON.stringify(events));
    expect(deepest).toBe(6);
    if (SEED !== undefined) return;
    for (const name of ['write', 'batch', 'large', 'compact', 'expire']) expect(events[name], name).toBeGreaterThan(0);
    const ends = ['reopen', 'adopt', 'kill', 'power loss'].map((name) => events[name] ?? 0);
    expect(ends.reduce((sum, count) => sum + count)).toBeGreaterThan(0);
  },
  300_000 + 2000 * SECONDS,
);
