/**
 * The conformance suite on every engine: as the pool's own space on a disk, or as a named space in memory beside others. CONFORMANCE=all runs each
 * engine both ways, and everything on all of them.
 */
import { afterAll } from 'vitest';
import { poolTarget, spaceTarget, type PoolTarget } from '../support/pool-target.js';
import { engineSuite } from './suite.js';

/** So small that every level is used. */
const TINY_LSM = {
  memtableBytes: 64 << 10,
  tableBytes: 16 << 10,
  levelBytes: 64 << 10,
  levelFactor: 4,
  level0Runs: 2,
  blockBytes: 1024,
};
const isAll = process.env['CONFORMANCE'] === 'all';
const targets: Record<string, PoolTarget> = {};
for (const engine of ['hash', 'rbtree', 'array', 'memtable', 'lsm']) {
  const tuning = engine === 'lsm' ? { lsm: TINY_LSM } : {};
  if (isAll || engine === 'hash' || engine === 'memtable' || engine === 'lsm')
    targets[`${engine}, in a directory`] = poolTarget('directory', { shards: 1, engine, ...tuning }, isAll);
  if (isAll || engine === 'rbtree' || engine === 'array')
    targets[`a space of ${engine}, two shards`] = spaceTarget({ shards: 2 }, engine, isAll);
}
targets['a space of btree, one shard'] = spaceTarget({ shards: 1 }, 'btree', true);
for (const [name, target] of Object.entries(targets)) engineSuite(name, target);
afterAll(() => {
  for (const target of Object.values(targets)) target.dispose();
});
