/** The flow of writes: what happens to writers when files do not keep up. */
import { expect, test, vi } from 'vitest';
import type { BackpressureEvent } from '../../dist/index.js';
import { WriteGate } from '../../dist/actors/shard/write-gate.js';
import type { EngineBackground } from '../../dist/engines/engine.js';
import type { WriteFlow } from '../../dist/engines/lsm/types.js';
import { codeOf, scratchDirectory } from '../support/pool-scene.js';
import { OPTIONS, fill, keyOf, openLsm, valueOf } from './scene.js';

const WAIT = { timeout: 100_000, interval: 20 };
const FREE: WriteFlow = { state: 'free', bytesPerSecond: Infinity, cause: '' };

function gateOn(flow: WriteFlow): { gate: WriteGate; set(flow: WriteFlow): void; told: WriteFlow[] } {
  let current = flow;
  const told: WriteFlow[] = [];
  const background = { flow: () => current } as unknown as EngineBackground;
  const gate = new WriteGate(background, (changed) => told.push(changed));
  return { gate, told, set: (next) => (current = next) };
}

/** Bytes that get through within a time, from a writer that never rests; and its longest wait. */
function throughput(gate: WriteGate, requestBytes: number, forMs: number): { bytes: number; longestMs: number } {
  let bytes = 0;
  let longestMs = 0;
  for (let nowMs = 1000; nowMs < 1000 + forMs;) {
    const waitMs = gate.waitMs(nowMs);
    longestMs = Math.max(longestMs, waitMs);
    if (waitMs === 0) {
      gate.took(requestBytes);
      bytes += requestBytes;
      nowMs += 0.01;
    } else nowMs += waitMs;
  }
  return { bytes, longestMs };
}

test.each([
  [100, 5e6],
  [1000, 1e6],
  [4000, 50e6],
  [100, 2e6],
])('requests of %i bytes get through at the rate of %i bytes per second, in short waits', (requestBytes, rate) => {
  const { gate } = gateOn({ state: 'slowed', bytesPerSecond: rate, cause: 'level0' });
  const { bytes, longestMs } = throughput(gate, requestBytes, 10_000);
  expect(bytes / 10).toBeGreaterThan(rate * 0.9);
  expect(bytes / 10).toBeLessThan(rate * 1.1);
  expect(longestMs).toBeLessThan(50);
  const { stalls, stalledMs } = gate.figures();
  expect(stalls).toBeGreaterThan(10);
  expect(stalledMs.level0).toBeGreaterThan(1000);
  expect(stalledMs.level0).toBeLessThanOrEqual(10_100);
});

test('a request larger than all that may come at once waits a short time, and none when writes are free', () => {
  const { gate, set } = gateOn({ state: 'slowed', bytesPerSecond: 1e6, cause: 'debt' });
  const { bytes, longestMs } = throughput(gate, 8 << 20, 5000);
  expect(bytes).toBeGreaterThan(0);
  expect(longestMs).toBeLessThan(50);
  set(FREE);
  expect(gate.waitMs(20_000)).toBe(0);
  expect(gate.flow).toEqual(FREE);
});

test('what is stopped waits, what is stopped by a full disk is refused, and each change is told once', () => {
  const { gate, set, told } = gateOn(FREE);
  expect(gate.waitMs(1000)).toBe(0);
  set({ state: 'stopped', bytesPerSecond: 0, cause: 'memtables' });
  for (let nowMs = 1010; nowMs < 1500; nowMs += 10) expect(gate.waitMs(nowMs)).toBeGreaterThan(0);
  set({ state: 'stopped', bytesPerSecond: 0, cause: 'disk-full' });
  expect(() => gate.waitMs(1500)).toThrow(expect.objectContaining({ code: 'ERR_DISK_FULL' }) as Error);
  set(FREE);
  expect(gate.waitMs(1600)).toBe(0);
  expect(told.map(({ state, cause }) => `${state} ${cause}`)).toEqual([
    'stopped memtables',
    'stopped disk-full',
    'free ',
  ]);
  expect(gate.figures().stalls).toBe(1);
  expect(gate.figures().stalledMs.memtables).toBeGreaterThan(450);
});

test('writers of a tree that cannot keep up are slowed and stopped, told of it, never refused, and free again afterwards', async () => {
  const db = await openLsm(scratchDirectory(), { backgroundBytesPerSecond: 40 << 10, shards: 1 });
  const other = db.space('other', { engine: 'btree' });
  const events: BackpressureEvent[] = [];
  db.events.on('backpressure', (event) => events.push(event));
  let acknowledged = 0;
  const noise = (i: number): string => {
    let text = '';
    for (let n = i + 1; text.length < 300; n = (n * 48_271) % 2_147_483_647) text += n.toString(36);
    return text;
  };
  const puts = Array.from({ length: 8000 }, (_, i) => db.put(keyOf(i), noise(i)).then(() => acknowledged++));
  await vi.waitFor(() => expect(events.some(({ state }) => state === 'stopped')).toBe(true), WAIT);
  expect(acknowledged).toBeLessThan(8000);
  // Reads go on, and so does a thread that writes elsewhere, when its turn in the ring has come.
  expect(db.getSync(keyOf(0))).toBe(noise(0));
  await vi.waitFor(() => {
    const { lsm } = db.stats().spaces[0]!;
    expect(lsm!.shards[0]!.flow.state).not.toBe('free');
    expect(lsm!.stalls).toBeGreaterThan(0);
    expect(Object.values(lsm!.stalledMs).reduce((sum, ms) => sum + ms, 0)).toBeGreaterThan(100);
  }, WAIT);
  await db.configure({ backgroundBytesPerSecond: 0 });
  expect(await Promise.all(puts)).toHaveLength(8000);
  await other.put('a', 'b');
  await vi.waitFor(() => expect(events.at(-1)!.state).toBe('free'), WAIT);
  for (const event of events) {
    expect(event).toMatchObject({ shard: 0, space: '' });
    expect(['memtables', 'level0', 'debt', '']).toContain(event.cause);
    expect(event.bytesPerSecond === Infinity).toBe(event.state === 'free');
  }
  for (let i = 0; i < 8000; i += 97) expect(db.getSync(keyOf(i))).toBe(noise(i));
});

test('another space on the shard is written by another thread while a tree is stopped', async () => {
  const db = await openLsm(scratchDirectory(), {
    lsm: { ...OPTIONS.lsm, compression: 'none' },
    backgroundBytesPerSecond: 20 << 10,
  });
  const stopped = new Promise((resolve) => {
    db.events.on('backpressure', ({ state }) => {
      if (state === 'stopped') resolve(state);
    });
  });
  // At this rate it takes minutes until the tree has taken all of it.
  const count = 10_000;
  let acknowledged = 0;
  const puts = Array.from({ length: count }, (_, i) =>
    db.put(keyOf(i), String(Math.sin(i)).repeat(20)).then(() => acknowledged++),
  );
  await stopped;
  const { Worker } = await import('node:worker_threads');
  const { port, control, transferList } = db.handle();
  const worker = new Worker(new URL('./other-space.mjs', import.meta.url), {
    workerData: { handle: { port, control } },
    transferList: [...transferList],
  });
  expect(
    await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    }),
  ).toBe('written');
  expect(acknowledged).toBeLessThan(count);
  await db.configure({ backgroundBytesPerSecond: 0 });
  await Promise.all(puts);
  await worker.terminate();
});

test('a store that is closed while its writers are stopped serves them first', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory, { lsm: { ...OPTIONS.lsm, frozenMax: 1 } });
  const filling = fill(db, 8000);
  await db.put('last', 'one');
  const all = Array.from({ length: 500 }, (_, i) => db.put(keyOf(10_000 + i), valueOf(10_000 + i)));
  await filling;
  await db.close();
  await Promise.all(all);
  const again = await openLsm(directory);
  expect(await again.count()).toBe(8501);
  expect(await codeOf(db.put('a', 'b'))).toBe('ERR_CLOSED');
});
