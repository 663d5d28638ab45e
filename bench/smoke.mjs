/**
 * Every workload at tiny size, ConcordKV alone, no peers installed: what the test suite runs so that the benches never rot.
 * The figures mean nothing; the results' `wrong` and `verifiedEntries` do.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runSuite, SIZES } from './suite.mjs';
import { judge } from './targets.mjs';

export async function runSmoke({ seed = 1, peers = [] } = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'concordkv-bench-smoke-'));
  try {
    const results = await runSuite({ size: SIZES.smoke, seed, peers, directory });
    return { ...results, targets: judge(results) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
