/**
 * The thread of a shard: opens the store, runs step() in a loop, parks on the shard's doorbell, answers control calls between groups.
 *
 * While there is work the loop yields to the event loop every few milliseconds, so control calls are never starved. When work ends it spins
 * briefly (a caller that waits for each put comes back within microseconds, a wake-up takes 50–100), unless threads outnumber cores; then it blocks for a
 * moment, then parks.
 * An exception here is a broken invariant: the thread dies, the host starts another one that adopts the memory and replays the log.
 */
import { availableParallelism } from 'node:os';
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { ArenaReader, type ArenaLayout } from '../../shared/memory/arena.js';
import type { OpenSnapshots } from '../../engines/store/options.js';
import type { RecoveryReport } from '../../engines/store/recovery.js';
import { ShardStore, type CheckpointPlan } from '../../engines/store/shard-store.js';
import { settlePrepared } from '../../engines/store/settle.js';
import { SHARD_READER_SLOT } from '../../engines/store/space-table.js';
import type { SpaceDefinition, SwitchProgress } from '../../engines/store/space.js';
import type { LsmJobs, LsmOutcome, LsmTask, WriteFlow } from '../../engines/lsm/types.js';
import type { WalRecoveryMode } from '../../engines/wal/recovery.js';
import { ControlBlock, MAX_SNAPSHOTS, ShardState } from '../control-block.js';
import { TimedEnv } from '../metrics/timed-env.js';
import { exposeControl } from '../runtime/control-channel.js';
import { isDiskFull, toErrorRecord, type ErrorRecord } from '../../shared/errors.js';
import type { LockHolder } from '../../engines/txn/locks/description.js';
import type { CompactRequest } from './compactions.js';
import { Shard } from './shard.js';
import type { TransactionSettings } from './transactions.js';

export interface ShardWorkerData {
  readonly shard: number;
  readonly directory: string | undefined;
  readonly storeId: Uint8Array;
  readonly control: SharedArrayBuffer;
  readonly arena: ArenaLayout;
  readonly port: MessagePort;
  readonly adopt: boolean;
  readonly isNew: boolean;
  readonly readOnly: boolean;
  /** Every space of the store, the default one included. */
  readonly spaces: readonly SpaceDefinition[];
  /** Imported before the store is opened: they register engines. */
  readonly engineModules: readonly string[];
  readonly segmentBytes: number;
  readonly recoveryMode: WalRecoveryMode | undefined;
  /** Of the background pool: flushes and compactions that may run at a time. */
  readonly backgroundThreads: number;
  /** Token bucket of background I/O, for all jobs of the pool. */
  readonly rate: SharedArrayBuffer | undefined;
  /** Of a store without a directory: where change feeds find the shard's last frames. */
  readonly feedRing: SharedArrayBuffer | undefined;
  /** Of the same: where what is prepared outlives the thread. */
  readonly prepareJournal: SharedArrayBuffer | undefined;
  /** Of a store that is open to read only, where nobody carries decisions to the shards: what is decided. */
  readonly decided: ReadonlySet<number> | undefined;
  readonly transactions: TransactionSettings;
  readonly settings: ShardSettings;
}

/** What can change while the shard runs. */
export interface ShardSettings {
  /** Log bytes behind the last checkpoint at which the next one is asked for; at least the size of the data. */
  readonly checkpointLogBytes: number;
  /** How often entries that have expired are removed, and how many in one group. */
  readonly expiry: { readonly intervalMs: number; readonly batch: number };
  /** Log that is kept for change feeds behind what a recovery needs. */
  readonly feed: { readonly retainBytes: number };
}

/** What the worker tells the host without being asked. */
export type ShardEvent =
  | { readonly event: 'ready'; readonly recovery: RecoveryReport; readonly publishedSeq: number }
  | { readonly event: 'open-failed'; readonly error: ErrorRecord }
  | { readonly event: 'died'; readonly error: ErrorRecord }
  | { readonly event: 'checkpoint-wanted' }
  | { readonly event: 'lsm-job'; readonly job: number; readonly task: LsmTask; readonly priority: number }
  | { readonly event: 'backpressure'; readonly spaceId: number; readonly flow: WriteFlow }
  | { readonly event: 'spare-wanted' };

/** Flushes and compactions, by the background pool of the host. */
class HostJobs implements LsmJobs {
  readonly parallelism: number;
  /** Something has ended: work() has something to do. */
  onEnd: () => void = () => undefined;
  readonly #running = new Map<number, (outcome: LsmOutcome) => void>();
  #last = 0;

  constructor(parallelism: number) {
    this.parallelism = parallelism;
  }

  start(task: LsmTask, priority: number, done: (outcome: LsmOutcome) => void): void {
    const job = ++this.#last;
    this.#running.set(job, done);
    post({ event: 'lsm-job', job, task, priority });
  }

  end(job: number, outcome: LsmOutcome): void {
    const done = this.#running.get(job);
    this.#running.delete(job);
    done?.(outcome);
    this.onEnd();
  }
}

/** Control calls of the host, answered between groups. */
export class ShardControl {
  readonly #shard: Shard;
  readonly #loop: ShardLoop;
  readonly #jobs: HostJobs;

  constructor(shard: Shard, loop: ShardLoop, jobs: HostJobs) {
    this.#shard = shard;
    this.#loop = loop;
    this.#jobs = jobs;
    jobs.onEnd = () => {
      loop.wake();
    };
  }

  attachClient(client: number, requests: SharedArrayBuffer, responses: SharedArrayBuffer): void {
    this.#shard.attach(client, requests, responses);
    this.#loop.wake();
  }

  async detachClient(client: number): Promise<void> {
    const gone = this.#shard.detach(client);
    this.#loop.wake();
    await gone;
  }

  /** Behind detachClient(). */
  hasPrepared(client: number): boolean {
    return this.#shard.hasPrepared(client);
  }

  /** When all shards have detached it. `isSettled`: nothing of what it has prepared will be decided from now on. */
  releaseClient(client: number, isSettled: boolean): void {
    this.#shard.release(client, isSettled);
    this.#loop.wake();
  }

  async beginCheckpoint(): Promise<CheckpointPlan> {
    try {
      // In slices, so that callers are served between them.
      while (!this.#shard.store.prepareCheckpoint()) await new Promise((resolve) => setImmediate(resolve));
      return this.#shard.store.beginCheckpoint();
    } catch (error) {
      if (isDiskFull(error)) this.#shard.diskIsFull();
      this.#loop.checkpointEnded(false);
      throw error;
    }
  }

  endCheckpoint(durable: boolean, isDiskFull: boolean): void {
    try {
      this.#shard.endCheckpoint(durable);
      if (isDiskFull) this.#shard.diskIsFull();
    } finally {
      // Also when the log could not be cut: else no other would be asked for.
      this.#loop.checkpointEnded(durable);
    }
  }

  offerSpare(path: string): boolean {
    const taken = this.#shard.store.log.offerSpare(path);
    this.#loop.spareEnded();
    return taken;
  }

  /** Asks and waits go to the coordinator over this port. */
  attachCoordinator(port: MessagePort): void {
    this.#shard.transactions.attachCoordinator(port, () => {
      this.#loop.wake();
    });
    this.#loop.wake();
  }

  /** Transactions that hold or await locks here, with at most `locksMax` of those they hold. */
  lockHolders(locksMax: number): LockHolder[] {
    return this.#shard.transactions.list(locksMax);
  }

  /** A job that this thread has ordered ended. */
  endJob(job: number, outcome: LsmOutcome): void {
    this.#jobs.end(job, outcome);
  }

  configure(settings: ShardSettings): void {
    this.#loop.configure(settings);
  }

  compact(request: CompactRequest): Promise<number> {
    const removed = this.#shard.compactions.run(request);
    this.#loop.wake();
    return removed;
  }

  /** Resolves when what trees held in memory is in files, or cannot go there. */
  flushTrees(): Promise<void> {
    const flushed = this.#shard.compactions.flushTrees();
    this.#loop.wake();
    return flushed;
  }

  cancelCompact(id: string): void {
    this.#shard.compactions.cancel(id);
    this.#loop.wake();
  }

  check(): string[] {
    return this.#shard.store.spaces.check();
  }

  /** Harmless when it is open. @throws ERR_MEMORY_FULL */
  openSpace(definition: SpaceDefinition): void {
    this.#shard.openSpace(definition);
  }

  /** Resolves when its memory is given back. */
  async dropSpace(spaceId: number): Promise<void> {
    const dropped = this.#shard.moves.drop(spaceId);
    this.#loop.wake();
    await dropped;
  }

  /** Resolves when this shard's part of the space is held by the engine of its definition. @throws ERR_MEMORY_FULL: it stays where it was */
  async switchEngine(definition: SpaceDefinition): Promise<void> {
    const switched = this.#shard.moves.switchEngine(definition);
    this.#loop.wake();
    await switched;
  }

  /** Undefined when nothing is being moved. */
  switchProgress(spaceId: number): SwitchProgress | undefined {
    return this.#shard.switchProgress(spaceId);
  }

  /** Serves what the rings hold, syncs, closes the files. The thread ends afterwards. */
  async close(): Promise<void> {
    await this.#loop.stop();
    this.#shard.store.close();
    setImmediate(() => process.exit(0));
  }
}

const YIELD_MS = 2;
/** Longer than a caller needs to come back after its put was acknowledged. */
const SPIN_MS_MIN = 0.1;
/** Where work has lately come in gaps below this, the next is waited for awake: being woken costs the caller's thread tens of microseconds. */
const BUSY_GAP_MS = 1;
/** How long: this many average gaps, since gaps vary and a collection of garbage on the other side takes a millisecond or two. */
const BUSY_GAPS = 20;
const SPIN_MS_MAX = 3;
/** An idle look takes a microsecond: one that took this long was interrupted by another thread. */
const PREEMPTED_MS = 0.3;
/**
 * One interruption is mostly the collector or the compiler of some thread of ours, which is through with it: two within so long, and the core is wanted by
 * somebody who goes on.
 */
const PREEMPTED_AGAIN_MS = 20;
/** For this long after that the shards park at once. */
const CROWDED_MS = 200;
/** Weight of the newest gap in their average. */
const GAP_WEIGHT = 0.25;
/**
 * For so long after some work the thread blocks where it stands: to be woken from there costs both sides a fraction of what it costs by way of the event loop,
 * which comes round every few milliseconds all the same.
 */
const BLOCK_MS = 1;
const PARK_MS_MAX = 1000;
/** After a checkpoint that failed the next one is asked for no earlier. */
const CHECKPOINT_RETRY_MS = 5000;
/** Nobody writes any more if nobody has for so long. */
const QUIET_MS = 2000;
/** Between two looks for work that goes on beside requests. */
const BACKGROUND_MS_MAX = 1000;
const CORES = availableParallelism();

class ShardLoop {
  readonly #shard: Shard;
  readonly #control: ControlBlock;
  #settings: ShardSettings;
  #parked = false;
  #lastWork = 0;
  /** When the last look found nothing; 0 when something else came between. */
  #lastIdleLook = 0;
  /** When a look was interrupted last. */
  #lastPreempted = -Infinity;
  /** Average time between two steps that found work, ms. */
  #gapMs = 10;
  #stopping: (() => void) | undefined;
  #checkpointAsked = false;
  #checkpointNotBefore = 0;
  #spareAsked = false;
  /** When background work is looked at next, on performance.now()'s clock. */
  #backgroundDue = 0;

  constructor(shard: Shard, control: ControlBlock, settings: ShardSettings) {
    this.#shard = shard;
    this.#control = control;
    this.#settings = settings;
    shard.expiryBatch = settings.expiry.batch;
    shard.expiryIntervalMs = settings.expiry.intervalMs;
  }

  start(): void {
    setImmediate(this.#run);
  }

  configure(settings: ShardSettings): void {
    this.#settings = settings;
    this.#shard.expiryBatch = settings.expiry.batch;
    this.#shard.expiryIntervalMs = settings.expiry.intervalMs;
    this.wake();
    this.#shard.retainLog(settings.feed.retainBytes);
  }

  /** Something arrived outside the rings. */
  wake(): void {
    this.#backgroundDue = 0;
    if (this.#parked) this.#control.shardDoorbell(this.#shard.index).unpark();
  }

  stop(): Promise<void> {
    return new Promise((resolve) => {
      this.#stopping = resolve;
      this.wake();
    });
  }

  checkpointEnded(durable: boolean): void {
    this.#checkpointAsked = false;
    // Spaces that wait for its end to be dropped or exchanged.
    this.wake();
    if (!durable) this.#checkpointNotBefore = performance.now() + CHECKPOINT_RETRY_MS;
  }

  spareEnded(): void {
    this.#spareAsked = false;
  }

  /** Longer where work has lately come in short gaps; a shard that is asked now and then parks soon. */
  get #spinMs(): number {
    if (this.#gapMs > BUSY_GAP_MS) return SPIN_MS_MIN;
    return Math.min(SPIN_MS_MAX, Math.max(SPIN_MS_MIN, BUSY_GAPS * this.#gapMs));
  }

  readonly #run = (): void => {
    const shard = this.#shard;
    const bell = this.#control.shardDoorbell(shard.index);
    const started = performance.now();
    for (;;) {
      const taken = shard.step();
      const now = performance.now();
      if (now >= this.#backgroundDue || shard.store.hasWork || this.#isTickDue) this.#background(now);
      if (now >= shard.reportDueMs) shard.report();
      if (taken > 0) {
        this.#gapMs += GAP_WEIGHT * (Math.min(now - this.#lastWork, 10) - this.#gapMs);
        this.#lastWork = now;
        this.#askHost();
      } else {
        if (this.#stopping !== undefined && !shard.hasUnfinished) {
          this.#stopping();
          return;
        }
        if (this.#lastIdleLook > this.#lastWork && now - this.#lastIdleLook > PREEMPTED_MS) {
          if (this.#lastIdleLook - this.#lastPreempted < PREEMPTED_AGAIN_MS) this.#control.noteCrowded(CROWDED_MS);
          this.#lastPreempted = now;
        }
        this.#lastIdleLook = now;
        const spinMs = this.#control.isCrowded(CORES) ? 0 : this.#spinMs;
        if (now - this.#lastWork > spinMs) {
          if (shard.idle()) break;
          if (this.#backgroundDue <= now) break;
          bell.raise();
          if (shard.hasWork || this.#stopping !== undefined) bell.lower();
          else if (now - this.#lastWork < BLOCK_MS) {
            this.#lastIdleLook = 0;
            bell.parkSync(BLOCK_MS);
          } else {
            this.#parked = true;
            this.#lastIdleLook = 0;
            void bell.parkAsync(this.#parkMs()).then(() => {
              this.#parked = false;
              this.#run();
            });
            return;
          }
        }
      }
      if (now - started > YIELD_MS) break;
    }
    // What the event loop does meanwhile is no interruption.
    this.#lastIdleLook = 0;
    setImmediate(this.#run);
  };

  /** A lock was waited for long enough, or it is time to ask for an outcome. */
  get #isTickDue(): boolean {
    const { tickDueAtMs } = this.#shard.transactions;
    return tickDueAtMs !== Infinity && Date.now() >= tickDueAtMs;
  }

  /** Until something expires, and it is time to look for it; until a held request may go on, or an engine has something to do. */
  #parkMs(): number {
    const shard = this.#shard;
    const nowMs = Date.now();
    const now = performance.now();
    const untilExpiry = Math.max(shard.expiryDueAt - nowMs, this.#backgroundDue - now);
    const untilSwitch = shard.moves.dueMs > now ? shard.moves.dueMs - now : Infinity;
    const untilWork = Math.min(shard.workDueAtMs - nowMs, shard.heldDueMs - now, untilSwitch);
    const untilReport = shard.reportDueMs - now;
    const untilLock = shard.transactions.tickDueAtMs - nowMs;
    return Math.min(PARK_MS_MAX, Math.max(1, Math.min(untilReport, untilExpiry, untilWork, untilLock)));
  }

  /** A slice of what goes on beside requests; the next one at once, or when something may have expired. */
  #background(now: number): void {
    const shard = this.#shard;
    if (shard.background(Date.now())) {
      this.#backgroundDue = now;
      return;
    }
    if (now - this.#lastWork > QUIET_MS && this.#mayAskForCheckpoint && shard.store.wantsQuietCheckpoint)
      this.#askForCheckpoint();
    const dueAtMs = Math.min(shard.workDueAtMs, shard.transactions.tickDueAtMs);
    let waitMs = Math.min(this.#settings.expiry.intervalMs, BACKGROUND_MS_MAX, dueAtMs - Date.now());
    if (shard.moves.dueMs > now) waitMs = Math.min(waitMs, shard.moves.dueMs - now);
    this.#backgroundDue = now + Math.max(1, waitMs);
  }

  get #mayAskForCheckpoint(): boolean {
    return !this.#checkpointAsked && performance.now() >= this.#checkpointNotBefore;
  }

  #askForCheckpoint(): void {
    this.#checkpointAsked = true;
    post({ event: 'checkpoint-wanted' });
  }

  #askHost(): void {
    const { store } = this.#shard;
    const { checkpointLogBytes } = this.#settings;
    if (store.logBytes > checkpointLogBytes && this.#mayAskForCheckpoint && store.wantsCheckpoint(checkpointLogBytes)) {
      this.#askForCheckpoint();
    }
    if (!this.#spareAsked && store.log.wantsSpare()) {
      this.#spareAsked = true;
      post({ event: 'spare-wanted' });
    }
  }
}

function post(event: ShardEvent): void {
  parentPort!.postMessage(event);
}

function openSnapshots(control: ControlBlock, shard: number): OpenSnapshots {
  const sequences = new Float64Array(MAX_SNAPSHOTS);
  return { sequences, count: control.readSnapshots(sequences, control.published(shard)) };
}

async function main(data: ShardWorkerData): Promise<void> {
  process.on('uncaughtException', (error) => {
    post({ event: 'died', error: toErrorRecord(error) });
    // Lets the message leave; the loop does not go on.
    setImmediate(() => process.exit(1));
  });
  for (const module of data.engineModules) await import(module);
  const control = new ControlBlock(data.control);
  const env = new TimedEnv();
  const jobs = new HostJobs(data.backgroundThreads);
  let loggedSeq: number;
  let store: ShardStore;
  try {
    // A predecessor that died while it read its own memory may hold the latch for reading, which would keep this thread from writing.
    if (data.adopt) ArenaReader.clearSlot(data.arena, SHARD_READER_SLOT);
    // What a predecessor had logged and not applied is applied now, as a group: snapshots that are open need the versions it replaces. If it died
    // while it applied, that goes on: a snapshot that waits for its end waits for ours.
    if (!control.isApplying(data.shard)) control.beginApplying(data.shard);
    store = ShardStore.open({
      snapshots: data.adopt ? openSnapshots(control, data.shard) : undefined,
      env,
      directory: data.directory,
      storeId: data.storeId,
      shard: data.shard,
      arena: data.arena,
      adopt: data.adopt,
      isNew: data.isNew,
      readOnly: data.readOnly,
      spaces: data.spaces,
      jobs,
      rate: data.rate,
      feedRing: data.feedRing,
      prepareJournal: data.prepareJournal,
      retainBytes: data.settings.feed.retainBytes,
      segmentBytes: data.segmentBytes,
      ...(data.recoveryMode === undefined ? {} : { recoveryMode: data.recoveryMode }),
    });
    const { decided } = data;
    loggedSeq = store.publishedSeq;
    if (decided !== undefined) settlePrepared(store, (id) => decided.has(id));
  } catch (error) {
    post({ event: 'open-failed', error: toErrorRecord(error) });
    setImmediate(() => process.exit(1));
    return;
  }
  const shard = new Shard(data.shard, store, control, env, data.transactions);
  // What was settled is in no log: change feeds are not told of it.
  if (data.readOnly) control.setLogEnd(data.shard, loggedSeq);
  shard.onFlow = (spaceId, flow) => {
    post({ event: 'backpressure', spaceId, flow });
  };
  shard.report();
  const loop = new ShardLoop(shard, control, data.settings);
  exposeControl(new ShardControl(shard, loop, jobs), data.port);
  control.setShardState(data.shard, ShardState.Running);
  post({ event: 'ready', recovery: store.recovery, publishedSeq: store.publishedSeq });
  loop.start();
}

void main(workerData as ShardWorkerData);
