/**
 * Readers in four threads while each engine takes random writes. For longer: node test/stress/engines.mjs --engine all --writes 10000000. The rules: head of
 * engines-rules.mjs.
 */
import { expect, test } from 'vitest';
import { ENGINES } from '../engines/contract-scene.js';
// @ts-expect-error a plain JavaScript helper
import { stressEngine } from './engines.mjs';

const WRITES = Number(process.env['STRESS_WRITES'] ?? 70_000);

/** What readers count. */
const READS = ['reads', 'absent', 'pairs', 'snapshotReads', 'scans'];

interface Report {
  readonly problems: string[];
  readonly counts: Readonly<Record<string, number>>;
  readonly reads: Readonly<Record<string, number>>;
}

test.each(ENGINES)(
  '%s: readers see whole values, nothing stale, atomic groups and exact snapshots while it is written to',
  async (name) => {
    // Something of everything must be done, or nothing is shown. Readers that others keep from their cores need a longer run.
    let unseen: string[] = READS;
    for (let writes = WRITES; unseen.length > 0; writes *= 3) {
      expect(writes, `none of ${unseen.join(', ')}`).toBeLessThan(WRITES * 10);
      const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1_000_000));
      console.log(`replay: node test/stress/engines.mjs --engine ${name} --writes ${writes} --seed ${seed}`);
      const { problems, counts, reads } = (await stressEngine({ name, writes, seed })) as Report;
      expect(problems).toEqual([]);
      expect(counts['writes']).toBeGreaterThanOrEqual(writes);
      for (const what of ['groups', 'deletes', 'rangeDeletes', 'snapshots'])
        expect(counts[what], what).toBeGreaterThan(0);
      unseen = READS.filter((what) => !(reads[what]! > 0));
    }
  },
  600_000,
);
