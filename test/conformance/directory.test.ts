/** The conformance suite on pools in a directory: one shard, three shards, and one that another thread hosts. */
import { afterAll } from 'vitest';
import { attachedTarget, poolTarget } from '../support/pool-target.js';
import { engineSuite } from './suite.js';

const targets = {
  'in a directory, one shard': poolTarget('directory', { shards: 1 }, true),
  'in a directory, three shards': poolTarget('directory', { shards: 3, segmentBytes: 1 << 20 }),
  'hosted by another thread, two shards': attachedTarget({ shards: 2 }, true),
};
for (const [name, target] of Object.entries(targets)) engineSuite(name, target);
afterAll(() => {
  for (const target of Object.values(targets)) target.dispose();
});
