/** The conformance suite on every engine: as the pool's own space on a disk, and as a named space in memory beside others. */
import { afterAll } from 'vitest';
import { poolTarget, spaceTarget } from '../support/pool-target.js';
import { engineSuite } from './suite.js';

const ENGINES = ['hash', 'rbtree', 'array', 'memtable'] as const;

const targets = Object.fromEntries([
  ...ENGINES.map((engine) => [`${engine}, in a directory`, poolTarget('directory', { shards: 1, engine })] as const),
  ...ENGINES.map((engine) => [`a space of ${engine}, two shards`, spaceTarget({ shards: 2 }, engine)] as const),
  ['a space of btree, one shard', spaceTarget({ shards: 1 }, 'btree')] as const,
]);
for (const [name, target] of Object.entries(targets)) engineSuite(name, target);
afterAll(() => {
  for (const target of Object.values(targets)) target.dispose();
});
