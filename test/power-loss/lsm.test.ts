/**
 * Power loss at every operation on files of an LSM-Tree's shard: flushes, compactions, beginnings of manifests, collections of blob files, checkpoints. A hook
 * stands before each operation, takes several disks that a crash of that moment could leave, and recovers each of them. Some go on with what was
 * left to do, and lose power again, also while they recover.
 *
 *   LSM_POWER_LOSS_SEED=7        one life
 *   LSM_POWER_LOSS_STEPS=300     longer ones (default 45)
 *   LSM_POWER_LOSS_AT=123        of it only the crashes before this operation
 */
import { describe, expect, test } from 'vitest';
import { Durability } from '../../dist/engines/store/shard-store.js';
import { ConcordError } from '../../dist/shared/errors.js';
import type { CrashPolicy, MemEnv } from '../../dist/shared/env/mem-env.js';
import { Random } from '../../dist/shared/random.js';
import { FoundDisk } from '../engines/lsm/proof/disk.js';
import { LsmScene, TINY, type Change } from '../engines/lsm/store/scene.js';

const { LSM_POWER_LOSS_SEED, LSM_POWER_LOSS_STEPS, LSM_POWER_LOSS_AT } = process.env;
const SEEDS = LSM_POWER_LOSS_SEED === undefined ? [1, 2] : [Number(LSM_POWER_LOSS_SEED)];
const STEPS = Number(LSM_POWER_LOSS_STEPS ?? 45);
const ONLY_AT = LSM_POWER_LOSS_AT === undefined ? undefined : Number(LSM_POWER_LOSS_AT);

const KEYS = 60;
const TUNING = { ...TINY, blobValueBytes: 400, blobFileBytes: 16 << 10, blobGarbagePercent: 20 };
const FILLER = 'abcdefghijklmnopqrstuvwxyz'.repeat(100);

const POLICIES: readonly CrashPolicy[] = [
  'drop-all',
  'random',
  'keep-all',
  { data: 'random', names: 'arbitrary' },
  { data: 'keep-all', names: 'drop-all' },
  { data: 'drop-all', names: 'keep-all' },
  { data: 'sectors', names: 'arbitrary' },
  { data: 'writes', names: 'ordered' },
];

interface RunOptions {
  readonly steps: number;
  /** Disks that are looked at of each moment. */
  readonly disks: number;
  readonly ignoreSync?: boolean;
  /** Files whose sync does nothing. */
  readonly unsynced?: RegExp;
}

class Life {
  readonly violations: string[] = [];
  /** Moments, by the kind of file that the operation was on. */
  readonly moments: Record<string, number> = {};
  crashes = 0;
  continued = 0;
  recoveries = 0;
  readonly #seed: number;
  readonly #options: RunOptions;
  readonly #random: Random;
  /** Last numbers of groups: only there may a recovery stop. */
  readonly #groupEnds = new Set([0]);
  readonly #scene: LsmScene;
  #isJudging = false;
  #values = 0;

  constructor(seed: number, options: RunOptions) {
    this.#seed = seed;
    this.#options = options;
    this.#random = new Random(seed);
    let isReady = false;
    this.#scene = new LsmScene(
      { tuning: TUNING, seed },
      {
        ignoreSync: options.ignoreSync ?? false,
        onOperation: (index, kind, path) => {
          if (isReady && !this.#isJudging) this.#before(index, `${kind} ${path}`, path);
        },
      },
    );
    isReady = true;
    const { unsynced } = options;
    if (unsynced === undefined) return;
    const { mem } = this.#scene;
    const open = mem.open.bind(mem);
    mem.open = (path, mode) => {
      const file = open(path, mode);
      if (unsynced.test(path)) file.sync = () => undefined;
      return file;
    };
  }

  run(): this {
    // Until a checkpoint names the tree, the log alone would do.
    this.#group();
    this.#scene.flush();
    this.#scene.checkpoint();
    for (let step = 0; step < this.#options.steps && this.violations.length < 5; step++) this.#step();
    return this;
  }

  #step(): void {
    const scene = this.#scene;
    const random = this.#random;
    const dice = random.below(100);
    if (dice < 42) this.#group();
    else if (dice < 48) {
      scene.work();
      scene.jobs.runNext();
      scene.work();
    } else if (dice < 66) scene.flush();
    else if (dice < 75) scene.compact(...(random.below(2) === 0 ? [] : [this.#key(), this.#key()].sort()));
    else if (dice < 90) scene.checkpoint();
    else if (dice < 93) scene.openSnapshot();
    else if (dice < 96) for (const snapshot of scene.snapshots) scene.closeSnapshot(snapshot);
    else {
      scene.reopen();
      // A recovery makes durable what it shows.
      scene.syncedSeq = scene.store.publishedSeq;
    }
  }

  #key(): string {
    return `k${String(this.#random.below(KEYS)).padStart(3, '0')}`;
  }

  #change(): Change {
    const random = this.#random;
    const roll = random.below(100);
    if (roll < 2) {
      const [low, high] = [this.#key(), this.#key()].sort();
      return { kind: 'clear', low: random.below(4) === 0 ? undefined : low, high };
    }
    if (roll < 20) return { kind: 'del', key: this.#key() };
    const bytes = random.pick([10, 100, 300, 600, 2000]);
    return { kind: 'put', key: this.#key(), value: `${++this.#values}:${FILLER.slice(0, bytes)}` };
  }

  #group(): void {
    const scene = this.#scene;
    if (scene.writer.flow().state === 'stopped') return;
    const changes = Array.from({ length: this.#random.pick([1, 2, 5, 20]) }, () => this.#change());
    this.#groupEnds.add(scene.store.publishedSeq + changes.length);
    scene.commit(changes, this.#random.below(3) === 0 ? Durability.Sync : Durability.Os);
  }

  #before(index: number, what: string, path: string): void {
    if (ONLY_AT !== undefined && index !== ONLY_AT) return;
    const kind = /lsm-/.test(path) ? (/(sst|blob|MANIFEST|CURRENT)/.exec(path)?.[0] ?? 'directory') : 'others';
    for (const name of [kind, `${what.split(' ')[0]} ${kind}`]) this.moments[name] = (this.moments[name] ?? 0) + 1;
    this.#isJudging = true;
    for (let disk = 0; disk < this.#options.disks; disk++) {
      // The strictest always, the others in turn.
      const policy = POLICIES[disk === 0 ? 0 : 1 + ((2 * index + disk) % (POLICIES.length - 1))]!;
      const random = new Random(this.#seed * 1e6 + index * 8 + disk);
      const problem = this.#crash(random, policy);
      if (problem === undefined) continue;
      this.violations.push(
        `crash before operation ${index} (${what}), ${JSON.stringify(policy)}: ${problem}\n` +
          `replay: LSM_POWER_LOSS_SEED=${this.#seed} LSM_POWER_LOSS_STEPS=${this.#options.steps} LSM_POWER_LOSS_AT=${index} npx vitest run test/power-loss/lsm.test.ts`,
      );
    }
    this.#isJudging = false;
  }

  #crash(random: Random, policy: CrashPolicy): string | undefined {
    const crash = ++this.crashes;
    const breaksRecovery = crash % 11 === 0;
    const again: string[] = [];
    let isRecovering = true;
    const disk: MemEnv = this.#scene.mem.crash(random, policy, {
      onOperation: () => {
        if (!breaksRecovery || !isRecovering || again.length > 0) return;
        this.recoveries++;
        const verdict = this.#judge(disk.crash(random, random.pick(POLICIES)), this.#scene.syncedSeq);
        if (typeof verdict === 'string') again.push(verdict);
      },
    });
    const found = this.#judge(disk, this.#scene.syncedSeq);
    isRecovering = false;
    if (typeof found === 'string') return found;
    if (again.length > 0) return `and again while recovering: ${again.join()}`;
    if (crash % 5 !== 0) return undefined;
    this.continued++;
    const { publishedSeq } = found.store;
    found.settle(this.#scene.nowMs + 60_000);
    const problems = found.verify(true);
    if (problems.length > 0) return `after what was left to do: ${problems.join('; ')}`;
    const last = this.#judge(disk.crash(random, random.pick(POLICIES)), publishedSeq);
    return typeof last === 'string' ? `after what was left to do was done: ${last}` : undefined;
  }

  /** Recovers the disk; words: what is wrong. */
  #judge(disk: MemEnv, syncedSeq: number): FoundDisk | string {
    try {
      return this.#found(new FoundDisk(disk, TUNING), syncedSeq);
    } catch (error) {
      if (error instanceof ConcordError) return `open fails with ${error.code}: ${error.message}`;
      throw error;
    }
  }

  #found(found: FoundDisk, syncedSeq: number): FoundDisk | string {
    const { publishedSeq } = found.store;
    if (publishedSeq < syncedSeq)
      return `lost what was synced: ${syncedSeq} was durable, recovered up to ${publishedSeq}`;
    if (!this.#groupEnds.has(publishedSeq)) return `a group is half there: published ${publishedSeq}`;
    const scene = this.#scene;
    const wanted = scene.expectedScan(publishedSeq, scene.nowMs);
    const told = found.scan(scene.nowMs);
    const at = wanted.findIndex((line, index) => line !== told[index]);
    if (at >= 0 || told.length !== wanted.length) {
      return `of ${wanted.length} entries ${told.length} are there, entry ${at} is ${told[at]?.slice(0, 30)}, not ${wanted[at]?.slice(0, 30)}`;
    }
    const problems = [...found.store.spaces.check(), ...found.verify(true)];
    return problems.length > 0 ? `check: ${problems.join('; ')}` : found;
  }
}

describe('power loss at every operation on files', { timeout: 300_000 }, () => {
  test.each(SEEDS)('leaves whole groups, and all that was synced (life %i)', (seed) => {
    const { violations, moments, crashes, continued, recoveries } = new Life(seed, { steps: STEPS, disks: 2 }).run();
    console.log(JSON.stringify({ seed, moments, crashes, continued, recoveries }));
    expect(violations.join('\n')).toBe('');
    if (ONLY_AT !== undefined) return;
    // What is removed is what compactions have replaced, of blob files what they have collected.
    for (const kind of [
      'remove sst',
      'remove blob',
      'sync MANIFEST',
      'rename CURRENT',
      'syncDirectory directory',
      'others',
    ]) {
      expect(moments[kind], kind).toBeGreaterThan(0);
    }
    expect(continued).toBeGreaterThan(STEPS);
    expect(recoveries).toBeGreaterThan(STEPS / 4);
  });

  test('would be noticed if fsync did nothing', () => {
    const { violations } = new Life(1, { steps: 20, disks: 2, ignoreSync: true }).run();
    expect(violations.some((text) => /lost what was synced|open fails/.test(text))).toBe(true);
  });
  test.each([/\.sst$/, /\.blob$/, /MANIFEST/, /CURRENT/])(
    'would be noticed if fsync did nothing for %s',
    (unsynced) => {
      const { violations } = new Life(1, { steps: STEPS, disks: 1, unsynced }).run();
      expect(violations.length).toBeGreaterThan(0);
    },
  );
});
