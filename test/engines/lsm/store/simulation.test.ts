/** Random lives of a shard in an LSM-Tree, against a model: see simulation.ts. SEED=n replays one; SIMULATION_STEPS makes them longer. */
import { describe, expect, test } from 'vitest';
import type { LsmTuning } from '../../../../dist/engines/lsm/options.js';
import { TINY } from './scene.js';
import { simulate } from './simulation.js';

const STEPS = Number(process.env['SIMULATION_STEPS'] ?? 140);
const own = process.env['SEED'];
const seeds = own === undefined ? [1, Math.floor(Math.random() * 2 ** 31)] : [Number(own)];

const VARIANTS: Readonly<Record<string, LsmTuning>> = {
  leveled: TINY,
  tiered: { ...TINY, compaction: 'tiered', level0Runs: 3 },
  'with values in blob files': { ...TINY, blobValueBytes: 100, blobFileBytes: 16 << 10 },
  'without filters and compression': { ...TINY, bitsPerKey: 0, compression: 'none', restartInterval: 1 },
};

describe.each(Object.entries(VARIANTS))('%s', (name, tuning) => {
  test.each(seeds)('every read is right after every step of life %i, deaths and power losses among them', (seed) => {
    console.log(`replay: SEED=${seed} npx vitest run test/engines/lsm/store/simulation.test.ts -t '${name}'`);
    const { events, shape } = simulate({ seed, steps: STEPS, tuning });
    expect(events['write']).toBeGreaterThan(STEPS / 4);
    // Level 0 and the last one have been used.
    expect(shape[0]).toBeGreaterThan(0);
    expect(shape[6]).toBeGreaterThan(0);
  });
});

test('every read is right in a long life without deaths, with groups that only memory has', () => {
  const seed = Number(own ?? 77);
  const { shape } = simulate({ seed, steps: STEPS * 2, keys: 6000, valueBytesMax: 600, withDeaths: false });
  expect(shape[0]).toBeGreaterThan(0);
});
