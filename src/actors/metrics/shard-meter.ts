/**
 * What a shard's thread tells of itself: the size and the parts of the time of its groups, and a document of what its engines count.
 *
 *   group    log ──▶ sync ──▶ apply (publication included) ──▶ answer
 *
 * Groups that are synced are all timed, others one of eight: the clock would cost them a few percent.
 * The document is written when there is something new, 250 ms after the one before at the earliest, and less often the longer it takes.
 * Threads: the shard's thread only.
 */
import { engineOfCode } from '../../engines/engine.js';
import type { LsmFigures } from '../../engines/lsm/figures.js';
import type { Space } from '../../engines/store/space-table.js';
import type { SwitchProgress } from '../../engines/store/space.js';
import type { MetricsBoard, SharedDocument } from './board.js';
import { ShardHistogram } from './board.js';
import { HISTOGRAM_LENGTH, record } from './histogram.js';
import type { StallFigures } from '../shard/write-gate.js';
import type { SyncClock } from './timed-env.js';

const UNSYNCED_GROUPS_PER_SAMPLE = 8;
const DOCUMENT_MS_MIN = 250;
/** Writing documents may take one part of so many of the shard's time. */
const DOCUMENT_SHARE = 200;
const NS_PER_MS = 1e6;

/** Of a space in an LSM-Tree. */
export type LsmReport = LsmFigures & StallFigures;

/** What a shard's engine tells of a space. */
export interface SpaceReport {
  readonly id: number;
  readonly engine: string;
  /** Bytes by kind. */
  readonly memory: Readonly<Record<string, number>>;
  readonly metrics: Readonly<Record<string, number>>;
  readonly lsm?: LsmReport;
  /** It is being moved to another engine. */
  readonly moving?: SwitchProgress & { readonly engine: string };
}

export interface ShardReport {
  readonly spaces: readonly SpaceReport[];
}

/** The shard's last report; undefined when there is none. Any thread. */
export function readShardReport(board: MetricsBoard, shard: number): ShardReport | undefined {
  const text = board.shardDocument(shard).read();
  // JSON has no word for a rate without limit.
  const revive = (name: string, value: unknown): unknown =>
    name === 'bytesPerSecond' && value === null ? Infinity : value;
  return text === undefined ? undefined : (JSON.parse(text, revive) as ShardReport);
}

export class ShardMeter {
  readonly #histograms: Float64Array;
  readonly #document: SharedDocument;
  readonly #clock: SyncClock;
  #untimed = 0;
  #isTimed = false;
  #begunMs = 0;
  #loggedMs = 0;
  #appliedMs = 0;
  #isAnswerDue = false;
  #isDirty = true;
  #documentDueMs = 0;

  constructor(board: MetricsBoard, shard: number, clock: SyncClock) {
    this.#histograms = board.shardHistograms(shard);
    this.#document = board.shardDocument(shard);
    this.#document.takeOver();
    this.#clock = clock;
  }

  #record(which: number, value: number): void {
    record(this.#histograms, which * HISTOGRAM_LENGTH, value);
  }

  /** A group is about to be logged. */
  begin(isSynced: boolean): void {
    this.#isTimed = isSynced || (this.#untimed = (this.#untimed + 1) % UNSYNCED_GROUPS_PER_SAMPLE) === 0;
    if (!this.#isTimed) return;
    this.#clock.syncMs = 0;
    this.#begunMs = performance.now();
  }

  /** It is as safe as asked, and not applied. */
  logged(): void {
    if (this.#isTimed) this.#loggedMs = performance.now();
  }

  /** It is published. */
  applied(records: number): void {
    this.#isDirty = true;
    this.#record(ShardHistogram.GroupRecords, records);
    if (!this.#isTimed) return;
    this.#isTimed = false;
    const now = performance.now();
    const { syncMs } = this.#clock;
    this.#record(ShardHistogram.Log, (this.#loggedMs - this.#begunMs - syncMs) * NS_PER_MS);
    if (syncMs > 0) this.#record(ShardHistogram.Sync, syncMs * NS_PER_MS);
    this.#record(ShardHistogram.Apply, (now - this.#loggedMs) * NS_PER_MS);
    this.#appliedMs = now;
    this.#isAnswerDue = true;
  }

  /** Its callers can see that it is done. */
  answered(): void {
    if (!this.#isAnswerDue) return;
    this.#isAnswerDue = false;
    this.#record(ShardHistogram.Answer, (performance.now() - this.#appliedMs) * NS_PER_MS);
  }

  /** What the document tells has changed beside groups. */
  changed(): void {
    this.#isDirty = true;
  }

  /** When a document is due, on performance.now()'s clock; Infinity: nothing is new. */
  get reportDueMs(): number {
    return this.#isDirty ? this.#documentDueMs : Infinity;
  }

  report(
    spaces: Iterable<Space>,
    progressOf: (spaceId: number) => SwitchProgress | undefined,
    stallsOf: (space: Space) => StallFigures,
  ): void {
    const startedMs = performance.now();
    this.#isDirty = false;
    const reports: SpaceReport[] = [];
    for (const space of spaces) {
      const { id, engine, building, definition } = space;
      const moving = building === undefined ? undefined : progressOf(id);
      // As long as it is being moved, each report shows how far it has come.
      if (moving !== undefined) this.#isDirty = true;
      reports.push({
        id,
        engine: engineOfCode(engine.code).name,
        memory: engine.memory(),
        metrics: engine.metrics(),
        ...(engine.background === undefined ? {} : { lsm: { ...engine.background.figures(), ...stallsOf(space) } }),
        ...(moving === undefined ? {} : { moving: { engine: definition.engine, ...moving } }),
      });
    }
    // Where engines of others tell more than there is room for, the spaces made last are left out.
    while (!this.#document.write(JSON.stringify({ spaces: reports } satisfies ShardReport))) {
      reports.length = Math.floor(reports.length * 0.8);
    }
    const endedMs = performance.now();
    this.#documentDueMs = endedMs + Math.max(DOCUMENT_MS_MIN, (endedMs - startedMs) * DOCUMENT_SHARE);
  }
}
