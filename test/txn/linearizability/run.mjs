/** Threads that call single-key operations at once, and the judgement over what they saw. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { checkLinearizable } from '../../support/history/linearizability.mjs';
import { Tickets } from '../../support/history/tickets.mjs';
import { ENGINES, call } from './callers.mjs';

/**
 * @param {import('../../../dist/index.js').ConcordPool} db
 * @param {{ operations: number, seed: number, transactions?: boolean, disturb?: (isOver: () => boolean) => Promise<void> }} options
 */
export async function runLinearizability(db, { operations: target, seed, transactions = true, disturb }) {
  const tickets = new Tickets();
  await Promise.all(ENGINES.map((engine) => db.space(`linear-${engine}`, { engine }).count()));
  const optionsOf = (thread) => ({ callers: 4, seed: seed + thread, thread, memory: tickets.memory, transactions });
  const threads = [1, 2].map((thread) => {
    const handle = db.handle();
    const worker = new Worker(new URL('./thread.mjs', import.meta.url), {
      workerData: { port: handle.port, options: optionsOf(thread) },
      transferList: [...handle.transferList],
    });
    const ready = once(worker, 'message');
    const report = ready.then(async () => (await once(worker, 'message'))[0].report);
    return { ready, report };
  });
  await Promise.all(threads.map(({ ready }) => ready));
  const running = [call(db, optionsOf(0)), ...threads.map(({ report }) => report)];
  const disturbing = disturb?.(() => tickets.isOver);
  while (tickets.counted < target) await new Promise((resolve) => setTimeout(resolve, 5));
  tickets.end();
  const reports = await Promise.all(running);
  await disturbing;
  const operations = reports.flatMap((report) => report.operations);
  const failures = {};
  for (const report of reports) {
    for (const [code, count] of Object.entries(report.failures)) failures[code] = (failures[code] ?? 0) + count;
  }
  const kinds = {};
  for (const { kind, end } of operations) {
    const name = end === Infinity ? `${kind}, unknown` : kind;
    kinds[name] = (kinds[name] ?? 0) + 1;
  }
  return { ...checkLinearizable(operations), kinds, failures };
}
