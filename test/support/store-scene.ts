/**
 * A shard store on any Env, for tests: operations as plain objects, their records as bytes, and what a reader of the store sees.
 *
 * A state is a map from key to the fingerprint of its value, so that thousands of states can be kept and compared.
 */
import { writeImage } from '../../dist/engines/btree/image.js';
import { pagedRootChunk, syncPaged } from '../../dist/engines/btree/paged/paging.js';
import { lsmRootChunk } from '../../dist/engines/lsm/attach.js';
import { CheckpointWriter } from '../../dist/engines/checkpoint/writer.js';
import {
  BLOB_REFERENCE_BYTES,
  CHUNK_OF_BATCH,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeBlobReference,
  writeOperationHeader,
} from '../../dist/engines/operation.js';
import { writeEntries } from '../../dist/engines/checkpoint/entries.js';
import { JOB_READER_SLOT } from '../../dist/engines/store/space-table.js';
import { ShardStore } from '../../dist/engines/store/shard-store.js';
import type { ShardStoreOptions } from '../../dist/engines/store/options.js';
import type { CheckpointPlan, DurabilityLevel } from '../../dist/engines/store/shard-store.js';
import { crc32 } from '../../dist/shared/checksum.js';
import type { Env } from '../../dist/shared/env/env.js';
import { ArenaReader, createArena } from '../../dist/shared/memory/arena.js';
import { ConcordError } from '../../dist/shared/errors.js';

export const STORE_ID = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
export const SHARD = 0;
export const DIRECTORY = '/data/shard-0000';
export const SEGMENT_BYTES = 64 << 10;
const MEMORY_BYTES = 4 << 20;
const NO_SNAPSHOTS = new Float64Array(0);

export type Operation =
  | { readonly kind: 'put'; readonly key: string; readonly value: Uint8Array }
  | { readonly kind: 'del'; readonly key: string }
  | { readonly kind: 'clear'; readonly low: string | undefined; readonly high: string | undefined }
  | {
      readonly kind: 'chunk';
      readonly client: number;
      readonly blob: number;
      readonly ofBatch: boolean;
      readonly offset: number;
      readonly totalBytes: number;
      readonly bytes: Uint8Array;
    }
  | {
      readonly kind: 'putBlob';
      readonly client: number;
      readonly blob: number;
      readonly key: string;
      readonly value: Uint8Array;
    }
  | {
      readonly kind: 'applyBatch';
      readonly client: number;
      readonly blob: number;
      readonly totalBytes: number;
      readonly operations: readonly Operation[];
    };

/** Key → fingerprint of its value. */
export type State = ReadonlyMap<string, string>;

export function fingerprint(value: Uint8Array): string {
  return `${value.length}:${(crc32(value, 0, value.length) >>> 0).toString(16)}`;
}

export function applied(state: State, operations: readonly Operation[]): State {
  let next: Map<string, string> | undefined;
  const changing = (): Map<string, string> => (next ??= new Map(state));
  for (const operation of operations) {
    switch (operation.kind) {
      case 'put':
      case 'putBlob':
        changing().set(operation.key, fingerprint(operation.value));
        break;
      case 'del':
        changing().delete(operation.key);
        break;
      case 'clear':
        for (const key of [...changing().keys()]) {
          if (
            (operation.low === undefined || key >= operation.low) &&
            (operation.high === undefined || key < operation.high)
          ) {
            changing().delete(key);
          }
        }
        break;
      case 'applyBatch':
        next = new Map(applied(changing(), operation.operations));
        break;
      case 'chunk':
    }
  }
  return next ?? state;
}

/** Sequence numbers an operation takes. */
function spanOf(operation: Operation): number {
  return operation.kind === 'applyBatch' ? Math.max(1, operation.operations.length) : 1;
}

function record(kind: number, flags: number, key: Uint8Array, value: Uint8Array): Buffer {
  const bytes = Buffer.alloc(operationBytes(key.length, value.length));
  writeOperationHeader(bytes, 0, kind, flags, key.length, value.length);
  bytes.set(key, OPERATION_HEADER_BYTES);
  bytes.set(value, OPERATION_HEADER_BYTES + key.length);
  return bytes;
}

function reference(client: number, blob: number, offset: number, count: number): Buffer {
  const bytes = Buffer.alloc(BLOB_REFERENCE_BYTES);
  writeBlobReference(bytes, 0, { client, blob, offset, count });
  return bytes;
}

/** The record of any operation but a clear. */
export function recordOf(operation: Operation): Buffer {
  const noBytes = Buffer.alloc(0);
  switch (operation.kind) {
    case 'put':
      return record(OperationKind.Put, 0, Buffer.from(operation.key), operation.value);
    case 'del':
      return record(OperationKind.Delete, 0, Buffer.from(operation.key), noBytes);
    case 'chunk': {
      const { client, blob, offset, totalBytes, ofBatch, bytes } = operation;
      const name = reference(client, blob, offset, offset === 0 ? totalBytes : 0);
      return record(OperationKind.Chunk, ofBatch ? CHUNK_OF_BATCH : 0, name, bytes);
    }
    case 'putBlob': {
      const name = reference(operation.client, operation.blob, operation.value.length, 0);
      return record(OperationKind.PutBlob, 0, Buffer.from(operation.key), name);
    }
    case 'applyBatch': {
      const name = reference(operation.client, operation.blob, operation.totalBytes, operation.operations.length);
      return record(OperationKind.ApplyBatch, 0, noBytes, name);
    }
    case 'clear':
      throw new Error('a clear is appended by its bounds');
  }
}

export function batchBytes(operations: readonly Operation[]): Buffer {
  return Buffer.concat(operations.map(recordOf));
}

export function openStore(env: Env, options: Partial<ShardStoreOptions> = {}): ShardStore {
  return ShardStore.open({
    env,
    directory: DIRECTORY,
    storeId: STORE_ID,
    shard: SHARD,
    arena: createArena({ memoryBytes: MEMORY_BYTES }),
    segmentBytes: SEGMENT_BYTES,
    ...options,
  });
}

/** A new store whose directory is durable. */
export function createStore(env: Env, options: Partial<ShardStoreOptions> = {}): ShardStore {
  const store = openStore(env, { isNew: true, ...options });
  const directory = options.directory ?? DIRECTORY;
  for (let at = directory.lastIndexOf('/'); at >= 0; at = directory.lastIndexOf('/', at - 1)) {
    env.syncDirectory(directory.slice(0, at) || '/');
    if (at === 0) break;
  }
  return store;
}

export interface OpenNumbers {
  readonly sorted: Float64Array<ArrayBuffer>;
  readonly count: number;
}

/** Puts the operations into a group; the caller commits it. Returns the sequence numbers it needs. */
export function buildGroup(store: ShardStore, operations: readonly Operation[]): number {
  store.beginGroup();
  for (const operation of operations) {
    if (operation.kind === 'clear') {
      const bound = (key: string | undefined): Buffer | undefined => (key === undefined ? undefined : Buffer.from(key));
      store.appendClear(0, bound(operation.low), bound(operation.high));
    } else {
      const bytes = recordOf(operation);
      // Of their own: the store reads them as words too.
      const own = Buffer.from(new ArrayBuffer(bytes.length));
      own.set(bytes);
      store.append(own, new Int32Array(own.buffer), 0, own.length);
    }
  }
  return store.groupSpan;
}

/** One group. Returns the last sequence number it took; `dropRecords` of the store may make it more than its operations need. */
export function commit(
  store: ShardStore,
  level: DurabilityLevel,
  operations: readonly Operation[],
  firstSeq = store.publishedSeq + 1,
  snapshots: OpenNumbers = { sorted: NO_SNAPSHOTS, count: 0 },
): number {
  const span = buildGroup(store, operations);
  store.commit(level, firstSeq, () => {
    store.setSnapshots(snapshots.sorted, snapshots.count);
  });
  return firstSeq + span - 1;
}

export function spanOfAll(operations: readonly Operation[]): number {
  return operations.reduce((sum, operation) => sum + spanOf(operation), 0);
}

export function readState(store: ShardStore, atSeq = Infinity): State {
  const state = new Map<string, string>();
  const cursor = store.spaces.cursorOf(store.spaces.require(0));
  cursor.setRange(undefined, undefined);
  cursor.seek(store.arena.published(), undefined, 0, atSeq, false, 1);
  for (; cursor.valid; cursor.next()) {
    const key = Buffer.alloc(cursor.keyLength);
    cursor.copyKey(key, 0);
    state.set(key.toString(), fingerprint(cursor.copyValue()));
  }
  cursor.release();
  return state;
}

export function stateText(state: State): string {
  return [...state]
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(' ');
}

/** The checkpoint job, in this thread. */
export function writeCheckpoint(env: Env, store: ShardStore, plan: CheckpointPlan, directory = DIRECTORY): string {
  const { lsn, replayFromLsn, publishedSeq, metaUnit } = plan;
  const header = { storeId: STORE_ID, shard: SHARD, lsn, replayFromLsn, publishedSeq, createdAt: env.now() };
  const writer = CheckpointWriter.create(env, directory, header);
  try {
    const emit = (chunk: Uint8Array): void => {
      writer.write(chunk);
    };
    const arena = new ArenaReader(store.arena.layout);
    writeImage(arena, metaUnit, emit);
    for (const space of plan.entrySpaces) writeEntries(arena, JOB_READER_SLOT, space, publishedSeq, emit);
    syncPaged(env, directory, plan.pagedRoots);
    for (const root of plan.pagedRoots) emit(pagedRootChunk(root));
    for (const root of plan.lsmRoots) emit(lsmRootChunk(root));
    return writer.finish().path;
  } catch (error) {
    writer.abort();
    throw error;
  }
}

export function checkpoint(env: Env, store: ShardStore): void {
  const plan = store.beginCheckpoint();
  let durable = false;
  try {
    writeCheckpoint(env, store, plan);
    durable = true;
  } finally {
    store.endCheckpoint(durable);
  }
}

/** The coded error a call throws; fails the test when it returns or throws something else. */
export function failure(call: () => unknown): ConcordError {
  try {
    call();
  } catch (error) {
    if (error instanceof ConcordError) return error;
    throw error;
  }
  throw new Error('the call should have failed');
}
