/**
 * Readers in four threads while each engine takes random writes. For longer: node test/stress/engines.mjs --engine all --writes 10000000. The rules: head of
 * engines-rules.mjs.
 */
import { expect, test } from 'vitest';
import { ENGINES } from '../engines/contract-scene.js';
// @ts-expect-error a plain JavaScript helper
import { stressEngine } from './engines.mjs';

const WRITES = Number(process.env['STRESS_WRITES'] ?? 200_000);

interface Report {
  readonly problems: string[];
  readonly counts: Readonly<Record<string, number>>;
  readonly reads: Readonly<Record<string, number>>;
}

test.each(ENGINES)(
  '%s: readers see whole values, nothing stale, atomic groups and exact snapshots while it is written to',
  async (name) => {
    const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1_000_000));
    console.log(`replay: node test/stress/engines.mjs --engine ${name} --writes ${WRITES} --seed ${seed}`);
    const { problems, counts, reads } = (await stressEngine({ name, writes: WRITES, seed })) as Report;
    expect(problems).toEqual([]);
    expect(counts['writes']).toBeGreaterThanOrEqual(WRITES);
    // Something of everything was done, or nothing was shown.
    for (const what of ['groups', 'deletes', 'rangeDeletes', 'snapshots'])
      expect(counts[what], what).toBeGreaterThan(0);
    for (const what of ['reads', 'absent', 'pairs', 'snapshotReads', 'scans'])
      expect(reads[what], what).toBeGreaterThan(0);
  },
  120_000,
);
