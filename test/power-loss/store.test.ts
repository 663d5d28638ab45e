/**
 * Power loss at every file operation of a recorded workload on a shard store. A hook stands before each operation, takes several disks a
 * crash of that moment could leave, and recovers each of them. Some go on writing, and lose power again, also while they recover.
 *
 *   POWER_LOSS_WORKLOADS=20      more workloads (default 3)
 *   POWER_LOSS_STEPS=500         longer ones (default 90)
 *   POWER_LOSS_SEED=7            one workload
 *   POWER_LOSS_AT=123            of it only the crashes before this operation
 */
import { describe, expect, test } from 'vitest';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import type { CrashPolicy } from '../../dist/shared/env/mem-env.js';
import { Random } from '../../dist/shared/random.js';
import { createStore } from '../support/store-scene.js';
import { EMPTY_HISTORY, Workload, judge, spacesOf } from '../support/store-workload.js';
import type { Knowledge } from '../support/store-workload.js';

const { POWER_LOSS_WORKLOADS, POWER_LOSS_STEPS, POWER_LOSS_SEED, POWER_LOSS_AT } = process.env;
const SEEDS =
  POWER_LOSS_SEED === undefined
    ? Array.from({ length: Number(POWER_LOSS_WORKLOADS ?? 3) }, (_, index) => index + 1)
    : [Number(POWER_LOSS_SEED)];
const STEPS = Number(POWER_LOSS_STEPS ?? 90);
const ONLY_AT = POWER_LOSS_AT === undefined ? undefined : Number(POWER_LOSS_AT);

const POLICIES: readonly CrashPolicy[] = [
  'drop-all',
  'keep-all',
  'random',
  { data: 'random', names: 'arbitrary' },
  { data: 'keep-all', names: 'drop-all' },
  { data: 'sectors', names: 'arbitrary' },
];

interface Outcome {
  crashes: number;
  /** Crashes after which the store was written on and crashed again. */
  continued: number;
  /** Crashes in the middle of a recovery. */
  recoveries: number;
  readonly violations: string[];
}

interface RunOptions {
  readonly ignoreSync: boolean;
  readonly steps: number;
  readonly policies: number;
  /** Of the space at first. Default 'btree'. */
  readonly engine?: string;
  /** Engines it is moved to. Default: it is not. */
  readonly engines?: readonly string[];
}

function run(seed: number, options: RunOptions): Outcome {
  const { engine = 'btree', engines = [] } = options;
  const outcome: Outcome = { crashes: 0, continued: 0, recoveries: 0, violations: [] };
  let workload: Workload | undefined = undefined;
  const env = new MemEnv({
    seed,
    ignoreSync: options.ignoreSync,
    onOperation: (index, kind, path) => {
      if (workload === undefined || (ONLY_AT !== undefined && index !== ONLY_AT)) return;
      for (let variant = 0; variant < options.policies; variant++) {
        // The plain ones always, the others in turn.
        const others = POLICIES.length - 2;
        const policy = POLICIES[variant < 2 ? variant : 2 + ((2 * index + variant) % others)]!;
        const random = new Random(seed * 1e6 + index * 8 + variant);
        const problem = crash(env, workload, random, policy, outcome, engines);
        if (problem === undefined) continue;
        outcome.violations.push(
          `crash before operation ${index} (${kind} ${path}), ${JSON.stringify(policy)}: ${problem}\n` +
            `replay: POWER_LOSS_SEED=${seed} POWER_LOSS_STEPS=${options.steps} POWER_LOSS_AT=${index} npx vitest run test/power-loss/store.test.ts`,
        );
      }
    },
  });
  const store = createStore(env, { spaces: spacesOf(engine) });
  const known = { history: EMPTY_HISTORY, synced: 0, engine };
  workload = new Workload(env, store, new Random(seed), known, engines);
  for (let step = 0; step < options.steps && outcome.violations.length < 5; step++) workload.step();
  return outcome;
}

/** What is wrong after a crash now; undefined: nothing. */
function crash(
  env: MemEnv,
  known: Knowledge,
  random: Random,
  policy: CrashPolicy,
  outcome: Outcome,
  engines: readonly string[],
): string | undefined {
  outcome.crashes++;
  const inRecovery: { index: number; problem: string | undefined }[] = [];
  const breaksRecovery = outcome.crashes % 7 === 0;
  let isRecovering = true;
  const disk: MemEnv = env.crash(random, policy, {
    onOperation: () => {
      if (!breaksRecovery || !isRecovering) return;
      outcome.recoveries++;
      const again = judge(disk.crash(random, random.pick(POLICIES)), known);
      inRecovery.push({ index: again.problem === undefined ? again.index : 0, problem: again.problem });
    },
  });
  const verdict = judge(disk, known);
  isRecovering = false;
  if (verdict.problem !== undefined) return verdict.problem;
  for (const { index, problem } of inRecovery) {
    if (problem !== undefined) return `and again while recovering: ${problem}`;
    if (index > verdict.index) return `a second recovery shows group ${index}, the first one only ${verdict.index}`;
  }
  if (outcome.crashes % 4 !== 0) return undefined;
  outcome.continued++;
  // What a recovery has shown must stay, and what is written behind it must be as safe as ever.
  const { engine = 'btree' } = known;
  const next: Knowledge = { history: known.history.slice(0, verdict.index + 1), synced: verdict.index, engine };
  const workload = new Workload(disk, verdict.store, random, next, engines);
  for (let step = random.below(6); step > 0; step--) workload.step();
  const after = judge(disk.crash(random, random.pick(POLICIES)), workload);
  return after.problem === undefined ? undefined : `after going on from group ${verdict.index}: ${after.problem}`;
}

describe('power loss at every file operation', { timeout: 300_000 }, () => {
  test.each(SEEDS)('leaves a prefix of the groups with all that was synced (workload %i)', (seed) => {
    const { crashes, continued, recoveries, violations } = run(seed, { ignoreSync: false, steps: STEPS, policies: 4 });
    expect(violations.join('\n')).toBe('');
    if (ONLY_AT !== undefined) return;
    expect(crashes).toBeGreaterThan(STEPS);
    expect(continued).toBeGreaterThan(STEPS / 5);
    expect(recoveries).toBeGreaterThan(STEPS / 5);
  });

  test.each(['hash', 'rbtree', 'array', 'memtable'])('leaves the same in a space of the %s engine', (engine) => {
    const { crashes, violations } = run(11, { ignoreSync: false, steps: STEPS, policies: 3, engine });
    expect(violations.join('\n')).toBe('');
    expect(crashes).toBeGreaterThan(STEPS);
  });

  test.each([31, 32])('leaves the same in a tree that keeps most of its pages in a file (workload %i)', (seed) => {
    const options = { ignoreSync: false, steps: Math.ceil(STEPS / 3), policies: 2, engine: 'paged' };
    const { crashes, violations } = run(seed, options);
    expect(violations.join('\n')).toBe('');
    expect(crashes).toBeGreaterThan(STEPS / 2);
  });

  test('leaves one engine with everything in it, wherever a space was on its way from one to another', () => {
    const engines = ['btree', 'hash', 'rbtree', 'array', 'memtable', 'paged'];
    const { crashes, violations } = run(21, { ignoreSync: false, steps: STEPS + 70, policies: 2, engines });
    expect(violations.join('\n')).toBe('');
    expect(crashes).toBeGreaterThan(STEPS);
  });

  test('would be noticed if fsync did nothing', () => {
    const { violations } = run(1, { ignoreSync: true, steps: 60, policies: 2 });
    expect(violations.some((text) => /lost what was synced|open fails/.test(text))).toBe(true);
  });
});
