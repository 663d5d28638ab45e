/**
 * durable puts: overwrites that are acknowledged only when they are on disk.
 *
 * Answers: how many durable puts a second one thread gets with 1, 16 and 256 in flight, and what a caller waits. lmdb is measured twice: as `await
 * put()` alone, which in its default mode resolves when the commit is visible but not yet on disk, and with `await db.flushed`,
 * which is the same promise as ours. The second is the fair comparison. Does not answer: what a power cut really leaves (the tests do).
 */
import { makeIds } from '../support/random.mjs';
import { puts } from './write.mjs';

export const name = 'durable';
export const question = 'overwrites acknowledged when they are on disk';
export const store = 'sync';

export function rows(scale) {
  const contenders = [
    { engine: 'concordkv', variant: 'put', label: 'concordkv sync' },
    { engine: 'lmdb', variant: 'putDurable', label: 'lmdb put+flushed' },
    { engine: 'lmdb', variant: 'put', label: 'lmdb put (not yet durable)' },
    { engine: 'classic-level', variant: 'put', label: 'classic-level sync' },
  ];
  return [
    { inFlight: 1, ops: scale.ops(2000, 200) },
    { inFlight: 16, ops: scale.ops(10_000, 800) },
    { inFlight: 256, ops: scale.ops(50_000, 4000) },
  ].map(({ inFlight, ops }) => ({
    row: `put, ${inFlight} in flight`,
    ops,
    // A durable put of classic-level costs the whole of a libuv thread's fdatasync, so it gets fewer.
    opsOf: { 'classic-level': Math.ceil(ops / (inFlight > 16 ? 5 : 1)) },
    params: { inFlight },
    contenders,
    writes: true,
  }));
}

export function run(session, variant, { inFlight, ops, round }) {
  const ids = makeIds(session.seed, `durable ${inFlight} ${round}`, 'uniform', session.loadedCount, ops);
  return puts(session, ids, inFlight, variant);
}
