/**
 * The coordinator of transactions over several shards: decides, each once, and carries decisions to the shards by the commit board. A state machine
 * without threads, which gets times from its callers; actors/coordinator is the thread around it.
 *
 * What is known of an id, and what becomes of it. Whatever is not in the table is passed over.
 *
 *   state      meaning                                   event                             then
 *   ─────────  ────────────────────────────────────────  ────────────────────────────────  ─────────────────────────────────────────────────────────
 *   unknown    presumed to be aborted                    decide                            open; refused where it cannot be (below)
 *                                                        ask, its client is here           frame with FENCE written: fenced, the shard hears "aborted";
 *                                                                                          not written: unknown, the shard asks again
 *                                                        ask, its client is gone           the shard hears "aborted": nobody is left to decide it
 *   open       in the frame being built                  frame written (synced, if asked)  decided
 *                                                        frame refused, cut off            refused
 *                                                        frame may be in the file          doubtful
 *                                                        ask                               answered with the frame's outcome
 *                                                        thread dies                       unknown, or decided if the frame was whole. Its request is still
 *                                                                                          in the ring: met again
 *   doubtful   its record may or may not be durable      the file could be cut             refused
 *                                                        the log has failed                requests hear "unknown"; stays so for this life of the thread
 *                                                        its client's session ends         as before; shards keep what the client has prepared
 *                                                        ask                               no answer
 *                                                        thread or process dies            unknown or decided, as recovery finds
 *   decided    to be committed, for ever                 room on the board                 on board, with a number N; doorbells of the shards
 *                                                        decide, ask                       waits for the same end; "committed"
 *                                                        thread dies                       decided (by the log)
 *   on board   shards apply it when they come to it      every shard has                   applied; requests hear "done"
 *                                                        decide, ask                       as before
 *                                                        thread dies                       on board (shared memory)
 *                                                        process dies                      decided; on board again, with a new N, when all shards have
 *                                                                                          recovered; those that had applied it pass over it
 *   applied    only the log still names it               no shard can lose it any more      END with one of the next frames: unknown
 *                                                        decide, ask                       "done"; "committed"
 *   fenced     never to be decided (logged)              decide                            ERR_CONFLICT
 *                                                        ask                               "aborted"
 *                                                        its client's session ends         END: unknown
 *                                                        process dies                      unknown: no client is left
 *   refused    not to be decided (this thread knows)     decide                            ERR_CONFLICT
 *                                                        ask                               as if unknown: a successor would not know
 *                                                        its client's session ends         unknown
 *                                                        thread dies                       unknown; told already: the ring says so (decision-queue.ts)
 *
 * A decide is refused with ERR_DISK_FULL, ERR_READ_ONLY (the log has failed), ERR_SHARD_FAILED (a participant is down for good, or the board is full
 * because one is), ERR_CONFLICT (fenced, or a shard that only reads may have lost its locks). Every error says in `details.outcome` what is known: 'aborted' (nothing was decided nor will be: whoever asked
 * releases the shards), 'unknown' (they must not be released: the next opening knows), 'committed' (a shard applies it when the store is opened again).
 *
 * When may an END be told? When no shard can come back and ask: the record of its outcome must be on each shard's disk. Nobody syncs a log for its sake:
 * the id is kept until that has happened by itself (awaiting-decisions.ts).
 *
 * Nor before its requests are completed: a successor that meets one again would not know it. What comes again even later (a copy of a message) is decided
 * anew: the shards, which know nothing of it, pass over it.
 *
 * Must hold: no answer before what it says is as durable as was asked; no id both told "aborted" and put on the board; numbers on the board ascend. In a
 * later life decisions come to the board in the same order, for shards may have applied some of them before: a change feed waits for each where it meets it.
 * Threads: one.
 */
import { ConcordError, toErrorRecord, type ErrorRecord } from '../../shared/errors.js';
import { IdMap } from '../../shared/id-map.js';
import { AppliedDecisions, type OrderedDecision } from './applied-decisions.js';
import { AwaitingDecisions, type ShardSyncs } from './awaiting-decisions.js';
import { isMaskOf, type DecisionLog } from './decision-log.js';

/** The durability level at which a decision is synced (Durability.Sync). */
const SYNC_LEVEL = 2;
/** Records of one frame: bounds what waits for one sync. */
const FRAME_RECORDS_MAX = 4096;
/** ENDs go with the next frame; by themselves when the first has waited so long. */
const ENDS_MS_MAX = 1000;
/** Between two attempts to cut off what a full disk has left, or to write the log anew. */
const RETRY_MS = 100;
/** Of those that were refused, so many are remembered. */
const REFUSED_MAX = 1 << 16;
/** Between two looks at entries behind one that cannot be applied. */
const FAILED_LOOK_MS = 50;

const NUMBER_MAX = 2 ** 48 - 1;
/** In the place of a client's slot: whoever it is. What is fenced so stays so for this life of the process. */
const UNKNOWN_CLIENT = 0xffffffff;

/** The commit board, as the coordinator uses it. */
export interface DecisionBoard {
  readonly isFull: boolean;
  claim(): void;
  append(id: number, number: number, maskLow: number, maskHigh: number): void;
  unclaim(): void;
  /** From before a look at the restarts of shards, until all has a number that was accepted because of it: see commit-board.ts. */
  beginRound(): void;
  endRound(): void;
  /** Tells each entry that is applied everywhere once, oldest first, up to the first that is not. */
  collect(done: (id: number, number: number) => void): void;
  forEach(visit: (entry: BoardEntryView) => void): void;
}

export interface BoardEntryView {
  readonly id: number;
  readonly participantsLow: number;
  readonly participantsHigh: number;
  readonly appliedLow: number;
  readonly appliedHigh: number;
}

/** What there is to know of the shards. */
export interface ShardLogs extends ShardSyncs {
  /** How often shards were replaced. */
  restarts(): number;
  /** Down for good. */
  isFailed(shard: number): boolean;
}

/** Where answers go. */
export interface CoordinatorPorts {
  takeNumber(): number;
  /** Something is on the board for these. */
  wakeShards(maskLow: number, maskHigh: number): void;
  /** A request of a client is done, or failed; in any order. */
  answer(client: number, request: number, error: ErrorRecord | undefined): void;
  /** To a shard that has asked. */
  tellOutcome(shard: number, id: number, isCommitted: boolean): void;
  /** For who wants to know how long it takes, ms: from the request to the log; from there until every shard has applied it. */
  readonly clock?: { nowMs(): number; decided(ms: number): void; applied(ms: number): void };
}

export interface CoordinatorCounts {
  /** Transactions decided to be committed. */
  decisions: number;
  /** Refused, or given up by a fence. */
  aborts: number;
  fences: number;
  syncs: number;
  /** Frames with decisions. */
  groups: number;
}

const State = { Open: 0, Doubtful: 1, Decided: 2, OnBoard: 3, Applied: 4 } as const;

class Decision implements OrderedDecision {
  state: number = State.Open;
  /** What all that wait were told, when it was not "done". */
  told: ErrorRecord | undefined;
  /** Requests that a successor would meet again. */
  requests = 0;
  /** Once it is decided; 0: its log has forgotten it. */
  order = 0;
  /** No shard can ask for it any more. */
  isSafe = false;
  /** From an earlier life: there may be requests of which nothing is known yet. */
  isRecovered = false;
  /** On the clock of the ports: since when it has been open, then decided; 0: unknown. */
  sinceMs = 0;

  constructor(
    readonly id: number,
    readonly maskLow: number,
    readonly maskHigh: number,
    /** Slot of the client that asked. */
    readonly client: number,
    readonly level: number,
    /** Requests that wait for the end: client, number, client, number … */
    readonly waiting: number[] = [],
  ) {}
}

interface Ask {
  readonly shard: number;
  readonly id: number;
  readonly client: number;
}

export class Coordinator {
  readonly counts: CoordinatorCounts = { decisions: 0, aborts: 0, fences: 0, syncs: 0, groups: 0 };
  readonly #log: DecisionLog;
  readonly #board: DecisionBoard;
  readonly #shards: ShardLogs;
  readonly #ports: CoordinatorPorts;
  readonly #isKept: boolean;

  readonly #decisions = new IdMap<Decision>();
  /** What is applied and has no request left, until its END is logged. */
  readonly #applied = new AppliedDecisions();
  /** Clients by ids. */
  readonly #fenced: Map<number, number>;
  readonly #refused = new Map<number, number>();
  readonly #sessions = new Set<number>();
  #asks: Ask[] = [];
  /** Open ones, in the order they came. */
  #group: Decision[] = [];
  #doubtful: Decision[] = [];
  /** By this thread, or found in the log. */
  #decidedCount = 0;
  /** Decided, not on the board: from #queueHead on. */
  #queue: Decision[] = [];
  #queueHead = 0;
  /** Applied, and may be ended; and since when the first waits. (−Infinity: times are no small integers, see WalWriter.) */
  #ends: number[] = [];
  #endsSinceMs = -Infinity;
  readonly #awaiting: AwaitingDecisions;
  #collectedCount = 0;
  #collectedMs = 0;
  /** Of the last step. */
  #nowMs = 0;
  #isBegun = false;
  /** Every request that a predecessor has left was met. */
  #isCaughtUp: boolean;
  #retryMs = -Infinity;
  #failedLookMs = -Infinity;
  #failure: ConcordError | undefined;

  /**
   * `isKept`: the log survives this thread; of one that does not, the fences may (DecisionLogOptions.fences). `isRestart`: the process is the one that has
   * written the log.
   */
  constructor(
    log: DecisionLog,
    board: DecisionBoard,
    shards: ShardLogs,
    ports: CoordinatorPorts,
    isKept: boolean,
    isRestart: boolean,
  ) {
    this.#log = log;
    this.#board = board;
    this.#shards = shards;
    this.#awaiting = new AwaitingDecisions(shards);
    this.#ports = ports;
    this.#isKept = isKept;
    this.#isCaughtUp = !isRestart;
    const { decided, fenced } = log.recovered;
    // A process that has just begun has no client that could decide what was fenced.
    this.#fenced = new Map(isRestart ? fenced : []);
    if (!isRestart) for (const id of fenced.keys()) this.#noteEnd(id);
    for (const { id, maskLow, maskHigh, client } of decided.values()) {
      const decision = new Decision(id, maskLow, maskHigh, client, SYNC_LEVEL);
      decision.state = State.Decided;
      decision.isRecovered = true;
      decision.order = ++this.#decidedCount;
      this.#decisions.set(id, decision);
    }
  }

  /** Every shard has recovered, every client is known: takes over the board, puts there what is decided and missing. */
  begin(): void {
    // A predecessor may have died under its claim; what it had not appended is not there.
    this.#board.unclaim();
    this.#board.forEach(({ id, participantsLow, participantsHigh }) => {
      let decision = this.#decisions.get(id);
      if (decision === undefined) {
        decision = new Decision(id, participantsLow, participantsHigh, UNKNOWN_CLIENT, SYNC_LEVEL);
        decision.isRecovered = true;
        this.#decisions.set(id, decision);
      }
      decision.state = State.OnBoard;
    });
    // In the order in which they were decided.
    for (const id of this.#log.recovered.decided.keys()) {
      const decision = this.#decisions.get(id);
      if (decision?.state === State.Decided) this.#queue.push(decision);
    }
    // A predecessor may have died between the end of their client's session and the record of it.
    for (const [id, client] of this.#fenced) {
      if (this.#isHere(client)) continue;
      this.#fenced.delete(id);
      this.#noteEnd(id);
    }
    this.#isBegun = true;
  }

  /** Set since the log has failed: nothing is decided any more, what is decided goes on. */
  get failure(): ConcordError | undefined {
    return this.#failure;
  }

  /** Decided ones that are not on the board yet. */
  get offBoard(): number {
    return this.#queue.length - this.#queueHead;
  }

  /** Ids that are known in any way. */
  get known(): number {
    return this.#decisions.size + this.#applied.size + this.#fenced.size + this.#refused.size;
  }

  /** Whether requests had better wait where they are: a frame is full, or the board is. */
  get isFull(): boolean {
    return !this.#isBegun || this.#group.length >= FRAME_RECORDS_MAX || this.offBoard > 0;
  }

  /** Whether what the id's request was to bring about is beyond this thread: on the board, ended, or not to be known. */
  isSettled(id: number): boolean {
    const decision = this.#decisions.get(id);
    if (decision === undefined) return true;
    return decision.state >= State.OnBoard || decision.told !== undefined;
  }

  /** The requests that were there when it began have all been met. */
  caughtUp(): void {
    if (this.#isCaughtUp) return;
    this.#isCaughtUp = true;
    for (const decision of this.#decisions.values()) this.#tryLetGo(decision);
  }

  /** A request about the id is completed: nobody will meet it again. */
  completed(id: number): void {
    const decision = this.#decisions.get(id);
    if (decision === undefined || decision.requests === 0) return;
    decision.requests--;
    this.#tryLetGo(decision);
  }

  /** The end: every shard has closed its log, with all that it has applied. What is left is what the next opening has to carry out. */
  endApplied(): void {
    if (this.#failure !== undefined || this.#log.isInDoubt || this.#log.sizeBytes === 0) return;
    for (const { id, state } of this.#decisions.values()) if (state === State.Applied) this.#decisions.delete(id);
    this.#applied.clear();
    this.#ends = [];
    this.#awaiting.clear();
    this.#fenced.clear();
    this.#log.restate(inOrder(this.#decisions.values()), this.#fenced);
  }

  /** A new session of the client begins. */
  sessionBegun(client: number): void {
    this.#sessions.add(client);
  }

  /**
   * No request of the client will come any more. False: of what was asked for in its slot something may be decided, and only the next opening will know. So it is
   * for whoever has the slot: shards know transactions by it.
   */
  sessionEnded(client: number): boolean {
    this.#sessions.delete(client);
    for (const [id, owner] of this.#fenced) {
      if (owner !== client) continue;
      this.#fenced.delete(id);
      this.#noteEnd(id);
    }
    for (const [id, owner] of this.#refused) if (owner === client) this.#refused.delete(id);
    let isKnown = true;
    for (const decision of this.#decisions.values()) {
      const { waiting } = decision;
      // Its slot may be another's, whose requests have the same numbers.
      for (let i = waiting.length - 2; i >= 0; i -= 2) if (waiting[i] === client) waiting.splice(i, 2);
      if (decision.client === client && decision.state === State.Doubtful) isKnown = false;
    }
    return isKnown;
  }

  /**
   * All participants have voted yes. The answer comes by the port, now or in a later step. `voteEpoch`: 0, or 1 + the restarts of shards as of which those
   * that only read have voted. One that was replaced since then has lost its locks, and what it was asked to keep may be written over.
   */
  decide(
    client: number,
    request: number,
    id: number,
    maskLow: number,
    maskHigh: number,
    level: number,
    voteEpoch = 0,
  ): void {
    const known = this.#decisions.get(id) ?? this.#takeBack(id);
    if (known !== undefined) {
      known.requests++;
      if (known.state === State.Applied) this.#ports.answer(client, request, undefined);
      else if (known.told !== undefined) this.#ports.answer(client, request, known.told);
      else known.waiting.push(client, request);
      return;
    }
    if (voteEpoch !== 0) this.#board.beginRound();
    const refusal = this.#refusalOf(id, maskLow, maskHigh, voteEpoch);
    if (refusal !== undefined) {
      this.#refuse(id, client, [client, request], refusal);
      return;
    }
    const decision = new Decision(id, maskLow, maskHigh, client, level, [client, request]);
    decision.requests = 1;
    decision.sinceMs = this.#ports.clock?.nowMs() ?? 0;
    this.#decisions.set(id, decision);
    this.#group.push(decision);
  }

  /** A request comes again about one that is applied and had none left: until it is completed the id is not forgotten, unless that is on its way. */
  #takeBack(id: number): Decision | undefined {
    const record = this.#applied.get(id);
    if (record === undefined) return undefined;
    const decision = new Decision(id, record.maskLow, record.maskHigh, record.client, SYNC_LEVEL);
    decision.state = State.Applied;
    decision.order = record.order;
    if (this.#applied.isEnding(id)) return decision;
    this.#applied.delete(id);
    this.#decisions.set(id, decision);
    return decision;
  }

  #refusalOf(id: number, maskLow: number, maskHigh: number, voteEpoch: number): ConcordError | undefined {
    const { count } = this.#shards;
    if (!(Number.isInteger(id) && id >= 1 && id <= NUMBER_MAX) || !isMaskOf(count, maskLow, maskHigh)) {
      return new ConcordError('ERR_INTERNAL', `a decision about ${id} for shards that do not exist`);
    }
    if (this.#fenced.has(id) || this.#refused.has(id)) {
      return new ConcordError('ERR_CONFLICT', `transaction ${id} was given up: it took too long to be decided`);
    }
    if (this.#failure !== undefined) return this.#readOnly();
    if (this.#log.isInDoubt) return new ConcordError('ERR_DISK_FULL', 'the decision log waits for space on its disk');
    // Without a log it may be one that was applied, and answered by nobody.
    if (!this.#isKept && !this.#isCaughtUp) return undefined;
    if (voteEpoch !== 0 && voteEpoch !== 1 + this.#shards.restarts())
      return new ConcordError('ERR_CONFLICT', 'a shard was replaced after it had voted; nothing was applied');
    for (let shard = 0; shard < count; shard++) {
      if (!isMember(maskLow, maskHigh, shard) || !this.#shards.isFailed(shard)) continue;
      return new ConcordError('ERR_SHARD_FAILED', `shard ${shard} failed repeatedly and stays down`, { shard });
    }
    if (!this.#board.isFull) return undefined;
    for (let shard = 0; shard < count; shard++) {
      if (!this.#shards.isFailed(shard)) continue;
      const message = `too much waits for shard ${shard}, which stays down; reopen the store`;
      return new ConcordError('ERR_SHARD_FAILED', message, { shard });
    }
    return undefined;
  }

  /** A shard has prepared the transaction of a client and hears nothing of its outcome. It asks again if no answer comes. */
  ask(shard: number, id: number, client: number = UNKNOWN_CLIENT): void {
    if (this.#asks.length >= FRAME_RECORDS_MAX) return;
    this.#asks.push({ shard, id, client });
  }

  /** When step() has something to do by itself, on the clock of its callers; Infinity: never. */
  get dueMs(): number {
    if (this.#failure !== undefined) return Infinity;
    if (this.#log.isInDoubt) return this.#retryMs;
    return this.#ends.length > 0 ? this.#endsSinceMs + ENDS_MS_MAX : Infinity;
  }

  /** One frame of decisions, one look at the board. Returns how much has changed. */
  step(nowMs: number): number {
    if (!this.#isBegun) return 0;
    this.#nowMs = nowMs;
    let changed = 0;
    if (this.#log.isInDoubt && this.#failure === undefined && nowMs >= this.#retryMs) this.#endDoubt(nowMs);
    this.#awaiting.release(this.#noteSafe);
    const isDue = this.#ends.length > 0 && nowMs >= this.#endsSinceMs + ENDS_MS_MAX;
    if (this.#group.length > 0 || this.#asks.length > 0 || isDue) changed += this.#logFrame(nowMs);
    changed += this.#collect();
    changed += this.#fillBoard();
    if (this.#group.length === 0 && this.#doubtful.length === 0 && this.offBoard === 0) this.#board.endRound();
    if (nowMs >= this.#failedLookMs) this.#lookPastFailed(nowMs);
    if (this.#log.isLong && nowMs >= this.#retryMs) this.#restate(nowMs);
    return changed;
  }

  // ---- the log ------------------------------------------------------------------------------------------------------------------------------

  #logFrame(nowMs: number): number {
    const asks = this.#asks;
    const group = this.#group;
    this.#asks = [];
    this.#group = [];
    if (this.#failure !== undefined || this.#log.isInDoubt) {
      this.#refuseAll(group, this.#failure === undefined ? diskFull() : this.#readOnly());
      this.#answerAsks(asks);
      return group.length;
    }
    const fencing = this.#toFence(asks);
    const ends = this.#ends.splice(0, FRAME_RECORDS_MAX);
    try {
      let level = 0;
      for (const { id, maskLow, maskHigh, client, level: asked } of group) {
        this.#log.decide(id, maskLow, maskHigh, client);
        if (asked > level) level = asked;
      }
      for (const [id, client] of fencing) this.#log.fence(id, client);
      for (const id of ends) this.#log.end(id);
      if (this.#log.records > 0) this.#log.write();
      if (level >= SYNC_LEVEL) {
        this.counts.syncs++;
        this.#log.sync();
      }
    } catch (error) {
      this.#ends = ends.concat(this.#ends);
      this.#endsSinceMs = nowMs;
      this.#frameFailed(error, group, nowMs);
      this.#answerAsks(asks);
      return group.length;
    }
    for (const id of ends) this.#applied.delete(id);
    for (const [id, client] of fencing) this.#fenced.set(id, client);
    this.counts.fences += fencing.size;
    this.counts.aborts += fencing.size;
    const { clock } = this.#ports;
    const loggedMs = group.length === 0 ? 0 : (clock?.nowMs() ?? 0);
    for (const decision of group) {
      decision.state = State.Decided;
      decision.order = ++this.#decidedCount;
      clock?.decided(loggedMs - decision.sinceMs);
      decision.sinceMs = loggedMs;
      this.#queue.push(decision);
    }
    this.counts.decisions += group.length;
    if (group.length > 0) this.counts.groups++;
    this.#answerAsks(asks);
    return group.length + asks.length + ends.length;
  }

  /** What of the group is known after a write or a sync that failed. @throws what is no failure of the disk */
  #frameFailed(error: unknown, group: readonly Decision[], nowMs: number): void {
    if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL' || error.code === 'ERR_BATCH_TOO_LARGE')
      throw error;
    this.#log.discard();
    if (this.#log.failure !== undefined) {
      this.#fail(group);
    } else if (this.#log.isInDoubt) {
      // Only a file system that is too full even for cutting a file: it is tried again until it is known.
      for (const decision of group) decision.state = State.Doubtful;
      this.#doubtful.push(...group);
      this.#retryMs = nowMs + RETRY_MS;
    } else this.#refuseAll(group, error);
  }

  /** The log accepts nothing any more: what was on its way may be durable or not. */
  #fail(group: readonly Decision[]): void {
    this.#failure = this.#log.failure;
    for (const decision of [...this.#doubtful.splice(0), ...group]) {
      decision.state = State.Doubtful;
      this.#tellAll(decision, this.#unknown(decision.id));
    }
  }

  #endDoubt(nowMs: number): void {
    this.#retryMs = nowMs + RETRY_MS;
    if (this.#log.settle()) this.#refuseAll(this.#doubtful.splice(0), diskFull());
    else if (this.#log.failure !== undefined) this.#fail([]);
  }

  /** Ids that must not be decided any more once the frame is written. */
  #toFence(asks: readonly Ask[]): Map<number, number> {
    const fencing = new Map<number, number>();
    const room = this.#log.fenceRoom;
    for (const { id, client } of asks) {
      if (fencing.size >= room) break;
      if (this.#mayBeDecided(id) && this.#isHere(client)) fencing.set(id, client);
    }
    return fencing;
  }

  /** It may still ask for a decision. */
  #isHere(client: number): boolean {
    return client === UNKNOWN_CLIENT || this.#sessions.has(client);
  }

  /** By this thread or by a successor, who does not know what this one has refused. */
  #mayBeDecided(id: number): boolean {
    return !this.#decisions.has(id) && !this.#applied.has(id) && !this.#fenced.has(id);
  }

  #answerAsks(asks: readonly Ask[]): void {
    for (const { shard, id, client } of asks) {
      const decision = this.#decisions.get(id);
      if (decision !== undefined) {
        if (decision.state >= State.Decided) this.#ports.tellOutcome(shard, id, true);
      } else if (this.#applied.has(id)) this.#ports.tellOutcome(shard, id, true);
      else if (this.#fenced.has(id) || !this.#isHere(client)) this.#ports.tellOutcome(shard, id, false);
    }
  }

  #restate(nowMs: number): void {
    if (this.#failure !== undefined || this.#log.isInDoubt) return;
    this.#retryMs = nowMs + RETRY_MS;
    // What is to be ended is simply not said again.
    for (const id of this.#ends.splice(0)) this.#applied.delete(id);
    const decided = this.#decisions.values().filter(({ state }) => state >= State.Decided);
    try {
      this.#log.restate(inOrder([...decided, ...this.#applied.values()]), this.#fenced);
    } catch (error) {
      this.#frameFailed(error, [], nowMs);
    }
  }

  // ---- the board ----------------------------------------------------------------------------------------------------------------------------

  #fillBoard(): number {
    const board = this.#board;
    if (this.offBoard === 0 || board.isFull) return 0;
    let maskLow = 0;
    let maskHigh = 0;
    let appended = 0;
    board.claim();
    while (this.offBoard > 0 && !board.isFull) {
      const decision = this.#queue[this.#queueHead++]!;
      board.append(decision.id, this.#ports.takeNumber(), decision.maskLow, decision.maskHigh);
      decision.state = State.OnBoard;
      maskLow |= decision.maskLow;
      maskHigh |= decision.maskHigh;
      appended++;
    }
    board.unclaim();
    if (this.offBoard === 0) {
      this.#queue = [];
      this.#queueHead = 0;
    }
    this.#ports.wakeShards(maskLow, maskHigh);
    return appended;
  }

  #collect(): number {
    this.#collectedCount = 0;
    this.#collectedMs = 0;
    this.#board.collect(this.#noteApplied);
    return this.#collectedCount;
  }

  readonly #noteApplied = (id: number, number: number): void => {
    this.#collectedCount++;
    const decision = this.#decisions.get(id);
    if (decision === undefined) return;
    decision.state = State.Applied;
    const { clock } = this.#ports;
    if (clock !== undefined && decision.sinceMs > 0) {
      // Not with the first that is met, which may be one of a predecessor's.
      if (this.#collectedMs === 0) this.#collectedMs = clock.nowMs();
      clock.applied(this.#collectedMs - decision.sinceMs);
    }
    this.#tellAll(decision, undefined);
    if (this.#isKept) this.#awaiting.add(id, number, decision.maskLow, decision.maskHigh);
    this.#tryLetGo(decision);
  };

  /** Nobody waits for it, no request is left: it needs no object any more. */
  #tryLetGo(decision: Decision): void {
    if (decision.state !== State.Applied || decision.requests > 0 || (decision.isRecovered && !this.#isCaughtUp))
      return;
    this.#decisions.delete(decision.id);
    // Without a log there is nothing to be ended.
    if (!this.#isKept) return;
    this.#applied.add(decision);
    if (decision.isSafe) this.#letEnd(decision.id);
  }

  #letEnd(id: number): void {
    if (this.#applied.noteEnding(id)) this.#noteEnd(id);
  }

  #noteEnd(id: number): void {
    if (this.#ends.length === 0) this.#endsSinceMs = this.#nowMs;
    this.#ends.push(id);
  }

  readonly #noteSafe = (id: number): void => {
    const decision = this.#decisions.get(id);
    if (decision === undefined) this.#letEnd(id);
    else decision.isSafe = true;
  };

  /** A shard that stays down keeps the board's tail where it is: who waits behind it, or for it, is told what is so. */
  #lookPastFailed(nowMs: number): void {
    this.#failedLookMs = nowMs + FAILED_LOOK_MS;
    let failedLow = 0;
    let failedHigh = 0;
    let failed = -1;
    for (let shard = 0; shard < this.#shards.count; shard++) {
      if (!this.#shards.isFailed(shard)) continue;
      failed = shard;
      if (shard < 32) failedLow |= 1 << shard;
      else failedHigh |= 1 << (shard - 32);
    }
    if (failed < 0) return;
    this.#board.forEach(({ id, participantsLow, participantsHigh, appliedLow, appliedHigh }) => {
      const leftLow = participantsLow & ~appliedLow;
      const leftHigh = participantsHigh & ~appliedHigh;
      if ((leftLow & ~failedLow) !== 0 || (leftHigh & ~failedHigh) !== 0) return;
      const decision = this.#decisions.get(id);
      if (decision === undefined || decision.waiting.length === 0) return;
      this.#tellAll(decision, leftLow === 0 && leftHigh === 0 ? undefined : committedBut(id, failed));
    });
  }

  // ---- answers ------------------------------------------------------------------------------------------------------------------------------

  #tellAll(decision: Decision, error: ErrorRecord | undefined): void {
    const { waiting } = decision;
    decision.told = error;
    for (let i = 0; i < waiting.length; i += 2) this.#ports.answer(waiting[i]!, waiting[i + 1]!, error);
    waiting.length = 0;
  }

  #refuseAll(group: readonly Decision[], error: ConcordError): void {
    for (const { id, client, waiting } of group) this.#refuse(id, client, waiting, error);
  }

  #refuse(id: number, client: number, waiting: readonly number[], error: ConcordError): void {
    this.#decisions.delete(id);
    this.counts.aborts++;
    if (!this.#fenced.has(id)) {
      // The oldest go first: that many requests of one session have long been answered.
      if (this.#refused.size >= REFUSED_MAX) this.#refused.delete(this.#refused.keys().next().value!);
      this.#refused.set(id, client);
    }
    const { code, message, details } = toErrorRecord(error);
    const record: ErrorRecord = { code, message, details: { ...details, transaction: id, outcome: 'aborted' } };
    for (let i = 0; i < waiting.length; i += 2) this.#ports.answer(waiting[i]!, waiting[i + 1]!, record);
  }

  #readOnly(): ConcordError {
    const cause = this.#failure!;
    return new ConcordError('ERR_READ_ONLY', `nothing is decided since the decision log failed: ${cause.message}`, {
      cause: cause.code,
    });
  }

  #unknown(id: number): ErrorRecord {
    return {
      code: 'ERR_IO',
      message: `transaction ${id} may or may not be committed, the next opening knows: ${this.#failure?.message ?? ''}`,
      details: { transaction: id, outcome: 'unknown' },
    };
  }
}

function isMember(maskLow: number, maskHigh: number, shard: number): boolean {
  return shard < 32 ? ((maskLow >>> shard) & 1) === 1 : ((maskHigh >>> (shard - 32)) & 1) === 1;
}

function inOrder(decisions: OrderedDecision[]): OrderedDecision[] {
  return decisions.sort((a, b) => a.order - b.order);
}

function diskFull(): ConcordError {
  return new ConcordError('ERR_DISK_FULL', 'no space for the decision log');
}

function committedBut(id: number, shard: number): ErrorRecord {
  return {
    code: 'ERR_SHARD_FAILED',
    message: `transaction ${id} is committed, but shard ${shard} stays down: it applies it when the store is opened again`,
    details: { transaction: id, shard, outcome: 'committed' },
  };
}
