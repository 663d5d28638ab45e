/**
 * Background tasks that read a store's whole state: what they need of the engines is much to load (lsm-tasks.ts and file-tasks.ts have the others). Each takes plain data and shared
 * memory, writes files, returns plain data. Cancelled through a shared word. Threads: pool workers.
 */
import { NodeEnv } from '../../shared/env/node-env.js';
import { ConcordError } from '../../shared/errors.js';
import { ArenaReader, ArenaWriter, createArena, type ArenaLayout } from '../../shared/memory/arena.js';
import { writeImage } from '../../engines/btree/image.js';
import { ColdPages } from '../../engines/btree/paged/cold-pages.js';
import type { PagedRoot } from '../../engines/btree/paged/format.js';
import { pagedRootChunk, syncPaged } from '../../engines/btree/paged/paging.js';
import { TreeTable, publishTrees, rowOfSpace, treeCounts } from '../../engines/btree/meta.js';
import { BTreeWriter, type BulkEntry } from '../../engines/btree/writer.js';
import '../../engines/built-in.js';
import { visitEntries, writeEntries } from '../../engines/checkpoint/entries.js';
import { CheckpointWriter, type CheckpointHeader } from '../../engines/checkpoint/writer.js';
import { LsmFiles } from '../../engines/lsm/read/files.js';
import { lsmRootChunk, type LsmRoot } from '../../engines/lsm/root.js';
import { EXPIRY_SPACE_ID, EngineCode, engineNamed, rowTag } from '../../engines/engine.js';
import { JOB_READER_SLOT, indexKey } from '../../engines/store/space-table.js';
import type { SpaceDefinition } from '../../engines/store/space.js';
import { WalWriter } from '../../engines/wal/writer.js';
import { attempt, type TaskResult } from './task-result.js';

export interface CheckpointTask {
  readonly directory: string;
  readonly header: CheckpointHeader;
  readonly arena: ArenaLayout;
  /** Pinned by the shard for as long as the task runs. */
  readonly metaUnit: number;
  /** Spaces whose entries follow the pages, as of header.publishedSeq, which the shard keeps readable meanwhile. */
  readonly entrySpaces: readonly number[];
  /** Trees whose pages are in files of their own. */
  readonly pagedRoots: readonly PagedRoot[];
  /** LSM-Trees, whose tables are synced. */
  readonly lsmRoots: readonly LsmRoot[];
  readonly engineModules: readonly string[];
  /** Word 0 not 0: stop. */
  readonly cancel: Int32Array;
}

async function loadModules(modules: readonly string[]): Promise<void> {
  for (const module of modules) await import(module);
}

/** A shard that died with the latch in its hands is replaced when its job has ended: the job must not wait for the successor. */
const LATCH_WAIT_MS_MAX = 1000;

function sourceOf(task: CheckpointTask): ArenaReader {
  const arena = new ArenaReader(task.arena);
  arena.latchWaitMsMax = LATCH_WAIT_MS_MAX;
  return arena;
}

/** Writes the pinned state as a checkpoint file: B+Trees as pages, what other engines hold as entries. */
export async function checkpoint(task: CheckpointTask): Promise<TaskResult<{ path: string; bytes: number }>> {
  return attempt(async () => {
    await loadModules(task.engineModules);
    const isCancelled = (): boolean => Atomics.load(task.cancel, 0) !== 0;
    const writer = CheckpointWriter.create(new NodeEnv(), task.directory, task.header, { isCancelled });
    const emit = (chunk: Uint8Array): void => {
      writer.write(chunk);
    };
    try {
      const arena = sourceOf(task);
      writeImage(arena, task.metaUnit, emit);
      for (const space of task.entrySpaces) writeEntries(arena, JOB_READER_SLOT, space, task.header.publishedSeq, emit);
      syncPaged(new NodeEnv(), task.directory, task.pagedRoots);
      for (const root of task.pagedRoots) emit(pagedRootChunk(root));
      for (const root of task.lsmRoots) emit(lsmRootChunk(root));
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
  readonly spaces: readonly SpaceDefinition[];
  readonly memoryBytes: number;
  readonly segmentBytes: number;
}

/** Writes the state at a snapshot, packed densely and without history, as a checkpoint file of its own. */
export async function exportSnapshot(
  task: ExportTask,
): Promise<TaskResult<{ path: string; bytes: number; entries: number }>> {
  return attempt(async () => {
    await loadModules(task.engineModules);
    const source = sourceOf(task);
    const target = new ArenaWriter(createArena({ memoryBytes: task.memoryBytes }));
    const isCancelled = (): boolean => Atomics.load(task.cancel, 0) !== 0;
    const expiring: BulkEntry[] = [];
    let entries = 0;
    // What may be larger than the memory is not built in memory.
    const entrySpaces = [...task.entrySpaces];
    for (const { id } of task.spaces) {
      const row = rowOfSpace(source, task.metaUnit, id);
      if (row >= 0 && treeCounts(source, task.metaUnit, row).isPaged === true) entrySpaces.push(id);
    }
    for (const { id, tuning } of task.spaces) {
      const row = rowOfSpace(source, task.metaUnit, id);
      if (row < 0 || entrySpaces.includes(id)) continue;
      const order = tuning.order === undefined ? {} : { order: tuning.order };
      const tree = new BTreeWriter(target, TreeTable.of(target).freeRow(), {
        ...order,
        tag: rowTag(id, EngineCode.btree),
      });
      const cursor = engineNamed('btree').openCursor(source, row, id, JOB_READER_SLOT);
      const walk = function* (): Generator<BulkEntry> {
        cursor.seek(task.metaUnit, undefined, 0, task.snapshotSeq, false, 1);
        for (; cursor.valid; cursor.next()) {
          const key = Buffer.allocUnsafe(cursor.keyLength);
          cursor.copyKey(key, 0);
          // The shard that holds the pin died: its successor waits for this.
          if ((++entries & 1023) === 0 && isCancelled())
            throw new ConcordError('ERR_CLOSED', 'the export was cancelled');
          const { seq, expiresAt } = cursor;
          if (expiresAt !== 0) expiring.push({ key: indexKey(expiresAt, id, seq, key), value: key, seq, expiresAt: 0 });
          yield { key, value: cursor.copyValue(), seq, expiresAt };
        }
      };
      tree.bulkLoad(walk());
    }
    // Entries of other engines are read twice: what of them expires is listed in the image before them.
    for (const id of entrySpaces) {
      visitEntries(source, JOB_READER_SLOT, id, task.snapshotSeq, (cursor) => {
        entries++;
        const { seq, expiresAt } = cursor;
        if (expiresAt === 0) return;
        const key = Buffer.allocUnsafe(cursor.keyLength);
        cursor.copyKey(key, 0);
        expiring.push({ key: indexKey(expiresAt, id, seq, key), value: key, seq, expiresAt: 0 });
      });
      if (isCancelled()) throw new ConcordError('ERR_CLOSED', 'the export was cancelled');
    }
    if (expiring.length > 0) {
      expiring.sort((a, b) => Buffer.compare(a.key, b.key));
      const tag = rowTag(EXPIRY_SPACE_ID, EngineCode.btree);
      new BTreeWriter(target, TreeTable.of(target).freeRow(), { tag }).bulkLoad(expiring);
    }
    publishTrees(target, task.header.publishedSeq);
    const writer = CheckpointWriter.create(new NodeEnv(), task.directory, task.header, { isCancelled });
    const emit = (chunk: Uint8Array): void => {
      writer.write(chunk);
    };
    try {
      writeImage(target, target.published(), emit);
      for (const space of entrySpaces) writeEntries(source, JOB_READER_SLOT, space, task.snapshotSeq, emit);
      const written = writer.finish();
      // An empty log: a store without one would look damaged.
      const { storeId, shard } = task.header;
      WalWriter.create(new NodeEnv(), task.directory, { storeId, shard, segmentBytes: task.segmentBytes }).close();
      return { ...written, entries };
    } catch (error) {
      writer.abort();
      throw error;
    } finally {
      LsmFiles.known(source)?.close();
      ColdPages.known(source)?.close();
    }
  });
}
