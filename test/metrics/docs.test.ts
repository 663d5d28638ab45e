/** docs/metrics.md names what there is, all of it and nothing else. */
import { readFileSync } from 'node:fs';
import { beforeAll, afterAll, expect, test, vi } from 'vitest';
import { ConcordPool, type PoolStats } from '../../dist/index.js';
import { makeDirectory, removeDirectory } from '../support/pool-scene.js';
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

/** On a disk, with an LSM-Tree that has a table. */
let onDisk: ConcordPool;
let directory: string;

beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 1 });
  stats = db.stats();
  directory = makeDirectory();
  onDisk = await ConcordPool.open(directory, { shards: 1, engine: 'lsm', memoryBytes: 64 << 20 });
  await onDisk.put('key', 'value');
  await onDisk.compact();
  await vi.waitFor(() => {
    expect(onDisk.stats().spaces[0]!.lsm?.levels).toHaveLength(1);
    // What the shards tell of their engines, when they come to it.
    for (const store of [db, onDisk]) expect(store.stats().spaces[0]!.engineMetrics).not.toEqual({});
  }, 60_000);
});
afterAll(async () => {
  await db.close();
  await onDisk.close();
  removeDirectory(directory);
});

test('the names of stats() are those of the documentation', () => {
  expect(names('stats()').sort()).toEqual(Object.keys(stats).sort());
  expect(names('Of `operations`').sort()).toEqual(Object.keys(stats.operations).sort());
  expect(names('Of each of `shards`').sort()).toEqual(Object.keys(stats.shards[0]!).sort());
  expect(names('Of each of `spaces`').sort()).toEqual(Object.keys(stats.spaces[0]!).sort());
});

test('the names of the numbers of an LSM-Tree are those of the documentation', () => {
  const { lsm } = onDisk.stats().spaces[0]!;
  const first = table('Of `lsm`').flatMap(([cell]) => [...cell!.matchAll(/`([^`]+)`/g)].map(([, name]) => name!));
  expect(first.sort()).toEqual(Object.keys(lsm!).sort());
  const described = text.split('### Of `lsm`')[1]!.split(/^#+ /m)[0]!;
  const named = new Set([...described.matchAll(/`([^`]+)`/g)].map(([, name]) => name!));
  for (const name of [...Object.keys(lsm!.reads), ...Object.keys(lsm!.levels[0]!)]) expect(named).toContain(name);
  expect(names('stats()')).toContain('blockCache');
  const blockCache = text.split('\n').find((line) => line.startsWith('| `blockCache`'))!;
  for (const name of Object.keys(onDisk.stats().blockCache!)) expect(blockCache).toContain(`\`${name}\``);
});

test.each([
  ['in memory', () => db, ['metrics()']],
  ['on a disk, with an LSM-Tree', () => onDisk, ['metrics()', 'Of stores with files', 'Of stores with LSM-Trees']],
])(
  'the names, types and labels of metrics() of a store %s are those of the documentation',
  async (_, store, tables) => {
    const families = [...parseExposition(await store().metrics()).values()];
    const found = families.map(({ name, type, samples }) => {
      const labels = new Set(samples.flatMap((sample) => Object.keys(sample.labels)));
      labels.delete('le');
      return [`\`${name}\``, type, [...labels].join(', ')];
    });
    const documented = tables.flatMap((heading) => table(heading).map((row) => row.slice(0, 3)));
    expect(documented.map(([name]) => name).sort()).toEqual(found.map(([name]) => name).sort());
    for (const row of found) expect(documented).toContainEqual(row);
  },
);
