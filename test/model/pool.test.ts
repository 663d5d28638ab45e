/**
 * Random lists of calls on a pool and on a Map: every answer is the same, through checkpoints, exports, compaction, orderly ends and crashes,
 * and under every configuration. CONCORDKV_TEST_RUNS=100 runs more lists.
 */
import * as fc from 'fast-check';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'vitest';
import type { PoolOptions } from '../../dist/index.js';
import { Machine, operationsArbitrary } from '../support/pool-model.js';
import { checkProperty } from '../support/pool-property.js';
import { scratchDirectory } from '../support/pool-scene.js';

const MEMORY_BYTES = 2 ** 30;

/** Small segments roll and checkpoints run all the time; small orders make trees deep. */
const configurations: Record<
  string,
  PoolOptions & { readonly shards: number; readonly where: 'memory' | 'directory' }
> = {
  'in memory, order 3': { where: 'memory', shards: 1, order: 3 },
  'order 4, tiny segments': {
    where: 'directory',
    shards: 1,
    order: 4,
    segmentBytes: 262144,
    checkpointLogBytes: 65536,
  },
  'three shards, tiny segments': { where: 'directory', shards: 3, segmentBytes: 262144, checkpointLogBytes: 131072 },
  'two shards, pages of 16 KiB, order 1000': { where: 'directory', shards: 2, pageBytes: 16384, order: 1000 },
};

describe('a pool answers as a Map does', () => {
  test('for any list of calls, under every configuration', async () => {
    const root = scratchDirectory();
    let run = 0;
    const property = fc.asyncProperty(operationsArbitrary(45), async (operations) => {
      run++;
      for (const [name, { where, ...options }] of Object.entries(configurations)) {
        const directory = where === 'memory' ? ':memory:' : join(root, `${run}-${name.replace(/\W+/g, '-')}`);
        if (where === 'directory') mkdirSync(directory);
        const machine = new Machine(directory, { memoryBytes: MEMORY_BYTES, ...options });
        await machine.open();
        let at = 0;
        try {
          for (const operation of operations) {
            await machine.run(operation);
            at++;
          }
          await machine.end();
        } catch (error) {
          await machine.abandon();
          const where = at < operations.length ? `call ${at} (${operations[at]!.do})` : 'the comparison at the end';
          throw new Error(`${name}: ${where}: ${(error as Error).message}`, { cause: error });
        }
      }
    });
    await checkProperty(property, { runs: 3, file: 'test/model/pool.test.ts', timeLimitMs: 150_000 });
  }, 1_000_000);
});
