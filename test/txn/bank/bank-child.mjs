/** One life of the bank: audits what its predecessors left, then transfers from three threads until killed. See kill-loop.mjs. */
import { Worker } from 'node:worker_threads';
import { ConcordPool } from '../../../dist/index.js';
import { Tickets } from '../../support/history/tickets.mjs';
import { audit, openAccounts, readWitness, transfer } from './bank-rules.mjs';

const options = await new Promise((resolve) => {
  // The parent may end before this life began.
  process.once('disconnect', () => process.exit(0));
  process.once('message', resolve);
});

function problem(text) {
  process.send({ problem: `life ${options.life} (seed ${options.seed}): ${text}` }, () => process.exit(1));
  return new Promise(() => undefined);
}

const witness = readWitness(options.witness);
let db;
try {
  db = await ConcordPool.open(options.store, {
    shards: options.shards,
    durability: 'os',
    memoryBytes: 128 << 20,
    segmentBytes: 256 << 10,
    checkpointLogBytes: 512 << 10,
  });
} catch (error) {
  await problem(`open failed: ${error.code} ${error.message}`);
}
await openAccounts(db);
const problems = [...(await audit(db, witness)), ...(await db.host.check())];
if (problems.length > 0) await problem(problems.slice(0, 5).join('; '));
process.send({ verified: true, acknowledged: witness.acknowledged.length });

if (options.last) {
  await db.close();
  const report = await ConcordPool.verify(options.store);
  if (!report.ok) await problem(`verify after the end: ${JSON.stringify(report.problems.slice(0, 3))}`);
  process.disconnect();
} else {
  // The moment of the kill follows from what has been done.
  const tickets = new Tickets();
  setInterval(() => process.send({ done: tickets.counted }), 5);
  const optionsOf = (thread) => ({
    memory: tickets.memory,
    thread,
    firstNumber: witness.nextNumbers.get(thread) ?? 0,
    callers: 6,
    seed: options.seed + thread,
    witness: options.witness,
  });
  for (const thread of [1, 2]) {
    const handle = db.handle();
    const worker = new Worker(new URL('./thread.mjs', import.meta.url), {
      workerData: { port: handle.port, options: optionsOf(thread) },
      transferList: [...handle.transferList],
    });
    worker.on('error', (error) => void problem(`thread ${thread}: ${error.code ?? ''} ${error.stack}`));
  }
  // Checkpoints cut the log while transactions are prepared.
  const checkpoint = async () => {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 40));
      await db.host.checkpointAll();
    }
  };
  try {
    const { failures } = await Promise.race([transfer(db, { ...optionsOf(0), isOver: () => false }), checkpoint()]);
    await problem(`the transfers came to an end: ${JSON.stringify(failures)}`);
  } catch (error) {
    await problem(`a call failed: ${error.code ?? ''} ${error.stack}`);
  }
}
