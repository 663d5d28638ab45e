/**
 * Power loss at every file operation of a shard whose transactions are prepared, decided elsewhere, and resolved. A hook stands before each operation, takes
 * several disks a crash of that moment could leave, recovers each of them, and resolves what is prepared there as it was decided: what was committed is
 * there whole, and nothing else. Some go on, and lose power again.
 *
 * Two controls must fail: transactions that are decided though their Prepare records are not synced, and decisions that are forgotten before the Resolve
 * records are.
 *
 *   TXN_POWER_LOSS_SEED=7        one life
 *   TXN_POWER_LOSS_STEPS=300     longer ones (default 45)
 *   TXN_POWER_LOSS_AT=123        of it only the crashes before this operation
 */
import { describe, expect, test } from 'vitest';
import { Durability } from '../../dist/engines/store/shard-store.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import type { CrashPolicy, MemEnvOptions } from '../../dist/shared/env/mem-env.js';
import { Random } from '../../dist/shared/random.js';
import { createStore } from '../support/store-scene.js';
import { ENGINES, TxnWorkload, judge, newArena, settle, spacesOf } from '../txn/store/workload.js';
import type { Knowledge, WorkloadOptions } from '../txn/store/workload.js';

const { TXN_POWER_LOSS_SEED, TXN_POWER_LOSS_STEPS, TXN_POWER_LOSS_AT } = process.env;
const SEED = Number(TXN_POWER_LOSS_SEED ?? 1);
const STEPS = Number(TXN_POWER_LOSS_STEPS ?? 30);
const ONLY_AT = TXN_POWER_LOSS_AT === undefined ? undefined : Number(TXN_POWER_LOSS_AT);

const POLICIES: readonly CrashPolicy[] = [
  'drop-all',
  'random',
  'keep-all',
  { data: 'random', names: 'arbitrary' },
  { data: 'keep-all', names: 'drop-all' },
  { data: 'sectors', names: 'arbitrary' },
];

interface Outcome {
  crashes: number;
  continued: number;
  /** Crashes that left something to be committed, and something to be given up. */
  inDoubt: number;
  undecided: number;
  readonly violations: string[];
}

function run(seed: number, options: Omit<WorkloadOptions, 'disk'>, steps: number, disks: number): Outcome {
  const outcome: Outcome = { crashes: 0, continued: 0, inDoubt: 0, undecided: 0, violations: [] };
  let life: TxnWorkload | undefined = undefined;
  let isJudging = false;
  const disk: MemEnvOptions = {
    seed,
    onOperation: (index, kind, path) => {
      if (life === undefined || isJudging || (ONLY_AT !== undefined && index !== ONLY_AT)) return;
      isJudging = true;
      for (let variant = 0; variant < disks; variant++) {
        const policy = POLICIES[variant === 0 ? 0 : 1 + ((index + variant) % (POLICIES.length - 1))]!;
        const random = new Random(seed * 1e6 + index * 8 + variant);
        const problem = crash(life, random, policy, options, outcome);
        if (problem === undefined) continue;
        outcome.violations.push(
          `crash before operation ${index} (${kind} ${path}), ${JSON.stringify(policy)}: ${problem}\n` +
            `replay: TXN_POWER_LOSS_SEED=${seed} TXN_POWER_LOSS_STEPS=${steps} TXN_POWER_LOSS_AT=${index} npx vitest run test/power-loss/txn.test.ts -t ${options.engine}`,
        );
      }
      isJudging = false;
    },
  };
  const env = new MemEnv(disk);
  const store = createStore(env, { spaces: spacesOf(options.engine), arena: newArena() });
  life = new TxnWorkload(env, store, new Random(seed), { ...options, disk });
  for (let step = 0; step < steps && outcome.violations.length < 5; step++) {
    try {
      life.step();
    } catch (error) {
      // A restart of the life itself has found the damage first.
      outcome.violations.push(String(error));
      break;
    }
  }
  return outcome;
}

/** What is wrong after a crash now; undefined: nothing. */
function crash(
  life: TxnWorkload,
  random: Random,
  policy: CrashPolicy,
  options: WorkloadOptions,
  outcome: Outcome,
): string | undefined {
  outcome.crashes++;
  const disk = life.env.crash(random, policy);
  const verdict = judge(disk, life);
  if (verdict.problem !== undefined) return verdict.problem;
  const { store, index } = verdict;
  const entry = life.history[index]!;
  let isInDoubt = false;
  for (const id of entry.prepared.keys()) {
    if (life.decided.has(id)) isInDoubt = true;
    else outcome.undecided++;
  }
  if (isInDoubt) outcome.inDoubt++;
  if (outcome.crashes % 4 !== 0) return settle(disk, store, index, life);
  outcome.continued++;
  // What a recovery has shown must stay; the coordinator decides again, with new numbers.
  const next: Knowledge = {
    history: life.history.slice(0, index + 1),
    synced: index,
    engine: life.engine,
    decided: life.decided,
    forgotten: life.forgotten,
    nextSeq: life.nextSeq,
  };
  const later = new TxnWorkload(disk, store, random, options, next);
  for (let step = random.below(5); step > 0; step--) later.step();
  const last = later.env.crash(random, random.pick(POLICIES));
  const after = judge(last, later);
  if (after.problem !== undefined) return `after going on from group ${index}: ${after.problem}`;
  const problem = settle(last, after.store, after.index, later);
  return problem === undefined ? undefined : `after going on from group ${index}: ${problem}`;
}

describe('power loss at every file operation', { timeout: 300_000 }, () => {
  test.each(ENGINES)('leaves each transaction that was committed whole, and no other, on %s', (engine) => {
    const steps = engine === 'lsm' || engine === 'paged' ? Math.ceil(STEPS * 0.8) : STEPS;
    const { crashes, continued, inDoubt, undecided, violations } = run(SEED, { engine }, steps, 3);
    expect(violations.join('\n')).toBe('');
    if (ONLY_AT !== undefined) return;
    expect(crashes).toBeGreaterThan(steps);
    expect(continued).toBeGreaterThan(steps / 5);
    expect(inDoubt).toBeGreaterThan(5);
    expect(undecided).toBeGreaterThan(5);
  });

  test('would be noticed if a transaction were decided whose Prepare records are not synced', () => {
    const { violations } = run(SEED, { engine: 'btree', prepareLevel: Durability.Os }, STEPS, 2);
    expect(violations.some((text) => /committed, and nothing is known of it/.test(text))).toBe(true);
  });

  test('would be noticed if a decision were forgotten before its Resolve records are synced', () => {
    const { violations } = run(SEED, { engine: 'btree', forgetsEarly: true }, STEPS, 2);
    expect(violations.some((text) => /is prepared, and its decision is forgotten/.test(text))).toBe(true);
  });
});
