/**
 * Shards, a client and the control block in one thread: every step is taken by hand, so a moment between two threads can be held still.
 * Memory only, unless a store is given.
 */
import { BTreeReader } from '../../dist/engines/btree/reader.js';
import {
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationHeader,
} from '../../dist/engines/operation.js';
import { ShardStore } from '../../dist/engines/store/shard-store.js';
import { ControlBlock, ShardState } from '../../dist/actors/control-block.js';
import { ShardLink, newRequest } from '../../dist/actors/client/shard-link.js';
import { REQUEST_HEADER_BYTES, REQUEST_RING_BYTES, RESPONSE_RING_BYTES } from '../../dist/actors/shard/request.js';
import { Shard } from '../../dist/actors/shard/shard.js';
import { hashBytes } from '../../dist/shared/hash.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { createArena, type ArenaLayout } from '../../dist/shared/memory/arena.js';
import { createRing } from '../../dist/shared/memory/ring.js';

export interface Rings {
  readonly requests: SharedArrayBuffer;
  readonly responses: SharedArrayBuffer;
}

export function newRings(): Rings {
  return { requests: createRing(REQUEST_RING_BYTES), responses: createRing(RESPONSE_RING_BYTES) };
}

export function newArena(): ArenaLayout {
  return createArena({ memoryBytes: 16 << 20 });
}

export function newShard(control: ControlBlock, index: number, arena: ArenaLayout = newArena()): Shard {
  const store = ShardStore.open({
    env: new MemEnv(),
    directory: undefined,
    storeId: new Uint8Array(16),
    shard: index,
    arena,
  });
  control.setShardState(index, ShardState.Running);
  return new Shard(index, store, control);
}

export function newControl(shards: number): ControlBlock {
  const control = ControlBlock.create(shards);
  control.nextSequence = 1;
  return control;
}

export function newLink(client: number, rings: Rings): ShardLink {
  return new ShardLink(0, client, rings.requests, rings.responses, () => undefined);
}

/** Writes a put into the ring, published; the promise settles with link.settle(). */
export function put(link: ShardLink, key: string, value: string): Promise<boolean> {
  const keyBytes = Buffer.from(key);
  const valueBytes = Buffer.from(value);
  const hash = hashBytes(keyBytes, 0, keyBytes.length);
  const request = newRequest(operationBytes(keyBytes.length, valueBytes.length), 0, 0, hash, 0);
  writeOperationHeader(request, REQUEST_HEADER_BYTES, OperationKind.Put, 0, keyBytes.length, valueBytes.length);
  request.set(keyBytes, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES);
  request.set(valueBytes, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES + keyBytes.length);
  const at = link.reserve(request.length - REQUEST_HEADER_BYTES);
  link.requests.bytes.set(request, at);
  const promise = link.submit();
  link.publish();
  return promise;
}

export function readAt(shard: Shard, key: string, atSeq: number): string | undefined {
  const { arena } = shard.store;
  const reader = new BTreeReader(arena, 0, 0);
  const bytes = Buffer.from(key);
  const metaUnit = arena.pin(255);
  try {
    return reader.find(metaUnit, bytes, bytes.length, atSeq, 0) ? reader.valueUtf8() : undefined;
  } finally {
    arena.unpin(255);
  }
}
