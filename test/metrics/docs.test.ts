/** docs/metrics.md names what there is, all of it and nothing else. */
import { readFileSync } from 'node:fs';
import { beforeAll, afterAll, expect, test } from 'vitest';
import { ConcordPool, type PoolStats } from '../../dist/index.js';
import { parseExposition } from './exposition.js';

const text = readFileSync(new URL('../../docs/metrics.md', import.meta.url), 'utf8');

/** Cells of the table under a heading, trimmed, without its head. */
function table(heading: string): string[][] {
  const section = text.split(new RegExp(`^#+ ${heading.replace(/[()]/g, '\\$&')}$`, 'm'))[1]!.split(/^#+ /m)[0]!;
  const rows = section.split('\n').filter((line) => line.startsWith('|'));
  return rows.slice(2).map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

/** Names in the first column. */
function names(heading: string): string[] {
  return table(heading).flatMap(([cell]) => [...cell!.matchAll(/`([^`]+)`/g)].map(([, name]) => name!));
}

let db: ConcordPool;
let stats: PoolStats;

beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 1 });
  stats = db.stats();
});
afterAll(() => db.close());

test('the names of stats() are those of the documentation', () => {
  expect(names('stats()').sort()).toEqual(Object.keys(stats).sort());
  expect(names('Of `operations`').sort()).toEqual(Object.keys(stats.operations).sort());
  expect(names('Of each of `shards`').sort()).toEqual(Object.keys(stats.shards[0]!).sort());
  expect(names('Of each of `spaces`').sort()).toEqual(Object.keys(stats.spaces[0]!).sort());
});

test('the names, types and labels of metrics() are those of the documentation', async () => {
  const families = [...parseExposition(await db.metrics()).values()];
  const found = families.map(({ name, type, samples }) => {
    const labels = new Set(samples.flatMap((sample) => Object.keys(sample.labels)));
    labels.delete('le');
    return [`\`${name}\``, type, [...labels].join(', ')];
  });
  const documented = table('metrics()').map((row) => row.slice(0, 3));
  expect(documented.map(([name]) => name).sort()).toEqual(found.map(([name]) => name).sort());
  for (const row of found) expect(documented).toContainEqual(row);
});
