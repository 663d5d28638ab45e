/** Threads play transactions, shards and the coordinator die meanwhile if asked for, and the history is judged: see workload.mjs. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { check, textOfReport } from '../../support/history/check.mjs';
import { History } from '../../support/history/history.mjs';
import { Tickets } from '../../support/history/tickets.mjs';
import { ENGINES, KEYS_PER_GROUP, decode, nameOf, play, spacesOf } from './workload.mjs';

/** A shard or a coordinator that dies five times in a minute stays down. Its death may be noticed late. */
const KILL_EVERY_MS = 20_000;
const FIRST_KILLS = 3;

/** Of each store and victim: when it was killed, over all rounds. @type {WeakMap<object, Map<number, number[]>>} */
const killedIn = new WeakMap();

/**
 * Kills shards and the coordinator until told to stop: a few at once, then as fast as they are borne.
 * @param {import('../../../dist/index.js').ConcordPool} db
 */
export class Killer {
  deaths = { shards: 0, coordinator: 0 };
  #db;
  #random;
  #isOver = false;
  #killed;

  constructor(db, random = Math.random) {
    this.#db = db;
    this.#random = random;
    if (!killedIn.has(db)) killedIn.set(db, new Map());
    this.#killed = killedIn.get(db);
    this.ended = this.#run();
  }

  get hasKilled() {
    return this.deaths.shards + this.deaths.coordinator > 0;
  }

  async stop() {
    this.#isOver = true;
    await this.ended;
    for (const deadline = performance.now() + 60_000; performance.now() < deadline;) {
      if (this.#db.stats().shards.every(({ state }) => state === 'running')) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    throw new Error('a shard that was killed is not back after 60 s');
  }

  #mayKill(victim) {
    const times = (this.#killed.get(victim) ?? []).filter((time) => performance.now() - time < KILL_EVERY_MS * 4);
    if (times.length > FIRST_KILLS) return false;
    times.push(performance.now());
    this.#killed.set(victim, times);
    return true;
  }

  async #run() {
    const { host } = this.#db;
    const shards = this.#db.stats().shards.length;
    while (!this.#isOver) {
      await new Promise((resolve) => setTimeout(resolve, this.#random() * 400));
      const victim = Math.floor(this.#random() * (shards + 1));
      if (this.#isOver || !this.#mayKill(victim)) continue;
      if (victim < shards) {
        if (this.#db.stats().shards[victim].state !== 'running') continue;
        await host.killShard(victim);
        this.deaths.shards++;
      } else if (shards > 1) {
        await host.killCoordinator();
        this.deaths.coordinator++;
      }
    }
  }
}

let groupsUsed = 0;

/**
 * @param {import('../../../dist/index.js').ConcordPool} db
 * @param {{ transactions: number, kind: 'list' | 'register', level: string, mode: string, seed: number, threads?: number, callers?: number, kills?: boolean,
 *   groups?: number, engines?: string[], settle?: () => Promise<void>, isStrict?: boolean }} options settle: after the threads have ended, before what is stored
 *   is read; isStrict: by default where there is one shard, see check.mjs
 */
export async function runHistory(db, options) {
  const {
    transactions,
    kind,
    level,
    mode,
    seed,
    threads = 2,
    callers = 6,
    kills = false,
    groups = 6,
    engines = ENGINES,
    isStrict = db.stats().shards.length === 1,
  } = options;
  const tickets = new Tickets();
  const spaces = spacesOf(db, engines);
  await Promise.all(spaces.map((space) => space.count()));
  const firstGroup = groupsUsed;
  const ticketsPerSet = groups * 250;
  const optionsOf = (thread) => ({
    ...{ kind, level, mode, callers, thread, seed: seed * 31 + thread, memory: tickets.memory },
    ...{ firstGroup, groups, ticketsPerSet, engines },
  });
  const workers = Array.from({ length: threads - 1 }, (_, index) => {
    const handle = db.handle();
    const worker = new Worker(new URL('./thread.mjs', import.meta.url), {
      workerData: { port: handle.port, options: optionsOf(index + 1) },
      transferList: [...handle.transferList],
    });
    const ready = once(worker, 'message');
    const report = ready.then(async () => (await once(worker, 'message'))[0].report);
    report.catch(() => tickets.end());
    return { ready, report };
  });
  await Promise.all(workers.map(({ ready }) => ready));
  const started = performance.now();
  const own = play(db, optionsOf(0));
  own.catch(() => tickets.end());
  const killer = kills ? new Killer(db) : undefined;
  // However fast they are, somebody has died meanwhile.
  const isShort = () => tickets.counted < transactions || killer?.hasKilled === false;
  while (isShort() && !tickets.isOver) await new Promise((resolve) => setTimeout(resolve, 5));
  tickets.end();
  const reports = await Promise.all([own, ...workers.map(({ report }) => report)]);
  const seconds = (performance.now() - started) / 1000;
  await killer?.stop();
  await options.settle?.();

  const history = new History(kind);
  const counts = {};
  for (const { parts, counts: some } of reports) {
    history.addParts(parts);
    for (const [what, n] of Object.entries(some)) counts[what] = (counts[what] ?? 0) + n;
  }
  const sets = Math.floor(tickets.taken / ticketsPerSet) + 1;
  groupsUsed = firstGroup + sets * groups;
  readAll(history, spaces, firstGroup, groupsUsed, tickets);
  const checked = performance.now();
  const report = check(history, { isStrict });
  return {
    ...{
      isClean: report.isClean,
      names: report.names,
      text: textOfReport(report),
      counts,
      transactions: history.length,
    },
    ...{
      committed: report.committed,
      edges: report.edges,
      seconds,
      checkSeconds: (performance.now() - checked) / 1000,
    },
    deaths: killer?.deaths,
  };
}

/** What is stored in the end, as transactions that begin after all others. */
function readAll(history, spaces, firstGroup, endGroup, tickets) {
  const isList = history.kind === 'list';
  for (let group = firstGroup; group < endGroup; group++) {
    const start = tickets.take();
    const ops = [];
    for (let key = group * KEYS_PER_GROUP; key < (group + 1) * KEYS_PER_GROUP; key++) {
      const entry = spaces[group % spaces.length].getEntrySync(nameOf(key));
      const list = decode(entry?.value);
      ops.push(isList ? ['r', key, list] : ['r', key, list[0] ?? 0, entry?.version ?? 0]);
    }
    history.add({ level: 'read-committed', outcome: 'ok', thread: 99, start, end: tickets.take(), ops });
  }
}
