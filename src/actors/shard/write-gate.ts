/**
 * How fast a shard takes writes of one space, where the engine's files cannot keep up: a bucket that fills at the rate the engine allows.
 *
 *   free ── taken at once        slowed ── taken while the bucket is not empty; a request may overdraw it, by a few hundredths of a second at most
 *   stopped ── waits             stopped as the disk is full ── refused: ERR_DISK_FULL
 *
 * So a slow-down is many short waits, never a long one, and a request of any size gets through. What waits stays in its ring, in order.
 * Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import type { EngineBackground } from '../../engines/engine.js';
import type { WriteFlow } from '../../engines/lsm/types.js';

/** What the bucket holds when nobody has written for a while. */
const BURST_MS = 5;
/** What it may be overdrawn by: the longest wait while slowed. */
const OVERDRAFT_MS = 30;
/** A stopped engine is asked again after this, if nothing has happened before. */
const STOPPED_LOOK_MS = 5;
/** The engine's answer counts for so long: it is asked for each request of a group otherwise. */
const FLOW_MS = 1;

export type StallCause = Exclude<WriteFlow['cause'], ''>;

/** How long requests have waited, since the shard's thread was started. */
export interface StallFigures {
  /** Times in which writes waited, one after another. */
  readonly stalls: number;
  readonly stalledMs: Readonly<Partial<Record<StallCause, number>>>;
}

export const NO_STALLS: StallFigures = { stalls: 0, stalledMs: {} };

export class WriteGate {
  readonly #background: EngineBackground;
  readonly #onChange: (flow: WriteFlow) => void;
  #flow: WriteFlow = { state: 'free', bytesPerSecond: Infinity, cause: '' };
  #flowUntilMs = 0;
  /** Bytes; below 0: overdrawn. */
  #tokens = 0;
  #filledAtMs = 0;
  /** Since when requests wait; 0: none does. */
  #waitsSinceMs = 0;
  #waitsFor: StallCause = 'memtables';
  #stalls = 0;
  readonly #stalledMs: Partial<Record<StallCause, number>> = {};

  /** onChange: state or cause are others than before. */
  constructor(background: EngineBackground, onChange: (flow: WriteFlow) => void) {
    this.#background = background;
    this.#onChange = onChange;
  }

  get flow(): WriteFlow {
    return this.#flow;
  }

  /** Asks the engine. Call it now and then also when nobody writes, so that a change is told. */
  look(nowMs: number): void {
    this.#flowUntilMs = nowMs + FLOW_MS;
    const before = this.#flow;
    const flow = this.#background.flow();
    this.#flow = flow;
    if (before.state !== 'slowed' || flow.state !== 'slowed') {
      this.#tokens = 0;
      this.#filledAtMs = nowMs;
    }
    if (before.state !== flow.state || before.cause !== flow.cause) this.#onChange(flow);
  }

  /** How long a request must wait, ms; 0: it may be taken, see took(). @throws ERR_DISK_FULL */
  waitMs(nowMs: number): number {
    if (nowMs >= this.#flowUntilMs) this.look(nowMs);
    const { state, cause, bytesPerSecond } = this.#flow;
    if (state === 'free') return this.#goesOn(nowMs);
    if (state === 'stopped') {
      if (cause === 'disk-full') {
        this.#goesOn(nowMs);
        throw new ConcordError('ERR_DISK_FULL', 'memory is full of what cannot be written to files: the disk is full');
      }
      return this.#waits(nowMs, STOPPED_LOOK_MS);
    }
    const bytesPerMs = Math.max(1, bytesPerSecond / 1000);
    this.#tokens = Math.min(BURST_MS * bytesPerMs, this.#tokens + (nowMs - this.#filledAtMs) * bytesPerMs);
    this.#filledAtMs = nowMs;
    if (this.#tokens >= 0) return this.#goesOn(nowMs);
    return this.#waits(nowMs, Math.min(OVERDRAFT_MS, Math.max(1, -this.#tokens / bytesPerMs)));
  }

  /** A request of so many bytes was taken. */
  took(bytes: number): void {
    const { state, bytesPerSecond } = this.#flow;
    if (state !== 'slowed') return;
    this.#tokens = Math.max(this.#tokens - bytes, (-OVERDRAFT_MS * Math.max(1000, bytesPerSecond)) / 1000);
  }

  #goesOn(nowMs: number): 0 {
    if (this.#waitsSinceMs !== 0) {
      this.#count(nowMs);
      this.#waitsSinceMs = 0;
    }
    return 0;
  }

  #waits(nowMs: number, forMs: number): number {
    if (this.#waitsSinceMs === 0) this.#stalls++;
    else this.#count(nowMs);
    this.#waitsSinceMs = nowMs;
    this.#waitsFor = this.#flow.cause === '' ? 'memtables' : this.#flow.cause;
    return forMs;
  }

  #count(nowMs: number): void {
    const cause = this.#waitsFor;
    this.#stalledMs[cause] = (this.#stalledMs[cause] ?? 0) + (nowMs - this.#waitsSinceMs);
  }

  figures(): StallFigures {
    return { stalls: this.#stalls, stalledMs: { ...this.#stalledMs } };
  }
}
