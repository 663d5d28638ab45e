/**
 * The commit of a transaction that more than one shard has part in: who votes, who decides, who is told. Pure: the port does the talking.
 *
 *   one writer, others only read
 *     ReadersVote ──all yes──▶ Applying ──answer──▶ Committed | Aborted (it says why) | Unknown (the shard was replaced)
 *   several writers
 *     AllVote ──all yes──▶ Deciding ──done──▶ Committed
 *                                   ──refused: nothing was decided──▶ Aborted
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

export interface CommitPort<Body> {
  commitOne(shard: number, body: Body, level: number): Promise<unknown>;
  prepare(shard: number, body: Body, level: number): Promise<unknown>;
  /** voteEpoch: 0, or 1 + the replaced shards as of which those that only read have voted: it is refused when there are more. */
  decide(txn: number, maskLow: number, maskHigh: number, level: number, voteEpoch: number): Promise<unknown>;
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

export class CommitRun<Body> {
  state: CommitStateName = CommitState.Idle;
  readonly #port: CommitPort<Body>;
  readonly #txn: number;
  readonly #parts: readonly CommitPart<Body>[];
  readonly #level: number;
  readonly #voteEpoch: number;
  readonly #areVotesKept: () => boolean;
  readonly #writers: number;
  #votesMissing = 0;
  /** Asked for their vote. */
  readonly #asked: CommitPart<Body>[] = [];
  #resolve!: () => void;
  #reject!: (error: Error) => void;

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
    this.#parts = parts;
    this.#level = level;
    this.#voteEpoch = voteEpoch;
    this.#areVotesKept = areVotesKept;
    this.#writers = parts.reduce((count, { writes }) => count + (writes ? 1 : 0), 0);
  }

  /** Whether the transaction may be committed although its promise was rejected. */
  get isUnknown(): boolean {
    return this.state === CommitState.Unknown;
  }

  /** Resolves when it is committed, as durable as asked, and visible. */
  run(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      const isOneWriter = this.#writers === 1;
      this.state = isOneWriter ? CommitState.ReadersVote : CommitState.AllVote;
      const voters = isOneWriter ? this.#parts.filter(({ writes }) => !writes) : this.#parts;
      this.#votesMissing = voters.length;
      if (voters.length === 0) this.#allYes();
      for (const part of voters) {
        // A no of one that was asked before.
        if (this.state !== CommitState.ReadersVote && this.state !== CommitState.AllVote) break;
        this.#ask(part);
      }
    });
  }

  #ask(part: CommitPart<Body>): void {
    let vote: Promise<unknown>;
    try {
      vote = this.#port.prepare(part.shard, part.body, Math.max(this.#level, LEVEL_MIN));
    } catch (error) {
      this.#abort(error as Error);
      return;
    }
    this.#asked.push(part);
    vote.then(
      () => {
        if (this.state === CommitState.Aborted) this.#port.release(part.shard, this.#txn);
        else if (--this.#votesMissing === 0) this.#allYes();
      },
      (error: unknown) => {
        if (this.state === CommitState.Aborted) this.#port.release(part.shard, this.#txn);
        else this.#abort(notPrepared(part.shard, error as Error));
      },
    );
  }

  #allYes(): void {
    if (!this.#areVotesKept()) {
      this.#abort(new ConcordError('ERR_CONFLICT', 'a shard that had voted was replaced; nothing was applied'));
      return;
    }
    if (this.#writers === 1) this.#apply();
    else if (this.#writers > 1) this.#decide();
    else {
      this.#releaseReaders();
      this.#commit();
    }
  }

  #apply(): void {
    this.state = CommitState.Applying;
    const { shard, body } = this.#parts.find(({ writes }) => writes)!;
    let applied: Promise<unknown>;
    try {
      applied = this.#port.commitOne(shard, body, this.#level);
    } catch (error) {
      this.#abort(error as Error);
      return;
    }
    applied.then(
      () => {
        this.#releaseReaders();
        this.#commit();
      },
      (error: unknown) => {
        if (isCode(error, 'ERR_SHARD_RESTARTED')) {
          this.#releaseReaders();
          this.#leaveUnknown(error as Error);
        } else this.#abort(error as Error);
      },
    );
  }

  #decide(): void {
    this.state = CommitState.Deciding;
    let low = 0;
    let high = 0;
    for (const { shard, writes } of this.#parts) {
      if (!writes) continue;
      if (shard < 32) low |= 1 << shard;
      else high |= 1 << (shard - 32);
    }
    let decided: Promise<unknown>;
    try {
      decided = this.#port.decide(this.#txn, low, high, Math.max(this.#level, LEVEL_MIN), this.#voteEpoch);
    } catch (error) {
      this.#abort(error as Error);
      return;
    }
    decided.then(
      () => {
        this.#releaseReaders();
        this.#commit();
      },
      (error: unknown) => {
        const outcome = outcomeOf(error);
        if (outcome === 'aborted') {
          this.#abort(error as Error);
          return;
        }
        this.#releaseReaders();
        if (outcome === 'committed') this.#commit();
        else this.#leaveUnknown(error as Error);
      },
    );
  }

  #releaseReaders(): void {
    for (const { shard, writes } of this.#parts) if (!writes) this.#port.release(shard, this.#txn);
  }

  #commit(): void {
    this.state = CommitState.Committed;
    this.#resolve();
  }

  #leaveUnknown(error: Error): void {
    this.state = CommitState.Unknown;
    this.#reject(error);
  }

  #abort(error: Error): void {
    this.state = CommitState.Aborted;
    for (const { shard } of this.#asked) this.#port.release(shard, this.#txn);
    this.#reject(error);
  }

  /** Gives it up, if that is still possible: then run() rejects with the error. */
  abort(error: Error): boolean {
    if (this.state !== CommitState.ReadersVote && this.state !== CommitState.AllVote) return false;
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
