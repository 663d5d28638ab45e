/**
 * A process of its own for tests of pools: node pool-child.mjs SCENE DIRECTORY. Prints JSON lines.
 *   hold       opens, writes one entry, prints a line, stays
 *   log        what a failing log means: FAULT (JSON for pool-faults.mjs) is on for one put
 *   open       what a failing file means for opening
 *   checkpoint what it means for checkpoints, in place and to another directory
 *   stranger   becomes another user, if it is root, and reports what it may do with the store
 */
import { rmSync, writeFileSync } from 'node:fs';
import { ConcordPool } from '../../dist/index.js';

const [scene, directory, fault] = process.argv.slice(2);
const OPTIONS = { shards: 1, segmentBytes: 262144, memoryBytes: 64 << 20 };
const failFromNow = () => writeFileSync(process.env.CONCORDKV_FAULTS, fault);
const failNoMore = () => rmSync(process.env.CONCORDKV_FAULTS, { force: true });
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

async function attempt(work) {
  try {
    return { value: await work() };
  } catch (error) {
    const { code, details, message, retryable } = error;
    return { code, file: details?.file, errno: details?.errno, message, retryable };
  }
}

async function readAll(options) {
  const db = await ConcordPool.open(directory, options);
  const entries = await db.iterator().all();
  await db.close();
  return entries;
}

if (scene === 'hold') {
  const db = await ConcordPool.open(directory, { shards: 1 });
  await db.put('held', 'yes');
  print({ pid: process.pid });
  setInterval(() => undefined, 1000);
} else if (scene === 'log') {
  const report = {};
  let db = await ConcordPool.open(directory, OPTIONS);
  await db.put('before', 'acknowledged');
  await db.put('before large', 'x'.repeat(200_000));
  failFromNow();
  report.put = await attempt(() => db.put('during', 'not acknowledged'));
  report.large = await attempt(() => db.put('during large', 'y'.repeat(300_000)));
  report.batch = await attempt(() => db.batch([{ type: 'del', key: 'before' }]));
  report.clear = await attempt(() => db.clear());
  report.state = db.stats().shards[0].state;
  report.reads = [db.getSync('before'), await db.count(), (await db.keys().all()).join()];
  failNoMore();
  report.after = await attempt(() => db.put('after', 'room again'));
  report.close = await attempt(() => db.close());
  db = await ConcordPool.open(directory, OPTIONS);
  report.reopened = await db.keys().all();
  report.value = db.getSync('before');
  await db.put('reopened', 'yes');
  await db.close();
  report.verify = await ConcordPool.verify(directory);
  print(report);
} else if (scene === 'open') {
  const report = {};
  const db = await ConcordPool.open(directory, OPTIONS);
  await db.put('a', '1');
  await db.host.checkpointAll();
  await db.put('b', '2');
  await db.close();
  failFromNow();
  report.open = await attempt(() => readAll(OPTIONS));
  failNoMore();
  report.after = await attempt(() => readAll(OPTIONS));
  print(report);
} else if (scene === 'create') {
  const report = {};
  failFromNow();
  report.open = await attempt(() => readAll(OPTIONS));
  failNoMore();
  report.after = await attempt(() => readAll(OPTIONS));
  print(report);
} else if (scene === 'checkpoint') {
  const report = {};
  const db = await ConcordPool.open(directory, { ...OPTIONS, checkpointLogBytes: 65536 });
  const event = new Promise((resolve) => db.events.once('checkpoint-failed', resolve));
  await db.put('a', '1');
  failFromNow();
  for (let i = 0; i < 20; i++) await db.put(`k${i % 4}`, `${i}`.padEnd(60_000));
  // A pool that only works in the background keeps no process alive.
  const awake = setInterval(() => undefined, 1000);
  const { shard, error } = await event;
  clearInterval(awake);
  report.event = { shard, code: error.code };
  report.checkpoint = await attempt(() => db.host.checkpointAll());
  report.copy = await attempt(() => db.checkpoint(`${directory}-copy`));
  report.put = await attempt(() => db.put('during', 'fine'));
  failNoMore();
  report.again = await attempt(() => db.host.checkpointAll());
  report.copyAgain = await attempt(() => db.checkpoint(`${directory}-second`));
  report.checkpoints = db.stats().shards[0].checkpoints;
  await db.close();
  report.verify = await ConcordPool.verify(directory);
  report.verifyCopy = await ConcordPool.verify(`${directory}-second`);
  print(report);
} else if (scene === 'stranger') {
  if (process.getuid?.() === 0) {
    process.setgroups([]);
    process.setgid(65534);
    process.setuid(65534);
  }
  print({
    open: await attempt(() => readAll({})),
    readOnly: await attempt(() => readAll({ readOnly: true })),
    verify: await attempt(() => ConcordPool.verify(directory)),
    create: await attempt(async () => (await ConcordPool.open(`${directory}/new`)).close()),
  });
}
