/**
 * node bench/txn/micro.mjs [--locks 100000] [--rounds 7]: what a lock costs in the table of one shard, and how long the graph takes to find a cycle. One thread, no messages.
 * Answers: nanoseconds per lock (uncontended, many of one transaction, beside a range, contended), microseconds from the closing edge to the question that
 * goes to the shards with 1,000 waiting. Not answered: what rings and threads add (npm run bench:txn).
 */
import { CommandLine, headOf } from '../../scripts/command-line.mjs';
import { LockTable } from '../../dist/engines/txn/locks/lock-table.js';
import { LockMode } from '../../dist/engines/txn/locks/mode.js';
import { WaitGraph } from '../../dist/engines/txn/wait-graph.js';
import { hashBytes } from '../../dist/shared/hash.js';

const line = new CommandLine(headOf(import.meta.url), { locks: { type: 'string' }, rounds: { type: 'string' } });
const LOCKS = line.whole('locks', 100, 100_000);
const ROUNDS = line.whole('rounds', 1, 7);
const WAITING = 1000;

const keys = Array.from({ length: LOCKS }, (_, index) => Buffer.from(`user:${String(index).padStart(12, '0')}`));
const hashes = keys.map((key) => hashBytes(key, 0, key.length));
const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

function tableOf() {
  return new LockTable({ policy: 'detect' }, { onGrant() {}, onFail() {} });
}

function lock(table, owner, index, mode = LockMode.Exclusive) {
  const key = keys[index];
  return table.acquireKey(owner, 1, key, 0, key.length, hashes[index], mode, Infinity, 0, undefined);
}

/** Median ns of a round; `prepare` is outside the clock. */
function measure(name, perRound, run) {
  const rounds = [];
  for (let round = -3; round < ROUNDS; round++) {
    const ns = run(round + 3);
    if (round >= 0) rounds.push(ns / perRound);
  }
  console.log(`${name.padEnd(62)}${median(rounds).toFixed(0).padStart(10)} ns`);
}

const timed = (work) => {
  const began = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - began);
};

{
  const table = tableOf();
  measure('two locks and their release, per transaction', LOCKS / 2, (round) =>
    timed(() => {
      for (let i = 0; i < LOCKS; i += 2) {
        const id = round * LOCKS + i + 1;
        const owner = table.owner(id, id, 0, 1);
        lock(table, owner, i);
        lock(table, owner, i + 1);
        table.release(id);
      }
    }),
  );
  measure(`one of ${LOCKS} locks of one transaction`, LOCKS, (round) => {
    const owner = table.owner(round + 1, round, 0, 1);
    const ns = timed(() => {
      for (let i = 0; i < LOCKS; i++) lock(table, owner, i);
    });
    table.release(round + 1);
    return ns;
  });
  measure('its release, per lock', LOCKS, (round) => {
    const owner = table.owner(round + 1, round, 0, 1);
    for (let i = 0; i < LOCKS; i++) lock(table, owner, i);
    return timed(() => table.release(round + 1));
  });
  measure('a lock that is held already', LOCKS, (round) => {
    const owner = table.owner(round + 1, round, 0, 1);
    for (let i = 0; i < LOCKS; i++) lock(table, owner, i);
    const ns = timed(() => {
      for (let i = 0; i < LOCKS; i++) lock(table, owner, i, LockMode.Shared);
    });
    table.release(round + 1);
    return ns;
  });
  measure('isFree() of a plain write, nothing locked', LOCKS, () => {
    let free = 0;
    const ns = timed(() => {
      for (let i = 0; i < LOCKS; i++) if (table.isFree(hashes[i])) free++;
    });
    if (free !== LOCKS) throw new Error('something is locked');
    return ns;
  });
  measure('two locks and their release, 100 ranges held elsewhere in the space', LOCKS / 20, (round) => {
    const holder = table.owner(-1, 0, 0, 1);
    for (let i = 0; i < 100; i++)
      table.acquireRange(
        holder,
        1,
        Buffer.from(`range${i}`),
        Buffer.from(`range${i}~`),
        LockMode.Shared,
        Infinity,
        0,
        undefined,
      );
    const ns = timed(() => {
      for (let i = 0; i < LOCKS / 10; i += 2) {
        const id = round * LOCKS + i + 1;
        const owner = table.owner(id, id, 0, 1);
        lock(table, owner, i);
        lock(table, owner, i + 1);
        table.release(id);
      }
    });
    table.release(-1);
    return ns;
  });
  measure(`a hot key goes through a queue of ${WAITING}, per hand-over`, WAITING, (round) => {
    for (let i = 0; i <= WAITING; i++) {
      const id = round * LOCKS + i + 1;
      lock(table, table.owner(id, id, 0, 1), 0);
    }
    return timed(() => {
      for (let i = 0; i <= WAITING; i++) table.release(round * LOCKS + i + 1);
    });
  });
}

/** A graph in which `waiting` transactions wait as `blockersOf` says. */
function graphOf(blockersOf, ports) {
  const graph = new WaitGraph(ports);
  for (let txn = 1; txn <= WAITING; txn++)
    graph.wait(
      {
        shard: txn & 1,
        txn,
        wait: txn,
        revision: 1,
        blockers: blockersOf(txn),
        priority: 0,
        age: txn,
        space: 1,
        key: 'key',
        mode: 'exclusive',
      },
      0,
    );
  return graph;
}

for (const [name, blockersOf, closing] of [
  [
    `a cycle of 2 beside ${WAITING} waiting in one chain`,
    (txn) => [txn + 1],
    (graph, told) => {
      graph.wait({ ...told, txn: -1, wait: 2001, blockers: [-2] }, 0);
      return () => graph.wait({ ...told, txn: -2, wait: 2002, blockers: [-1] }, 0);
    },
  ],
  [
    `a cycle of 2 beside ${WAITING} waiting for one`,
    () => [5000],
    (graph, told) => {
      graph.wait({ ...told, txn: -1, wait: 2001, blockers: [-2, 5000] }, 0);
      return () => graph.wait({ ...told, txn: -2, wait: 2002, blockers: [-1] }, 0);
    },
  ],
  [
    `a cycle of 2 of whom one waits for a chain of ${WAITING}`,
    (txn) => [txn + 1],
    (graph, told) => {
      graph.wait({ ...told, txn: -1, wait: 2001, blockers: [1, -2] }, 0);
      return () => graph.wait({ ...told, txn: -2, wait: 2002, blockers: [1, -1] }, 0);
    },
  ],
  [
    `a cycle of ${WAITING + 1}`,
    (txn) => [txn + 1],
    (graph, told) => () => graph.wait({ ...told, txn: WAITING + 1, wait: 2001, blockers: [1] }, 0),
  ],
]) {
  measure(`graph: ${name}`, 1, () => {
    let questions = 0;
    const graph = graphOf(blockersOf, { confirm: () => questions++, kill() {} });
    const told = { shard: 0, revision: 1, priority: 0, age: 1, space: 1, key: 'key', mode: 'exclusive' };
    const close = closing(graph, told);
    const ns = timed(close);
    if (questions === 0) throw new Error('the cycle was not found');
    return ns;
  });
}
