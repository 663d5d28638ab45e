/**
 * Transactions that are prepared, decided and resolved among ordinary writes, checkpoints, files that are written behind, closed and killed stores and dead
 * threads, on each engine, against a model.
 *
 *   TXN_MODEL_SEED=7     one life
 *   TXN_MODEL_SEEDS=20   more
 *   TXN_MODEL_STEPS=3000 longer ones
 */
import { describe, expect, test } from 'vitest';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { createStore } from '../../support/store-scene.js';
import { ENGINES, TxnWorkload, judge, newArena, settle, spacesOf } from './workload.js';

const { TXN_MODEL_SEED, TXN_MODEL_SEEDS, TXN_MODEL_STEPS } = process.env;
const FIRST = TXN_MODEL_SEED === undefined ? Math.floor(Math.random() * 1e6) : Number(TXN_MODEL_SEED);
const SEEDS = Array.from({ length: Number(TXN_MODEL_SEEDS ?? 1) }, (_, index) => FIRST + index);
const STEPS = Number(TXN_MODEL_STEPS ?? 250);

describe.each(SEEDS)('a life with transactions (seed %i)', (seed) => {
  test.each(ENGINES)('shows each of them whole or not at all on %s', (engine) => {
    const replay = `replay: TXN_MODEL_SEED=${seed} npx vitest run test/txn/store/model.test.ts -t ${engine}`;
    const env = new MemEnv({ seed });
    const store = createStore(env, { spaces: spacesOf(engine), arena: newArena() });
    const life = new TxnWorkload(env, store, new Random(seed), { engine });
    for (let step = 0; step < STEPS; step++) {
      try {
        life.step();
      } catch (error) {
        throw new Error(`step ${step}; ${replay}`, { cause: error });
      }
      if (step % 10 === 0) expect(life.verify(), `step ${step}; ${replay}`).toBeUndefined();
    }
    expect(life.counts.committed, replay).toBeGreaterThan(STEPS / 20);
    expect(life.counts.aborted, replay).toBeGreaterThan(0);
    const verdict = judge(life.env, life);
    expect(verdict.problem, replay).toBeUndefined();
    if (verdict.problem === undefined)
      expect(settle(life.env, verdict.store, verdict.index, life), replay).toBeUndefined();
  });
});
