/** metrics(): the text is what the format allows, and says what stats() says. */
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../dist/index.js';
import { codeOf, scratchDirectory } from '../support/pool-scene.js';
import { parseExposition, type Family } from './exposition.js';

async function openStore(options?: PoolOptions, directory = ':memory:'): Promise<ConcordPool> {
  const db = await ConcordPool.open(directory, { shards: 2, ...options });
  onTestFinished(() => db.close());
  return db;
}

function valueOf(families: Map<string, Family>, name: string, labels: Record<string, string> = {}): number | undefined {
  const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ''));
  return family?.samples.find(
    (sample) =>
      sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  )?.value;
}

test('every line is as the format says, and has what stats() has', async () => {
  const db = await openStore({}, scratchDirectory());
  const users = db.space('users', { engine: 'rbtree' });
  await Promise.all(Array.from({ length: 200 }, (_, i) => db.put(`k${i}`, 'v'.repeat(100))));
  await users.put('a', '1');
  for (let i = 0; i < 128; i++) db.getSync('k1');
  db.getSync('no');
  await db.iterator().all();
  await db.host!.checkpointAll();
  await vi.waitFor(() => expect(db.stats().spaces[0]!.engineMetrics.pageSplits).toBeGreaterThan(0), 60_000);
  const families = parseExposition(await db.metrics());
  const pool = { space: '', engine: 'btree' };
  expect(valueOf(families, 'concordkv_entries')).toBe(201);
  expect(valueOf(families, 'concordkv_space_entries', pool)).toBe(200);
  expect(valueOf(families, 'concordkv_space_entries', { space: 'users', engine: 'rbtree' })).toBe(1);
  expect(valueOf(families, 'concordkv_space_operations_total', { ...pool, kind: 'put' })).toBe(200);
  expect(valueOf(families, 'concordkv_space_operations_total', { ...pool, kind: 'get' })).toBe(129);
  expect(valueOf(families, 'concordkv_space_gets_total', { ...pool, kind: 'hit' })).toBe(128);
  expect(valueOf(families, 'concordkv_space_gets_total', { ...pool, kind: 'miss' })).toBe(1);
  expect(valueOf(families, 'concordkv_write_duration_seconds_count', pool)).toBe(200);
  expect(valueOf(families, 'concordkv_read_duration_seconds_count', pool)).toBe(2);
  expect(valueOf(families, 'concordkv_checkpoint_duration_seconds_count', { shard: '1' })).toBe(1);
  const { latency } = db.stats();
  const sum = valueOf(families, 'concordkv_write_duration_seconds_sum', pool)!;
  const ofUsers = valueOf(families, 'concordkv_write_duration_seconds_sum', { space: 'users' })!;
  expect(sum + ofUsers).toBeCloseTo((latency.write.meanUs * latency.write.count) / 1e6, 5);
  expect(valueOf(families, 'concordkv_engine_metric', { ...pool, kind: 'page_splits' })).toBeGreaterThan(0);
  expect(valueOf(families, 'concordkv_engine_metric', { ...pool, kind: 'leaves4_kib' })).toBeGreaterThan(0);
  expect(valueOf(families, 'concordkv_engine_memory_bytes', { ...pool, kind: 'leaf' })).toBeGreaterThan(4096);
  expect(valueOf(families, 'concordkv_group_duration_seconds_count', { shard: '0', kind: 'sync' })).toBeGreaterThan(0);
  // The unit is in the name, and is one of those that Prometheus has.
  for (const name of families.keys()) expect(name).toMatch(/^concordkv_[a-z_]+$/);
});

test('without spaces no line names one, and latencies are of all', async () => {
  const db = await openStore();
  for (let i = 0; i < 5; i++) await db.space(`space-${i}`).put('k', 'v');
  const text = await db.metrics({ spaces: false });
  expect(text).not.toContain('space=');
  const families = parseExposition(text);
  expect(valueOf(families, 'concordkv_write_duration_seconds_count')).toBe(5);
  expect(families.has('concordkv_space_entries')).toBe(false);
  expect(parseExposition(await db.metrics()).get('concordkv_space_entries')!.samples).toHaveLength(6);
});

test('options must be what they can be', async () => {
  const db = await openStore();
  expect(await codeOf(db.metrics({ spaces: 'no' as unknown as boolean }))).toBe('ERR_INVALID_ARG');
  expect(await codeOf(db.metrics(null as unknown as object))).toBe('ERR_INVALID_ARG');
});

describe('the reader of these tests refuses', () => {
  const good = '# HELP a_total A.\n# TYPE a_total counter\na_total{x="1"} 5\n';
  test('what is not a counter, a gauge or a histogram as it must be', () => {
    expect(parseExposition(good).get('a_total')!.samples).toHaveLength(1);
    const bad = [
      good.slice(0, -1),
      good.replace(' counter', ' gauge'),
      good.replace('5', '-1'),
      good.replace('5', '5x'),
      good.replace('"1"', '1'),
      good.replace('x=', 'x-y='),
      good + 'a_total{x="1"} 6\n',
      good + 'b_total 6\n',
      good.replace('# HELP a_total A.\n', ''),
      good + good,
      '# HELP h H.\n# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n',
      '# HELP h_s H.\n# TYPE h_s histogram\nh_s_bucket{le="1"} 2\nh_s_sum 1\nh_s_count 2\n',
      '# HELP h_s H.\n# TYPE h_s histogram\nh_s_bucket{le="1"} 2\nh_s_bucket{le="+Inf"} 2\nh_s_sum 1\nh_s_count 3\n',
    ];
    for (const text of bad) expect(() => parseExposition(text), text).toThrow();
  });
});
