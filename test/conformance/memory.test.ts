/** The conformance suite on pools in memory: one shard, the smallest and a large tree order, large pages. */
import { afterAll } from 'vitest';
import { poolTarget } from '../support/pool-target.js';
import { engineSuite } from './suite.js';

const targets = {
  'in memory, one shard': poolTarget('memory', { shards: 1 }, true),
  // One or two entries a page: what a large batch may need is much, reserved and not used.
  'in memory, order 3': poolTarget('memory', { shards: 1, order: 3, memoryBytes: 16 * 2 ** 30 }),
  'in memory, pages of 16 KiB': poolTarget('memory', { shards: 1, pageBytes: 16384 }),
};
for (const [name, target] of Object.entries(targets)) engineSuite(name, target);
afterAll(() => {
  for (const target of Object.values(targets)) target.dispose();
});
