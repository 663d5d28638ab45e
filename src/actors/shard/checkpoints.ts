/**
 * One shard's checkpoints, and its part of a copy of the store: a pool worker reads a pinned state in shared memory and writes it to a file.
 *
 *   beginCheckpoint() pins ──▶ task in the background pool ──▶ the job's reader slot is cleared ──▶ endCheckpoint() gives the pin back
 *
 * Must hold: one state is pinned at a time; who asks for a checkpoint meanwhile gets that one, a copy waits for its end. A job is cancelled when the shard
 * dies: its pin is gone with the thread, and the successor uses the pages again. Threads: the host's.
 */
import { ConcordError, isDiskFull } from '../../shared/errors.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import { ArenaReader } from '../../shared/memory/arena.js';
import type { CheckpointPlan } from '../../engines/store/shard-store.js';
import { JOB_READER_SLOT } from '../../engines/store/space-table.js';
import type { SpaceDefinition } from '../../engines/store/space.js';
import { ShardHistogram } from '../metrics/board.js';
import { HISTOGRAM_LENGTH, record } from '../metrics/histogram.js';
import { tellCheckpoint } from '../metrics/tracing.js';
import type { RemoteControl } from '../runtime/control-channel.js';
import type { ShardControl } from './shard-worker.js';
import type { ShardSupervisor, ShardSupervisorOptions } from './supervisor.js';

/** Where a copy goes, and what is in it. */
export interface CopyTarget {
  /** Of this shard's part. */
  readonly directory: string;
  readonly storeId: Uint8Array;
  readonly spaces: readonly SpaceDefinition[];
  readonly snapshotSeq: number;
  readonly memoryBytes: number;
}

export class ShardCheckpoints {
  readonly #shard: ShardSupervisor;
  readonly #options: ShardSupervisorOptions;
  /** The job that runs now, and the word that cancels it. */
  #running: { readonly done: Promise<void>; readonly cancel: Int32Array } | undefined;

  constructor(shard: ShardSupervisor, options: ShardSupervisorOptions) {
    this.#shard = shard;
    this.#options = options;
  }

  /** Writes one and cuts the log; joins one that runs already. @throws ERR_SHARD_FAILED, ERR_SHARD_RESTARTED, ERR_IO, ERR_DISK_FULL, ERR_CLOSED */
  async write(): Promise<void> {
    const { directory } = this.#shard;
    if (directory === undefined || this.#options.constants.readOnly) return;
    await this.#shard.restarted;
    const remote = this.#shard.requireUp();
    this.#running ??= this.#begin((cancel) => this.#toldOf(directory, this.#writeTo(directory, remote, cancel)));
    await this.#running.done;
  }

  /** Writes this shard's part of a copy. @throws as write() */
  async copyTo(target: CopyTarget): Promise<void> {
    await this.#shard.restarted;
    while (this.#running !== undefined) await this.ended();
    const remote = this.#shard.requireUp();
    this.#running = this.#begin((cancel) => this.#copyTo(target, remote, cancel));
    await this.#running.done;
  }

  /** Resolves when the job that runs has ended, however. */
  async ended(): Promise<void> {
    await this.#running?.done.catch(() => undefined);
  }

  /** Resolves when none runs any more. */
  async cancel(): Promise<void> {
    if (this.#running !== undefined) Atomics.store(this.#running.cancel, 0, 1);
    await this.ended();
  }

  #begin(run: (cancel: Int32Array) => Promise<void>): { done: Promise<void>; cancel: Int32Array } {
    const cancel = new Int32Array(new SharedArrayBuffer(4));
    const done = run(cancel)
      .catch((error: unknown) => {
        const isCancelled = Atomics.load(cancel, 0) !== 0;
        throw this.#shard.lossOf(isCancelled ? new ConcordError('ERR_CLOSED', 'cancelled') : error);
      })
      .finally(() => {
        this.#running = undefined;
      });
    return { done, cancel };
  }

  /** Tells how long it took. */
  async #toldOf(directory: string, writing: Promise<void>): Promise<void> {
    const shard = this.#shard.index;
    const startedMs = performance.now();
    try {
      await writing;
    } catch (error) {
      tellCheckpoint({ shard, directory, durationMs: performance.now() - startedMs, error });
      throw error;
    }
    const durationMs = performance.now() - startedMs;
    const histograms = this.#options.control.board.shardHistograms(shard);
    record(histograms, ShardHistogram.Checkpoint * HISTOGRAM_LENGTH, durationMs * 1e6);
    tellCheckpoint({ shard, directory, durationMs });
  }

  async #writeTo(directory: string, remote: RemoteControl<ShardControl>, cancel: Int32Array): Promise<void> {
    const { background, constants } = this.#options;
    const plan = await remote.beginCheckpoint();
    let isDurable = false;
    let isFull = false;
    try {
      await background.run('checkpoint', {
        directory,
        header: {
          storeId: constants.storeId,
          shard: this.#shard.index,
          lsn: plan.lsn,
          replayFromLsn: plan.replayFromLsn,
          publishedSeq: plan.publishedSeq,
          createdAt: Date.now(),
        },
        arena: this.#shard.arena,
        metaUnit: plan.metaUnit,
        entrySpaces: plan.entrySpaces,
        pagedRoots: plan.pagedRoots,
        lsmRoots: plan.lsmRoots,
        engineModules: constants.engineModules,
        cancel,
      });
      isDurable = true;
    } catch (error) {
      isFull = isDiskFull(error);
      throw error;
    } finally {
      this.#clearJobSlot();
      await remote.endCheckpoint(isDurable, isFull);
    }
  }

  async #copyTo(target: CopyTarget, remote: RemoteControl<ShardControl>, cancel: Int32Array): Promise<void> {
    const { background, constants } = this.#options;
    const { directory, storeId, spaces, snapshotSeq, memoryBytes } = target;
    const plan = await remote.beginCheckpoint();
    try {
      new NodeEnv().makeDirectory(directory);
      await background.run('exportSnapshot', {
        directory,
        header: {
          storeId,
          shard: this.#shard.index,
          lsn: 0,
          replayFromLsn: 1,
          publishedSeq: snapshotSeq,
          createdAt: Date.now(),
        },
        arena: this.#shard.arena,
        metaUnit: plan.metaUnit,
        entrySpaces: entrySpacesOf(plan, spaces),
        pagedRoots: [],
        lsmRoots: [],
        engineModules: constants.engineModules,
        cancel,
        snapshotSeq,
        spaces,
        memoryBytes,
        segmentBytes: constants.segmentBytes,
      });
    } finally {
      this.#clearJobSlot();
      await remote.endCheckpoint(false, false);
    }
  }

  /** A job whose thread died may have left a pin, or hold the latch for reading: the shard would wait for it before it can answer. */
  #clearJobSlot(): void {
    ArenaReader.clearSlot(this.#shard.arena, JOB_READER_SLOT);
  }
}

/** Those that a copy takes as entries. The id of one that came later will be given to another space in the copy. */
function entrySpacesOf(plan: CheckpointPlan, spaces: readonly SpaceDefinition[]): number[] {
  return [...plan.entrySpaces, ...plan.lsmSpaces].filter((spaceId) => spaces.some(({ id }) => id === spaceId));
}
