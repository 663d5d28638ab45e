/**
 * The compactions of one tree: what is picked, which jobs run for it, and what becomes of them.
 *
 *   pickCompaction() ──▶ merge  tasksOf() ──▶ jobs ──all well──▶ outputs are prepared, in slices ──▶ one edit: inputs go, outputs come
 *                    └─▶ move, drop ──▶ an edit at once
 *
 * A plan is done as a whole or not at all: when one of its jobs fails the others are told to stop, what they wrote is deleted, and its tables are left alone for
 * a while. Plans that run, or rest after a failure, are busy to the picker: nothing else touches their tables.
 *
 * What runs because the tree was quiet (quiet.ts) is given up when a memtable is full again: the flush, and what follows from it, need the workers.
 *
 * Requests for a range are served one after another; each begins when the memtables of its time are in tables.
 *
 * Threads: the shard's thread only.
 */
import { ConcordError, type ErrorRecord } from '../../shared/errors.js';
import type { LsmSite } from './attach.js';
import type { CompactionPlan, ManualRange, PickState } from './compaction/plan.js';
import { isManualDone, pickCompaction, pickDueAtMs } from './compaction/picker.js';
import { tasksOf } from './compaction/split.js';
import { cancelJob, retryMs } from './job-control.js';
import type { VersionEdit } from './manifest/manifest.js';
import type { LsmTree } from './tree.js';
import type { CompactionTask, LsmJobResult, LsmOptions, LsmOutcome } from './types.js';

/** Moves and drops between two groups. */
const EDITS_PER_SLICE = 16;
/** A tree is idle when nothing was written to it for so long. */
const IDLE_MS = 2000;
/** And quiet, after so long: what is left of a load is merged. Each time that this had to be given up it takes twice as long. */
const QUIET_MS_MIN = 1000;
const QUIET_MS_MAX = 60_000;

export interface CompactionContext {
  readonly tree: LsmTree;
  /** Open snapshots, ascending. */
  readonly snapshots: readonly number[];
  /** Smallest number in a memtable. */
  readonly memtableSeq: number;
  /** Counts operations of the tree. */
  readonly operations: number;
  readonly isFlushing: boolean;
  /** Of the oldest memtable that is not in tables; Infinity: all are. */
  readonly oldestRun: number;
  readonly nowMs: number;
}

export interface CompactionFigures {
  compactions: number;
  trivialMoves: number;
  readBytes: number;
  writtenBytes: number;
  durationMs: number;
  failedJobs: number;
  runningTasks: number;
}

interface RunningPlan {
  readonly plan: CompactionPlan;
  readonly tasks: readonly CompactionTask[];
  readonly cancel: Int32Array;
  readonly outcomes: (LsmOutcome | undefined)[];
  left: number;
  /** All jobs have ended well; the edit is still to be made. */
  results: LsmJobResult[] | undefined;
}

/** A plan that failed: left alone until then. */
interface RestingPlan {
  readonly plan: CompactionPlan;
  readonly untilMs: number;
}

interface RangeRequest {
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
  readonly upToSeq: number;
  /** Memtables up to this one must be in tables first. */
  readonly run: number;
  readonly done: (error?: Error) => void;
  range: ManualRange | undefined;
}

export class Compactions {
  readonly figures: CompactionFigures = {
    compactions: 0,
    trivialMoves: 0,
    readBytes: 0,
    writtenBytes: 0,
    durationMs: 0,
    failedJobs: 0,
    runningTasks: 0,
  };
  /** Told that a job has ended. */
  onEnd: () => void = () => undefined;
  /** Of jobs or edits: the disk was full the last time. */
  isDiskFull = false;
  readonly #options: LsmOptions;
  readonly #site: LsmSite | undefined;
  #running: RunningPlan[] = [];
  #resting: RestingPlan[] = [];
  readonly #requests: RangeRequest[] = [];
  #failures = 0;
  /** Nothing is begun before: disk or memory were full. */
  #retryAtMs = 0;
  #mustPick = true;
  #pickDueAtMs = Infinity;
  #operationsSeen = -1;
  #idleAtMs = Infinity;
  #isIdle = false;
  #quietAtMs = Infinity;
  #quietMs = QUIET_MS_MIN;
  #isQuiet = false;
  #isFlushing = false;

  constructor(options: LsmOptions, site: LsmSite | undefined) {
    this.#options = options;
    this.#site = site;
  }

  get isRunning(): boolean {
    return this.figures.runningTasks > 0;
  }

  /** Tables have come: there may be something to do. */
  treeChanged(): void {
    this.#mustPick = true;
  }

  /** Whether nothing was written to the tree for a while; operations: see CompactionContext. */
  isQuiet(operations: number, nowMs: number): boolean {
    return operations === this.#operationsSeen && nowMs >= this.#quietAtMs;
  }

  /** `done` is called from within a later work(). Returns how to give the request up. */
  request(
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    upToSeq: number,
    run: number,
    done: (error?: Error) => void,
  ): () => void {
    const request: RangeRequest = { low, high, upToSeq, run, done, range: undefined };
    this.#requests.push(request);
    this.#mustPick = true;
    return () => {
      const index = this.#requests.indexOf(request);
      if (index < 0) return;
      this.#requests.splice(index, 1);
      if (index === 0) for (const { plan, cancel } of this.#running) if (plan.cause === 'manual') cancelJob(cancel);
      done(new ConcordError('ERR_CLOSED', 'the compaction was cancelled'));
    };
  }

  /** There are no tables, and none will come of what was there when the requests were made. */
  answerAll(): void {
    for (const { done } of this.#requests.splice(0)) done();
  }

  /** When work() has something to do by itself, ms since the epoch. */
  get dueAtMs(): number {
    let dueAtMs = this.#pickDueAtMs;
    if (!this.#isFlushing && !this.isRunning) {
      dueAtMs = Math.min(dueAtMs, this.#idleAtMs, this.#isQuiet ? Infinity : this.#quietAtMs);
    }
    for (const { untilMs } of this.#resting) dueAtMs = Math.min(dueAtMs, untilMs);
    const isWaiting = this.#mustPick || this.#running.some(({ results }) => results !== undefined);
    if (this.#retryAtMs === 0) return dueAtMs;
    // Nothing is done before.
    return isWaiting ? this.#retryAtMs : Math.max(dueAtMs, this.#retryAtMs);
  }

  /** Installs what has ended and begins what is due. `change` makes an edit. True if an edit was made. @throws ERR_IO, ERR_PERMISSION */
  work(context: CompactionContext, change: (edit: VersionEdit) => void): boolean {
    const { nowMs } = context;
    let hasChanged = false;
    this.#settleEnded(context);
    if (nowMs < this.#retryAtMs) return false;
    this.#retryAtMs = 0;
    for (const running of this.#running.filter(({ results }) => results !== undefined)) {
      const tables = running.results!.flatMap((result) => result.tables);
      let isReady = false;
      const isWell = this.#attempt(context, () => {
        isReady = context.tree.prepare(tables);
        if (isReady) this.#install(running, change);
      });
      if (!isWell) return hasChanged;
      if (isReady) hasChanged = true;
      // The next slice.
      else this.onEnd();
    }
    const resting = this.#resting.length;
    this.#resting = this.#resting.filter(({ untilMs }) => untilMs > nowMs);
    if (this.#resting.length < resting) this.#mustPick = true;
    this.#lookWhetherIdle(context);
    if (nowMs >= this.#pickDueAtMs) this.#mustPick = true;
    if (this.#mustPick && this.#pick(context, change)) hasChanged = true;
    return hasChanged;
  }

  /** Time passes without a write: garbage that is not worth a compaction by itself is looked for once. */
  #lookWhetherIdle({ operations, isFlushing, nowMs }: CompactionContext): void {
    this.#isFlushing = isFlushing;
    if (operations !== this.#operationsSeen) {
      this.#operationsSeen = operations;
      this.#idleAtMs = nowMs + IDLE_MS;
      this.#quietAtMs = nowMs + this.#quietMs;
    } else if (nowMs >= this.#idleAtMs && !isFlushing && !this.isRunning) {
      this.#idleAtMs = Infinity;
      this.#isIdle = true;
      this.#mustPick = true;
    }
    if (isFlushing || this.#idleAtMs !== Infinity) this.#isIdle = false;
    const isQuiet = !isFlushing && nowMs >= this.#quietAtMs;
    if (isQuiet && !this.#isQuiet) this.#mustPick = true;
    this.#isQuiet = isQuiet;
    if (isFlushing) for (const { plan, cancel } of this.#running) if (plan.cause === 'quiet') cancelJob(cancel);
  }

  // ---- beginning ----------------------------------------------------------------------------------------------------------------------

  #pick(context: CompactionContext, change: (edit: VersionEdit) => void): boolean {
    const site = this.#site!;
    let hasChanged = false;
    for (let edits = 0; edits < EDITS_PER_SLICE;) {
      if (this.figures.runningTasks >= site.jobs.parallelism) {
        // The next one that ends lets it look again.
        this.#mustPick = false;
        this.#pickDueAtMs = Infinity;
        return hasChanged;
      }
      if (!this.#attempt(context, () => this.#beginRequest(context))) return hasChanged;
      const state = this.#pickState(context);
      const busy = [...this.#running.map(({ plan }) => plan), ...this.#resting.map(({ plan }) => plan)];
      const plan = pickCompaction(state, this.#options, busy);
      if (plan === undefined) {
        this.#pickDueAtMs = context.tree.state.tables.size === 0 ? Infinity : pickDueAtMs(state, this.#options);
        if (this.#finishRequest(state)) continue;
        this.#mustPick = false;
        return hasChanged;
      }
      const isDone = this.#attempt(context, () => {
        if (plan.kind === 'merge') this.#start(plan, context);
        else this.#edit(plan, context.tree, change);
      });
      if (!isDone) return hasChanged;
      if (plan.kind !== 'merge') {
        hasChanged = true;
        edits++;
      }
    }
    // There may be more: after the publication.
    this.onEnd();
    return hasChanged;
  }

  /** The first request begins when the memtables of its time are in tables. @throws ERR_DISK_FULL, ERR_IO */
  #beginRequest({ tree, oldestRun }: CompactionContext): void {
    const request = this.#requests[0];
    if (request === undefined || request.range !== undefined || oldestRun <= request.run) return;
    const { low, high, upToSeq } = request;
    request.range = { low, high, upToSeq, firstFile: tree.takeFiles(1) };
  }

  #pickState({ tree, snapshots, memtableSeq, nowMs }: CompactionContext): PickState {
    const { tables, blobs, tombstones } = tree.state;
    return {
      tables: [...tables.values()],
      blobs: [...blobs.values()],
      tombstones,
      snapshots,
      memtableSeq,
      nowMs,
      isIdle: this.#isIdle,
      isQuiet: this.#isQuiet,
      manual: this.#requests[0]?.range,
    };
  }

  /** The first request has been served, or cannot be: true, and the next one has its turn. */
  #finishRequest(state: PickState): boolean {
    const request = this.#requests[0];
    if (request?.range === undefined) return false;
    if (this.#running.some(({ plan }) => plan.cause === 'manual')) return false;
    if (!isManualDone(state, this.#options, request.range) && (this.isRunning || this.#resting.length > 0))
      return false;
    this.#requests.shift();
    request.done();
    return true;
  }

  #start(plan: CompactionPlan, context: CompactionContext): void {
    const { tree, snapshots, nowMs } = context;
    const site = this.#site!;
    const cancel = new Int32Array(new SharedArrayBuffer(4));
    const tasks = tasksOf(
      plan,
      {
        directory: tree.directory,
        identity: tree.identity,
        options: this.#options,
        snapshots,
        tombstones: tree.state.tombstones,
        nowMs,
        takeFiles: (count) => tree.takeFiles(count),
        cancel,
        rate: site.rate,
      },
      // What may wait leaves workers for what may not.
      plan.cause === 'quiet' ? 1 : Math.max(1, site.jobs.parallelism - this.figures.runningTasks),
    );
    const running: RunningPlan = {
      plan,
      tasks,
      cancel,
      outcomes: tasks.map(() => undefined),
      left: tasks.length,
      results: tasks.length === 0 ? [] : undefined,
    };
    this.#running.push(running);
    this.figures.runningTasks += tasks.length;
    tasks.forEach((task, index) => {
      site.jobs.start(task, plan.score, (outcome) => {
        running.outcomes[index] = outcome;
        running.left--;
        this.figures.runningTasks--;
        // The others would work in vain.
        if ('error' in outcome) cancelJob(cancel);
        this.onEnd();
      });
    });
    if (tasks.length === 0) this.onEnd();
  }

  /** What needs no job. */
  #edit(plan: CompactionPlan, tree: LsmTree, change: (edit: VersionEdit) => void): void {
    const inputs = plan.inputs.flat();
    const moved =
      plan.kind === 'move' ? inputs.map((table) => ({ ...table, level: plan.outputLevel, run: plan.outputRun })) : [];
    change({
      removedTables: inputs.map(({ number }) => number),
      addedTables: moved,
      removedTombstones: plan.removedTombstones,
      removedBlobs: plan.removedBlobs.filter((number) => tree.state.blobs.has(number)),
    });
    if (plan.kind === 'move') this.figures.trivialMoves++;
  }

  // ---- ending -------------------------------------------------------------------------------------------------------------------------

  /** Plans of which every job has ended: what they wrote is kept for the edit, or deleted. */
  #settleEnded({ tree, nowMs }: CompactionContext): void {
    for (const running of [...this.#running]) {
      if (running.left > 0 || running.results !== undefined) continue;
      this.#mustPick = true;
      const results: LsmJobResult[] = [];
      let failure: ErrorRecord | undefined;
      for (const outcome of running.outcomes) {
        if (outcome === undefined) continue;
        if ('value' in outcome) results.push(outcome.value);
        else if (failure === undefined || failure.code === 'ERR_CLOSED') failure = outcome.error;
      }
      if (failure === undefined) {
        running.results = results;
        continue;
      }
      if (running.plan.cause === 'quiet') {
        this.#quietMs = Math.min(QUIET_MS_MAX, 2 * this.#quietMs);
        this.#quietAtMs = nowMs + this.#quietMs;
      }
      if (running.plan.cause !== 'quiet' || failure.code !== 'ERR_CLOSED') {
        this.figures.failedJobs++;
        this.#failures++;
        this.isDiskFull = failure.code === 'ERR_DISK_FULL';
      }
      this.#running = this.#running.filter((other) => other !== running);
      for (const result of results) tree.deleteFiles(result);
      for (const { firstFile, files } of running.tasks) tree.deleteLeftovers(firstFile, files);
      // What was cancelled is not to be blamed.
      if (failure.code !== 'ERR_CLOSED') this.#rest(running.plan, nowMs);
    }
  }

  #rest(plan: CompactionPlan, nowMs: number): void {
    this.#resting.push({ plan, untilMs: nowMs + retryMs(this.#failures) });
  }

  #install(running: RunningPlan, change: (edit: VersionEdit) => void): void {
    const { plan } = running;
    const results = running.results!;
    change({
      removedTables: plan.inputs.flat().map(({ number }) => number),
      addedTables: results.flatMap(({ tables }) => tables),
      addedBlobs: results.flatMap(({ blobs }) => blobs),
      removedTombstones: plan.removedTombstones,
      removedBlobs: plan.removedBlobs,
    });
    this.#running = this.#running.filter((other) => other !== running);
    this.#failures = 0;
    this.isDiskFull = false;
    this.#mustPick = true;
    if (plan.cause === 'quiet') this.#quietMs = QUIET_MS_MIN;
    const { figures } = this;
    figures.compactions++;
    for (const { readBytes, writtenBytes, durationMs } of results) {
      figures.readBytes += readBytes;
      figures.writtenBytes += writtenBytes;
      figures.durationMs += durationMs;
    }
  }

  /** False: it failed for want of space or memory, and is tried again. @throws ERR_IO, ERR_PERMISSION, ERR_CORRUPT */
  #attempt({ nowMs }: CompactionContext, work: () => void): boolean {
    try {
      work();
      return true;
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      if (error.code !== 'ERR_DISK_FULL' && error.code !== 'ERR_MEMORY_FULL') throw error;
      this.isDiskFull = error.code === 'ERR_DISK_FULL';
      this.#failures++;
      this.#retryAtMs = nowMs + retryMs(this.#failures);
      return false;
    }
  }

  /** All jobs are told to stop; requests are refused. */
  cancelAll(): void {
    for (const { cancel } of this.#running) cancelJob(cancel);
    const error = new ConcordError('ERR_CLOSED', 'the space was dropped, or the store is being closed');
    for (const { done } of this.#requests.splice(0)) done(error);
  }
}
