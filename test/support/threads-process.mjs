/** A process whose main ends without close(), in the middle of something. Arguments: directory, scene. */
import { Worker, isMainThread, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { ConcordPool } from '../../dist/index.js';

const ENTRIES = 1000;
const options = { shards: 2, memoryBytes: 128 << 20, segmentBytes: 256 << 10, checkpointLogBytes: 128 << 10 };

async function write(db, from, count, durability) {
  const puts = [];
  for (let i = from; i < from + count; i++) puts.push(db.put(`key${i}`, `value ${i}`.padEnd(200, '.'), { durability }));
  await Promise.all(puts);
}

const scenes = {
  async 'ends its main'(db) {
    await write(db, 0, ENTRIES, 'sync');
  },
  async 'has calls in flight'(db) {
    void write(db, 0, ENTRIES, 'sync');
  },
  async 'has an open snapshot and iterator'(db) {
    await write(db, 0, ENTRIES, 'os');
    globalThis.kept = [await db.snapshot(), db.iterator()];
    await globalThis.kept[1].next();
  },
  async 'calls process.exit'(db) {
    await write(db, 0, ENTRIES, 'os');
    process.exit(0);
  },
  async 'is writing a checkpoint'(db) {
    await write(db, 0, ENTRIES, 'os');
    void db.host.checkpointAll();
  },
  async 'has attached threads'(db) {
    await write(db, 0, ENTRIES / 2, 'os');
    const handle = db.handle();
    const worker = new Worker(fileURLToPath(import.meta.url), {
      workerData: { port: handle.port },
      transferList: handle.transferList,
    });
    // This main is done: the thread ends by itself when its own main is.
    void worker;
  },
  async 'has a handle nobody took'(db) {
    await write(db, 0, ENTRIES, 'os');
    db.handle();
  },
};

if (isMainThread) {
  const [directory, scene] = process.argv.slice(2);
  const db = await ConcordPool.open(directory, options);
  await scenes[scene](db);
} else {
  const db = await ConcordPool.attach(workerData);
  await write(db, ENTRIES / 2, ENTRIES / 2, 'os');
}
