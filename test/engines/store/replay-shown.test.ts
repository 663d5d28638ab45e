/** What readers see of a replay while they go on reading the memory of a shard whose thread has died. */
import { expect, test } from 'vitest';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { EngineCode, rowTag } from '../../../dist/engines/engine.js';
import {
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationHeader,
} from '../../../dist/engines/operation.js';
import type { ShardStore } from '../../../dist/engines/store/shard-store.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { ArenaReader, createArena } from '../../../dist/shared/memory/arena.js';
import { createStore, openStore } from '../../support/store-scene.js';

function putOf(key: string, value: string): Buffer {
  const record = Buffer.from(new ArrayBuffer(operationBytes(key.length, value.length)));
  writeOperationHeader(record, 0, OperationKind.Put, 0, key.length, value.length);
  record.write(key, OPERATION_HEADER_BYTES);
  record.write(value, OPERATION_HEADER_BYTES + key.length);
  return record;
}

function group(store: ShardStore, firstSeq: number, records: readonly Buffer[], beforeApply: () => void): void {
  store.beginGroup();
  for (const record of records) store.append(record, new Int32Array(record.buffer), 0, record.length);
  store.commit(1, firstSeq, beforeApply);
}

test('nothing of a replay shows before its publication, which shows all of it', () => {
  const env = new MemEnv();
  const arena = createArena({ memoryBytes: 16 << 20 });
  const dead = createStore(env, { arena });
  group(dead, 1, [putOf('a', 'old'), putOf('b', 'old')], () => undefined);
  // The second group is in the log when the thread dies, and may be a batch.
  expect(() => {
    group(dead, 3, [putOf('a', 'new'), putOf('b', 'new')], () => {
      throw new Error('dies here');
    });
  }).toThrow('dies here');
  const reader = new ArenaReader(arena);
  const entries = new BTreeReader(reader, 0, rowTag(0, EngineCode.btree));
  const read = (metaUnit: number): (string | undefined)[] =>
    ['a', 'b'].map((key) =>
      entries.find(metaUnit, Buffer.from(key), 1, Infinity, 0) ? entries.valueUtf8() : undefined,
    );
  const metaUnit = reader.pin(1);
  const successor = openStore(env, { arena, adopt: true });
  expect(read(metaUnit)).toEqual(['old', 'old']);
  expect(read(reader.published())).toEqual(['new', 'new']);
  reader.unpin(1);
  expect(successor.spaces.check()).toEqual([]);
});
