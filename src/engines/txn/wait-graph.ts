/**
 * Who waits for whom in all shards, and who gives way when they wait in a circle.
 *
 *   wait ──▶ edges ──▶ is there a way back? ──no──▶ nothing
 *                            │ yes: a cycle
 *                            ▼
 *                   confirm to each shard in it ──one says no──▶ refuted: look again
 *                            │ all say yes                        ▲
 *                            ▼                                    │ a shard restarts, a wait of it ends, no answer in CHECK_MS
 *                   kill to the shard where the victim waits ─────┘
 *                            │
 *                            ▼ unwait: the edges go; no unwait in KILL_MS: look again
 *
 * A shard tells a wait when it begins and whenever its blockers change, with a revision that counts up. It confirms an edge if that wait goes on and
 * has had that blocker without a break since the revision that is named, and the blocker may still wait for others. Edges of a cycle were all told before the first question was sent, and all stood after
 * it: so all stood at one instant, and transactions that wait for each other at one instant wait for ever. Messages that are late only make a check fail.
 *
 * Late, doubled and reordered messages are harmless: older revisions are passed over, waits that ended are remembered for a while, answers to no
 * check are nothing. A shard that restarts forgets its waits (forgetShard), and tells new ones under numbers of their own; a graph that is new is told all
 * waits again by every shard.
 *
 * The victim has the lowest priority in the cycle, then is the youngest (its age is the largest). A lock table queues seniors first, so whom it takes
 * holds what another of the cycle waits for, or comes before it: without it this cycle is gone.
 *
 * A search goes along each edge once, shortest ways first; it begins only where somebody waits for the one who waits now. Several cycles may be
 * checked at a time, if they have no wait in common; who finds one that is being checked looks again when that is done.
 *
 * Threads: the coordinator's only. No clock: times are parameters.
 */

/** A transaction waits for a lock in a shard, or for others than before. */
export interface WaitNews {
  readonly shard: number;
  readonly txn: number;
  /** Unique in the life of the shard's thread. */
  readonly wait: number;
  /** Counts the changes of the blockers, from 1. */
  readonly revision: number;
  readonly blockers: readonly number[];
  readonly priority: number;
  /** Larger is younger. */
  readonly age: number;
  readonly space: number;
  /** In words: what the victim's error tells. */
  readonly key: string;
  readonly mode: string;
}

/** Has this wait been for that blocker ever since that revision? */
export interface EdgeQuestion {
  readonly txn: number;
  readonly wait: number;
  readonly blocker: number;
  readonly revision: number;
}

/** One edge of a cycle: `txn` waits in the shard for the key, which `waitsFor` holds or comes before it. */
export interface CycleEdge {
  readonly txn: number;
  readonly waitsFor: number;
  readonly shard: number;
  readonly space: number;
  readonly key: string;
  readonly mode: string;
}

/** What goes to shards. */
export interface WaitGraphPorts {
  /** To be answered by confirmed(): whether all of these hold. */
  confirm(shard: number, check: number, edges: readonly EdgeQuestion[]): void;
  /** This wait ends with ERR_DEADLOCK. The cycle begins with the victim; of a long one the middle is left out. */
  kill(shard: number, txn: number, wait: number, cycle: readonly CycleEdge[]): void;
}

export interface WaitGraphFigures {
  /** Now. */
  waits: number;
  edges: number;
  /** Since the graph began. */
  searches: number;
  checks: number;
  /** Checks that found an edge gone. */
  refuted: number;
  kills: number;
  longestCycle: number;
}

/** A question that has no answer for so long is given up. */
export const CHECK_MS = 1000;
/** A victim whose wait has not ended for so long may be killed again. */
export const KILL_MS = 1000;
/** A cycle that was refuted, and still is in the graph: news of it are on their way. */
export const REFUTED_MS = 5;
/** What a victim's error tells of a longer cycle: its first edges, and the last, which leads to the victim. An error must stay small. */
export const CYCLE_TOLD_MAX = 32;
/** Characters of a key it tells. */
export const KEY_TOLD_MAX = 120;
/** Ended waits that are remembered, per shard. */
const ENDED_MAX = 4096;

interface Transaction {
  readonly id: number;
  priority: number;
  age: number;
  readonly waits: Wait[];
  /** Waits that name it as a blocker. */
  incoming: number;
  /** The search that met it last, and the wait it was met by. */
  mark: number;
  metBy: Wait | undefined;
  /** To be looked at again at this time; 0: not. */
  againMs: number;
  /** The cycle that was refuted last. */
  refuted: string;
}

interface Wait {
  readonly shard: number;
  readonly number: number;
  readonly transaction: Transaction;
  readonly space: number;
  readonly key: string;
  readonly mode: string;
  revision: number;
  blockers: Transaction[];
  check: Check | undefined;
  /** Since when its end is awaited; below zero: it is not. */
  killedMs: number;
}

interface Edge {
  readonly wait: Wait;
  readonly blocker: Transaction;
}

interface Check {
  readonly number: number;
  readonly edges: readonly Edge[];
  readonly signature: string;
  /** Shards that have not answered. */
  readonly unanswered: Set<number>;
  readonly sinceMs: number;
  /** Who looks again when it is done. */
  readonly followers: Set<Transaction>;
}

interface Shard {
  readonly waits: Map<number, Wait>;
  /** In the order they ended. */
  readonly ended: Set<number>;
}

export class WaitGraph {
  readonly #ports: WaitGraphPorts;
  readonly #transactions = new Map<number, Transaction>();
  readonly #shards = new Map<number, Shard>();
  readonly #checks = new Map<number, Check>();
  readonly #killed = new Set<Wait>();
  readonly #again = new Set<Transaction>();
  #checkNumbers = 0;
  #mark = 0;
  /** Of the search: who was met, in that order. */
  readonly #met: Transaction[] = [];
  readonly #figures: WaitGraphFigures = {
    waits: 0,
    edges: 0,
    searches: 0,
    checks: 0,
    refuted: 0,
    kills: 0,
    longestCycle: 0,
  };

  constructor(ports: WaitGraphPorts) {
    this.#ports = ports;
  }

  /** Figures as they are now; the object changes with the graph. */
  get figures(): Readonly<WaitGraphFigures> {
    return this.#figures;
  }

  /** When tick() has something to do at the earliest; Infinity: nothing. */
  get nextTickMs(): number {
    let next = Infinity;
    for (const transaction of this.#again) next = Math.min(next, transaction.againMs);
    // In the order they began.
    for (const check of this.#checks.values()) {
      next = Math.min(next, check.sinceMs + CHECK_MS);
      break;
    }
    for (const wait of this.#killed) {
      next = Math.min(next, wait.killedMs + KILL_MS);
      break;
    }
    return next;
  }

  /** A wait begins or has other blockers now. */
  wait(news: WaitNews, nowMs: number): void {
    const shard = this.#shard(news.shard);
    if (shard.ended.has(news.wait)) return;
    let wait = shard.waits.get(news.wait);
    if (wait === undefined) {
      const transaction = this.#transaction(news.txn);
      transaction.priority = news.priority;
      transaction.age = news.age;
      wait = {
        shard: news.shard,
        number: news.wait,
        transaction,
        space: news.space,
        key: news.key,
        mode: news.mode,
        revision: news.revision,
        blockers: [],
        check: undefined,
        killedMs: -1,
      };
      transaction.waits.push(wait);
      shard.waits.set(news.wait, wait);
      this.#figures.waits++;
    } else if (news.revision <= wait.revision) {
      return;
    }
    wait.revision = news.revision;
    const before = wait.blockers;
    wait.blockers = [];
    for (const id of news.blockers) {
      if (id === news.txn) continue;
      const blocker = this.#transaction(id);
      blocker.incoming++;
      wait.blockers.push(blocker);
    }
    this.#figures.edges += wait.blockers.length - before.length;
    this.#dropBlockers(before);
    this.#search(wait.transaction, nowMs);
  }

  /** A wait has ended. */
  unwait(shardIndex: number, number: number, nowMs: number): void {
    const shard = this.#shard(shardIndex);
    const { ended } = shard;
    ended.add(number);
    if (ended.size > ENDED_MAX)
      for (const oldest of ended) {
        ended.delete(oldest);
        break;
      }
    const wait = shard.waits.get(number);
    if (wait === undefined) return;
    shard.waits.delete(number);
    this.#drop(wait, nowMs);
  }

  /** A shard has answered. */
  confirmed(shard: number, number: number, holds: boolean, nowMs: number): void {
    const check = this.#checks.get(number);
    if (check === undefined || !check.unanswered.has(shard)) return;
    if (!holds) {
      this.#refute(check, nowMs);
      return;
    }
    check.unanswered.delete(shard);
    if (check.unanswered.size === 0) this.#kill(check, nowMs);
  }

  /** The thread of a shard is another one, or gone: its waits are. */
  forgetShard(index: number, nowMs: number): void {
    const shard = this.#shards.get(index);
    if (shard === undefined) return;
    this.#shards.delete(index);
    for (const wait of shard.waits.values()) this.#drop(wait, nowMs);
  }

  tick(nowMs: number): void {
    for (const check of [...this.#checks.values()]) {
      if (check.sinceMs + CHECK_MS > nowMs) break;
      this.#refute(check, nowMs);
    }
    for (const wait of [...this.#killed]) {
      if (wait.killedMs + KILL_MS > nowMs) break;
      this.#killed.delete(wait);
      wait.killedMs = -1;
      this.#search(wait.transaction, nowMs);
    }
    for (const transaction of [...this.#again]) {
      if (transaction.againMs > nowMs) continue;
      this.#again.delete(transaction);
      transaction.againMs = 0;
      // What was refuted may be true by now.
      transaction.refuted = '';
      this.#search(transaction, nowMs);
    }
  }

  /** All edges, `1 → 2` each, for those who look at the store. */
  *edges(): Generator<CycleEdge> {
    for (const { waits } of this.#shards.values())
      for (const wait of waits.values()) for (const blocker of wait.blockers) yield edgeOf({ wait, blocker });
  }

  #shard(index: number): Shard {
    let shard = this.#shards.get(index);
    if (shard === undefined) {
      shard = { waits: new Map(), ended: new Set() };
      this.#shards.set(index, shard);
    }
    return shard;
  }

  #transaction(id: number): Transaction {
    let transaction = this.#transactions.get(id);
    if (transaction === undefined) {
      transaction = {
        id,
        priority: 0,
        age: 0,
        waits: [],
        incoming: 0,
        mark: 0,
        metBy: undefined,
        againMs: 0,
        refuted: '',
      };
      this.#transactions.set(id, transaction);
    }
    return transaction;
  }

  #dropBlockers(blockers: readonly Transaction[]): void {
    for (const blocker of blockers) {
      blocker.incoming--;
      this.#dropUnused(blocker);
    }
  }

  #dropUnused(transaction: Transaction): void {
    if (transaction.incoming > 0 || transaction.waits.length > 0) return;
    this.#transactions.delete(transaction.id);
    this.#again.delete(transaction);
  }

  #drop(wait: Wait, nowMs: number): void {
    const { transaction, check } = wait;
    transaction.waits.splice(transaction.waits.indexOf(wait), 1);
    this.#figures.waits--;
    this.#figures.edges -= wait.blockers.length;
    this.#dropBlockers(wait.blockers);
    wait.blockers = [];
    this.#dropUnused(transaction);
    this.#killed.delete(wait);
    if (check !== undefined) this.#refute(check, nowMs);
  }

  /** Is there a way from the transaction back to it? Then it is checked. */
  #search(origin: Transaction, nowMs: number): void {
    if (origin.incoming === 0 || origin.waits.length === 0) return;
    this.#figures.searches++;
    const edges = this.#findCycle(origin);
    if (edges === undefined) return;
    for (const { wait } of edges) {
      if (wait.check === undefined) continue;
      wait.check.followers.add(origin);
      return;
    }
    const signature = edges
      .map(({ wait, blocker }) => `${wait.shard}.${wait.number}.${wait.revision}.${blocker.id}`)
      .join();
    if (signature === origin.refuted) {
      origin.againMs = nowMs + REFUTED_MS;
      this.#again.add(origin);
      return;
    }
    this.#check(origin, edges, signature, nowMs);
  }

  /** The shortest cycle through a transaction; edges in their order, its own first. Waits that were killed count as gone. */
  #findCycle(origin: Transaction): Edge[] | undefined {
    const mark = ++this.#mark;
    const met = this.#met;
    met.length = 0;
    met.push(origin);
    origin.mark = mark;
    for (let index = 0; index < met.length; index++) {
      for (const wait of met[index]!.waits) {
        if (wait.killedMs >= 0) continue;
        for (const blocker of wait.blockers) {
          if (blocker === origin) return cycleOf(origin, wait);
          if (blocker.mark === mark || blocker.waits.length === 0) continue;
          blocker.mark = mark;
          blocker.metBy = wait;
          met.push(blocker);
        }
      }
    }
    return undefined;
  }

  #check(origin: Transaction, edges: readonly Edge[], signature: string, nowMs: number): void {
    const byShard = new Map<number, EdgeQuestion[]>();
    for (const { wait, blocker } of edges) {
      const question = { txn: wait.transaction.id, wait: wait.number, blocker: blocker.id, revision: wait.revision };
      const questions = byShard.get(wait.shard);
      if (questions === undefined) byShard.set(wait.shard, [question]);
      else questions.push(question);
    }
    const check: Check = {
      number: ++this.#checkNumbers,
      edges,
      signature,
      unanswered: new Set(byShard.keys()),
      sinceMs: nowMs,
      followers: new Set([origin]),
    };
    for (const { wait } of edges) wait.check = check;
    this.#checks.set(check.number, check);
    this.#figures.checks++;
    for (const [shard, questions] of byShard) this.#ports.confirm(shard, check.number, questions);
  }

  #end(check: Check): void {
    this.#checks.delete(check.number);
    for (const { wait } of check.edges) wait.check = undefined;
  }

  #refute(check: Check, nowMs: number): void {
    this.#end(check);
    this.#figures.refuted++;
    for (const follower of check.followers) {
      follower.refuted = check.signature;
      this.#searchAgain(follower, nowMs);
    }
  }

  #kill(check: Check, nowMs: number): void {
    this.#end(check);
    const { edges } = check;
    let { wait: victim } = edges[0]!;
    for (const { wait } of edges) if (givesWay(wait.transaction, victim.transaction)) victim = wait;
    victim.killedMs = nowMs;
    this.#killed.add(victim);
    this.#figures.kills++;
    this.#figures.longestCycle = Math.max(this.#figures.longestCycle, edges.length);
    // Beginning with the victim.
    const first = edges.findIndex(({ wait }) => wait === victim);
    const cycle = [...edges.slice(first), ...edges.slice(0, first)];
    if (cycle.length > CYCLE_TOLD_MAX) cycle.splice(CYCLE_TOLD_MAX - 1, cycle.length - CYCLE_TOLD_MAX);
    this.#ports.kill(victim.shard, victim.transaction.id, victim.number, cycle.map(edgeOf));
    for (const follower of check.followers) this.#searchAgain(follower, nowMs);
  }

  /** It may have gone meanwhile. */
  #searchAgain(transaction: Transaction, nowMs: number): void {
    if (this.#transactions.get(transaction.id) === transaction) this.#search(transaction, nowMs);
  }
}

function givesWay(a: Transaction, b: Transaction): boolean {
  if (a.priority !== b.priority) return a.priority < b.priority;
  if (a.age !== b.age) return a.age > b.age;
  return a.id > b.id;
}

function cycleOf(origin: Transaction, last: Wait): Edge[] {
  const edges: Edge[] = [{ wait: last, blocker: origin }];
  for (let at = last.transaction; at !== origin;) {
    const wait = at.metBy!;
    edges.push({ wait, blocker: at });
    at = wait.transaction;
  }
  return edges.reverse();
}

function edgeOf({ wait, blocker }: Edge): CycleEdge {
  const { shard, space, key, mode } = wait;
  const told = key.length <= KEY_TOLD_MAX ? key : `${key.slice(0, KEY_TOLD_MAX)}…`;
  return { txn: wait.transaction.id, waitsFor: blocker.id, shard, space, key: told, mode };
}
