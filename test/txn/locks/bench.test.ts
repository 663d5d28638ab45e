/** The bench of transactions at a tiny size, so that it does not rot: it runs, judges, and draws. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

interface Figure {
  readonly phase: string;
  readonly lost?: number;
  readonly perSecond?: number;
  readonly attempts?: number;
  readonly done?: number;
}

test('the bench of transactions runs at a tiny size, loses nothing and draws its chart', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'concordkv-bench-txn-test-'));
  try {
    const [json, svg] = [join(directory, 'figures.json'), join(directory, 'chart.svg')];
    const script = fileURLToPath(new URL('../../../bench/txn.mjs', import.meta.url));
    const sizes = [
      '--levels',
      'os',
      '--accounts',
      '500',
      '--callers',
      '8',
      '--ms',
      '50',
      '--warm',
      '20',
      '--shards',
      '1,3',
    ];
    const args = ['--quick', '--peers', 'none', '--waiting', '20', '--deadlocks', '4', '--thetas', '1.2', ...sizes];
    const files = ['--json', json, '--svg', svg, '--dir', directory];
    const { stdout } = await promisify(execFile)(process.execPath, [script, ...args, ...files]);
    const { figures } = JSON.parse(readFileSync(json, 'utf8')) as { figures: Figure[] };
    const phases = figures.map(({ phase }) => phase);
    expect(
      ['transfers', 'reads', 'contention', 'deadlocks'].map((phase) => phases.filter((one) => one === phase).length),
    ).toEqual([3, 2, 6, 1]);
    for (const { phase, lost, perSecond, attempts, done } of figures) {
      if (phase !== 'transfers' && phase !== 'contention') continue;
      expect(lost).toBe(0);
      expect(perSecond).toBeGreaterThan(0);
      expect(attempts).toBeGreaterThanOrEqual(done!);
    }
    expect(stdout).not.toContain('LOST');
    expect(readFileSync(svg, 'utf8')).toMatch(/^<svg [^]*<polyline points="[\d., ]+"[^]*<\/svg>\n$/);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
