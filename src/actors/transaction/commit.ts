/**
 * The commit of a transaction that more than one shard has part in: who votes, who decides, who is told. Pure: the port does the talking.
 *
 *   one writer, others only read
 *     ReadersVote ──all yes──▶ Applying ──answer──▶ Committed | Aborted (it says why) | Unknown (the shard was replaced)
 *   several writers
 *     AllVote ──all yes──▶ Deciding ──done──▶ Committed
 *                                   ──refused, or not sent: nothing was decided──▶ Aborted
 *                                   ──anything else──▶ Unknown
 *   no writer (are the locks still there?)
 *     AllVote ──all yes──▶ Committed
 *   ReadersVote, AllVote ──a no, abort()──▶ Aborted
 *
 *   Aborted       Release goes to whoever was asked for a vote, now and, if its answer comes later, once more after that
 *   decided       Release goes to those that only read. Not before: until the transaction has its number, a later write of what it has read could get a
 *                 lower one, and a snapshot between the two would see the write without the transaction that came before it
 *   Unknown       nobody is told anything: participants ask the coordinator
 *
 * A shard that only reads and is replaced after its yes has lost the locks it voted with, and others may have written there: `areVotesKept` says whether none
 * was, and is asked before the decision is. Whoever commits looks again, by `voteEpoch`: the coordinator when it takes the request, which may lie in its ring
 * for long while it is replaced; the shard of a single writer (transactions.ts).
 * After the decision was asked for, or the writer was told to apply, abort() is refused: the answer is waited for, however long it takes.
 * Threads: any one.
 */
import { ConcordError } from '../../shared/errors.js';
import type { Caller } from '../client/caller.js';

/** What throws has not been sent, and its caller hears nothing. */
export interface CommitPort<Body> {
  commitOne(shard: number, body: Body, level: number, caller: Caller): void;
  prepare(shard: number, body: Body, level: number, caller: Caller): void;
  /** voteEpoch: 0, or 1 + the replaced shards as of which those that only read have voted: it is refused when there are more. */
  decide(txn: number, maskLow: number, maskHigh: number, level: number, voteEpoch: number, caller: Caller): void;
  release(shard: number, txn: number): void;
}

export interface CommitPart<Body> {
  readonly shard: number;
  readonly body: Body;
  readonly writes: boolean;
}

export const CommitState = {
  Idle: 'idle',
  ReadersVote: 'readers-vote',
  AllVote: 'all-vote',
  Applying: 'applying',
  Deciding: 'deciding',
  Committed: 'committed',
  Aborted: 'aborted',
  Unknown: 'unknown',
} as const;
export type CommitStateName = (typeof CommitState)[keyof typeof CommitState];

/** Votes and decisions are at least on their way to the disk: all or nothing must survive the process. */
const LEVEL_MIN = 1;
/** Codes with which it is said that nothing was decided, where the error does not say it itself. */
const NOT_DECIDED = new Set(['ERR_CONFLICT', 'ERR_READ_ONLY', 'ERR_DISK_FULL']);

/** Whoever hears what a shard that was asked for its vote says. */
class Vote<Body> implements Caller {
  readonly #run: CommitRun<Body>;
  readonly #part: CommitPart<Body>;

  constructor(run: CommitRun<Body>, part: CommitPart<Body>) {
    this.#run = run;
    this.#part = part;
  }

  answered(): void {
    this.#run.voted(this.#part, undefined);
  }

  failed(error: Error): void {
    this.#run.voted(this.#part, error);
  }
}

/** As a caller it hears the last answer: of the coordinator, or of the single writer. */
export class CommitRun<Body> implements Caller {
  state: CommitStateName = CommitState.Idle;
  readonly parts: readonly CommitPart<Body>[];
  readonly #port: CommitPort<Body>;
  readonly #txn: number;
  readonly #level: number;
  readonly #voteEpoch: number;
  readonly #areVotesKept: () => boolean;
  #writers = 0;
  #votesMissing = 0;
  /** Asked for their vote. */
  readonly #asked: CommitPart<Body>[] = [];
  #caller!: Caller;

  /** Shards 0 … 63. */
  constructor(
    port: CommitPort<Body>,
    txn: number,
    parts: readonly CommitPart<Body>[],
    level: number,
    voteEpoch = 0,
    areVotesKept: () => boolean = () => true,
  ) {
    this.#port = port;
    this.#txn = txn;
    this.parts = parts;
    this.#level = level;
    this.#voteEpoch = voteEpoch;
    this.#areVotesKept = areVotesKept;
    for (const { writes } of parts) if (writes) this.#writers++;
  }

  /** Whether the transaction may be committed although the caller has heard that it failed. */
  get isUnknown(): boolean {
    return this.state === CommitState.Unknown;
  }

  /** The bodies are used after run() has returned: that of a single writer goes out when the readers have voted. Otherwise the port has copied all. */
  get needsBodies(): boolean {
    return this.#writers === 1;
  }

  /** The caller hears when it is committed, as durable as asked, and visible; or why not. */
  run(caller: Caller): void {
    this.#caller = caller;
    const isOneWriter = this.#writers === 1;
    this.state = isOneWriter ? CommitState.ReadersVote : CommitState.AllVote;
    this.#votesMissing = isOneWriter ? this.parts.length - 1 : this.parts.length;
    if (this.#votesMissing === 0) this.#allYes();
    for (const part of this.parts) {
      // A no of one that was asked before.
      if (!this.#isVoting) break;
      if (!isOneWriter || !part.writes) this.#ask(part);
    }
  }

  get #isVoting(): boolean {
    return this.state === CommitState.ReadersVote || this.state === CommitState.AllVote;
  }

  #ask(part: CommitPart<Body>): void {
    try {
      this.#port.prepare(part.shard, part.body, Math.max(this.#level, LEVEL_MIN), new Vote(this, part));
    } catch (error) {
      this.#abort(error as Error);
      return;
    }
    this.#asked.push(part);
  }

  /** What has become of a request for a vote. error undefined: yes. */
  voted({ shard }: CommitPart<Body>, error: Error | undefined): void {
    if (this.state === CommitState.Aborted) this.#port.release(shard, this.#txn);
    else if (error !== undefined) this.#abort(notPrepared(shard, error));
    else if (--this.#votesMissing === 0) this.#allYes();
  }

  answered(): void {
    this.#commit();
  }

  failed(error: Error): void {
    if (this.state === CommitState.Applying) this.#notApplied(error);
    else this.#notDecided(error);
  }

  #allYes(): void {
    if (!this.#areVotesKept()) {
      this.#abort(new ConcordError('ERR_CONFLICT', 'a shard that had voted was replaced; nothing was applied'));
      return;
    }
    if (this.#writers === 1) this.#apply();
    else if (this.#writers > 1) this.#decide();
    else this.#commit();
  }

  #apply(): void {
    this.state = CommitState.Applying;
    const { shard, body } = this.parts.find(({ writes }) => writes)!;
    try {
      this.#port.commitOne(shard, body, this.#level, this);
    } catch (error) {
      this.#abort(error as Error);
    }
  }

  #notApplied(error: Error): void {
    if (isCode(error, 'ERR_SHARD_RESTARTED')) this.#leaveUnknown(error);
    else this.#abort(error);
  }

  #decide(): void {
    this.state = CommitState.Deciding;
    let low = 0;
    let high = 0;
    for (const { shard, writes } of this.parts) {
      if (!writes) continue;
      if (shard < 32) low |= 1 << shard;
      else high |= 1 << (shard - 32);
    }
    try {
      this.#port.decide(this.#txn, low, high, Math.max(this.#level, LEVEL_MIN), this.#voteEpoch, this);
    } catch (error) {
      this.#abort(error as Error);
    }
  }

  #notDecided(error: Error): void {
    const outcome = outcomeOf(error);
    if (outcome === 'committed') this.#commit();
    else if (outcome === 'aborted') this.#abort(error);
    else this.#leaveUnknown(error);
  }

  #releaseReaders(): void {
    for (const { shard, writes } of this.parts) if (!writes) this.#port.release(shard, this.#txn);
  }

  #commit(): void {
    this.#releaseReaders();
    this.state = CommitState.Committed;
    this.#caller.answered(true);
  }

  #leaveUnknown(error: Error): void {
    this.#releaseReaders();
    this.state = CommitState.Unknown;
    this.#caller.failed(error);
  }

  #abort(error: Error): void {
    this.state = CommitState.Aborted;
    for (const { shard } of this.#asked) this.#port.release(shard, this.#txn);
    this.#caller.failed(error);
  }

  /** Gives it up, if that is still possible: then the caller hears the error. */
  abort(error: Error): boolean {
    if (!this.#isVoting) return false;
    this.#abort(error);
    return true;
  }
}

/** What is known after a decision that failed. The coordinator's errors say it in their details. */
function outcomeOf(error: unknown): 'aborted' | 'committed' | 'unknown' {
  if (!(error instanceof ConcordError)) return 'unknown';
  const { outcome } = error.details;
  if (outcome === 'aborted' || outcome === 'committed' || outcome === 'unknown') return outcome;
  return NOT_DECIDED.has(error.code) ? 'aborted' : 'unknown';
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof ConcordError && error.code === code;
}

/** A vote that a shard owes, since it was replaced, is a no: nothing was applied. */
function notPrepared(shard: number, error: Error): Error {
  if (!isCode(error, 'ERR_SHARD_RESTARTED')) return error;
  return new ConcordError(
    'ERR_CONFLICT',
    `shard ${shard} was replaced before it voted; nothing was applied`,
    { shard },
    { cause: error },
  );
}
