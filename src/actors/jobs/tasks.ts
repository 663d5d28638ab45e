/**
 * Background tasks, run by Piscina workers. Each takes plain data and shared memory, writes files, returns plain data; a failure is
 * returned as a record, because structured clone drops codes. Cancelled through a shared word. Threads: pool workers.
 */
import { NodeEnv } from '../../shared/env/node-env.js';
import { ConcordError, toErrorRecord, type ErrorRecord } from '../../shared/errors.js';
import { ArenaReader, ArenaWriter, createArena, type ArenaLayout } from '../../shared/memory/arena.js';
import { BTreeCursor } from '../../engines/btree/cursor.js';
import { writeImage } from '../../engines/btree/image.js';
import { publishTrees } from '../../engines/btree/meta.js';
import { BTreeWriter, type BulkEntry } from '../../engines/btree/writer.js';
import { CheckpointWriter, type CheckpointHeader } from '../../engines/checkpoint/writer.js';
import { DEFAULT_TREE } from '../../engines/store/shard-store.js';
import { preallocateSegment } from '../../engines/wal/preallocate.js';
import { WalWriter } from '../../engines/wal/writer.js';

export type TaskResult<T> = { readonly value: T } | { readonly error: ErrorRecord };

export interface CheckpointTask {
  readonly directory: string;
  readonly header: CheckpointHeader;
  readonly arena: ArenaLayout;
  /** Pinned by the shard for as long as the task runs. */
  readonly metaUnit: number;
  /** Word 0 not 0: stop. */
  readonly cancel: Int32Array;
}

function attempt<T>(work: () => T): TaskResult<T> {
  try {
    return { value: work() };
  } catch (error) {
    return { error: toErrorRecord(error) };
  }
}

/** Writes the pinned state as a checkpoint file. */
export function checkpoint(task: CheckpointTask): TaskResult<{ path: string; bytes: number }> {
  return attempt(() => {
    const isCancelled = (): boolean => Atomics.load(task.cancel, 0) !== 0;
    const writer = CheckpointWriter.create(new NodeEnv(), task.directory, task.header, { isCancelled });
    try {
      writeImage(new ArenaReader(task.arena), task.metaUnit, (chunk) => {
        writer.write(chunk);
      });
      return writer.finish();
    } catch (error) {
      writer.abort();
      throw error;
    }
  });
}

export interface ExportTask extends CheckpointTask {
  /** Only versions up to this number are exported. */
  readonly snapshotSeq: number;
  readonly memoryBytes: number;
  readonly pageBytes: number | undefined;
  readonly order: number | undefined;
  readonly segmentBytes: number;
}

/** Writes the state at a snapshot, packed densely and without history, as a checkpoint file of its own. */
export function exportSnapshot(task: ExportTask): TaskResult<{ path: string; bytes: number; entries: number }> {
  return attempt(() => {
    const source = new ArenaReader(task.arena);
    const target = new ArenaWriter(createArena({ memoryBytes: task.memoryBytes }));
    const tree = new BTreeWriter(target, DEFAULT_TREE, {
      ...(task.order === undefined ? {} : { order: task.order }),
      ...(task.pageBytes === undefined ? {} : { pageBytes: task.pageBytes }),
    });
    let entries = 0;
    const isCancelled = (): boolean => Atomics.load(task.cancel, 0) !== 0;
    const cursor = new BTreeCursor(source, DEFAULT_TREE);
    const walk = function* (): Generator<BulkEntry> {
      cursor.seek(task.metaUnit, undefined, 0, task.snapshotSeq, false);
      for (; cursor.valid; cursor.next()) {
        const key = Buffer.allocUnsafe(cursor.keyLength);
        cursor.copyKey(key, 0);
        // The shard that holds the pin died: its successor waits for this.
        if ((++entries & 1023) === 0 && isCancelled()) throw new ConcordError('ERR_CLOSED', 'the export was cancelled');
        yield { key, value: cursor.copyValue(), seq: cursor.seq };
      }
    };
    tree.bulkLoad(walk());
    publishTrees(target, task.header.publishedSeq);
    const writer = CheckpointWriter.create(new NodeEnv(), task.directory, task.header, { isCancelled });
    try {
      writeImage(target, target.published(), (chunk) => {
        writer.write(chunk);
      });
      const written = writer.finish();
      // An empty log: a store without one would look damaged.
      const { storeId, shard } = task.header;
      WalWriter.create(new NodeEnv(), task.directory, { storeId, shard, segmentBytes: task.segmentBytes }).close();
      return { ...written, entries };
    } catch (error) {
      writer.abort();
      throw error;
    }
  });
}

/** Makes a zero-filled, synced log segment; returns its path. */
export function preallocate(task: { directory: string; segmentBytes: number }): TaskResult<string> {
  return attempt(() => preallocateSegment(new NodeEnv(), task.directory, task.segmentBytes));
}

/** Makes the pool start a worker for the tasks that wait. */
export function nothing(): void {}
