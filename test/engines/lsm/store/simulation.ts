/**
 * A random life of an LSM-Tree's shard, one seed for all of it: groups of writes, clears, snapshots, jobs that run at any time or fail, checkpoints, clean
 * restarts, power losses, threads that die between any two operations on files. After each step that may have gone wrong every read is compared with the model.
 */
import { CrashSignal } from '../../../../dist/shared/env/mem-env.js';
import { Durability } from '../../../../dist/engines/store/shard-store.js';
import { Random } from '../../../../dist/shared/random.js';
import type { LsmTuning } from '../../../../dist/engines/lsm/options.js';
import { LsmScene, TINY, type Change } from './scene.js';

export interface SimulationOptions {
  readonly seed: number;
  readonly steps: number;
  readonly tuning?: LsmTuning;
  readonly keys?: number;
  readonly valueBytesMax?: number;
  /** Ends of threads and machines; default true. */
  readonly withDeaths?: boolean;
  readonly log?: (line: string) => void;
}

export interface SimulationResult {
  readonly events: Readonly<Record<string, number>>;
  /** The most tables a level ever had, by level. */
  readonly shape: readonly number[];
}

const FILLER = 'abcdefghijklmnopqrstuvwxyz0123456789'.repeat(400);

export function simulate(options: SimulationOptions): SimulationResult {
  const { seed, steps, keys = 400, valueBytesMax = 300, withDeaths = true, log = () => undefined } = options;
  const random = new Random(seed);
  /** Mutations of files until the thread dies; Infinity: it does not. */
  let fuse = Infinity;
  const memOptions = {
    onOperation: (): void => {
      if (fuse-- <= 0) throw new CrashSignal();
    },
  };
  const scene = new LsmScene({ tuning: options.tuning ?? TINY, seed, parallelism: 1 + random.below(3) }, memOptions);
  const events: Record<string, number> = {};
  const shape = new Array<number>(7).fill(0);
  let counter = 0;

  const key = (): string => `k${String(random.below(keys)).padStart(5, '0')}`;
  const change = (): Change => {
    const roll = random.below(100);
    if (roll < 75) {
      const large = random.below(40) === 0 ? 3000 : 0;
      const value = `${++counter}:${FILLER.slice(0, random.below(valueBytesMax) + large)}`;
      const expiresAt = random.below(12) === 0 ? scene.nowMs + random.below(60_000) : 0;
      return { kind: 'put', key: key(), value, expiresAt };
    }
    if (roll < 99) return { kind: 'del', key: key() };
    const from = random.below(keys);
    const to = from + random.below(keys / 4);
    const edge = (at: number, open: boolean): string | undefined =>
      open ? undefined : `k${String(at).padStart(5, '0')}`;
    return { kind: 'clear', low: edge(from, random.below(8) === 0), high: edge(to, random.below(8) === 0) };
  };

  const actions: Record<string, () => void> = {
    write: () => {
      const count = 1 + random.below(30);
      // What only memory has is lost with a thread's log and kept in its memory: then what comes back is no beginning of what was.
      const relaxed = withDeaths || random.below(3) !== 0 ? Durability.Os : Durability.Memory;
      const level = random.below(20) === 0 ? Durability.Sync : relaxed;
      if (scene.writer.flow().state === 'stopped') return;
      scene.commit(Array.from({ length: count }, change), level);
    },
    work: () => {
      scene.work();
    },
    job: () => {
      scene.work();
      if (random.below(15) === 0) {
        scene.jobs.runNext(() => ({ error: { code: 'ERR_IO', message: 'a worker died', details: {} } }));
      } else scene.jobs.runNext();
      if (random.below(2) === 0) scene.work();
    },
    settle: () => {
      scene.settle();
    },
    flush: () => {
      scene.flush();
    },
    compact: () => {
      if (random.below(2) === 0) scene.compact();
      else scene.compact(key(), key());
    },
    openSnapshot: () => {
      if (scene.snapshots.length < 6) scene.openSnapshot();
    },
    closeSnapshot: () => {
      if (scene.snapshots.length > 0) scene.closeSnapshot(random.pick(scene.snapshots));
    },
    time: () => {
      scene.nowMs += random.below(20_000);
    },
    checkpoint: () => {
      scene.checkpoint();
    },
    fullDisk: () => {
      scene.env.fillDisk(/lsm-/);
      for (let index = 0; index < 5; index++) actions['job']!();
      scene.env.freeDisk();
      scene.nowMs += 60_000;
    },
    reopen: () => {
      scene.reopen();
    },
    readOnly: () => {
      scene.reopen({ readOnly: true });
      compare();
      scene.reopen();
    },
    fuse: () => {
      if (withDeaths && fuse === Infinity) fuse = random.below(60);
    },
  };
  const weights: Record<string, number> = {
    write: 60,
    work: 10,
    job: 20,
    settle: 2,
    flush: 2,
    compact: 1,
    openSnapshot: 4,
    closeSnapshot: 4,
    time: 3,
    checkpoint: 2,
    fullDisk: 1,
    reopen: 1,
    readOnly: 0.5,
    fuse: 3,
  };
  const names = Object.keys(weights);
  const total = names.reduce((sum, name) => sum + weights[name]!, 0);
  const pick = (): string => {
    let roll = (random.below(1 << 20) / (1 << 20)) * total;
    for (const name of names) if ((roll -= weights[name]!) < 0) return name;
    return names[0]!;
  };
  const compare = (): void => {
    const difference = scene.difference(true);
    if (difference === undefined) return;
    const { recovery, publishedSeq } = scene.store;
    throw new Error(`${difference}\n${JSON.stringify({ recovery, publishedSeq, state: scene.describe() })}`);
  };

  const die = (): void => {
    // Deaths during a recovery, too.
    for (let again = random.below(3) === 0; ; again = random.below(2) === 0) {
      fuse = again ? random.below(20) : Infinity;
      const end = random.below(3);
      try {
        if (end === 0 && isAdoptable) scene.adopt(random, memOptions);
        else if (end === 1) scene.kill(random, memOptions);
        else scene.powerLoss(random, 'random', memOptions);
        isAdoptable = true;
        events[`end ${end}`] = (events[`end ${end}`] ?? 0) + 1;
        log(`end ${end}`);
        if (fuse >= 0) return;
        isAdoptable = false;
      } catch (error) {
        if (fuse >= 0) throw error;
        log(`end ${end}, and died again`);
        // A successor that died while it began has published nothing whole: the host begins with new memory.
        isAdoptable = false;
      }
    }
  };
  let isAdoptable = true;

  // Some lives are short of writes or jobs: they go on until the first level and the last one have been used.
  const isShort = (): boolean => shape[0] === 0 || shape[6] === 0;
  for (let step = 0; step < steps || (isShort() && step < 10 * steps); step++) {
    const name = pick();
    log(`${step} ${name}`);
    events[name] = (events[name] ?? 0) + 1;
    try {
      actions[name]!();
      // What removes files goes on after a failure.
      if (fuse < 0) throw new CrashSignal();
      if (name !== 'write' && name !== 'work' && name !== 'fuse' && name !== 'time') compare();
      else if (step % 16 === 0) compare();
    } catch (error) {
      // Many a handler has made another error of it.
      if (fuse >= 0) throw error;
      isAdoptable = name !== 'reopen' && name !== 'readOnly';
      die();
      fuse = Infinity;
      compare();
    }
    scene.shape().forEach((tables, level) => {
      shape[level] = Math.max(shape[level]!, tables);
    });
  }
  fuse = Infinity;
  scene.settle();
  compare();
  scene.close();
  return { events, shape };
}
