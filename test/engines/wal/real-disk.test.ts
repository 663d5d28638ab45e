/** The same code on the real file system: what an in-memory one could be too kind about. */
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readCheckpoint } from '../../../dist/engines/checkpoint/reader.js';
import { CheckpointWriter } from '../../../dist/engines/checkpoint/writer.js';
import { preallocateSegment } from '../../../dist/engines/wal/preallocate.js';
import { recoverWal } from '../../../dist/engines/wal/recovery.js';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import { NodeEnv } from '../../../dist/shared/env/node-env.js';
import { SHARD, SMALL, STORE_ID, append, payloadOf } from './wal-scene.js';

const env = new NodeEnv();
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'wal-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

test('a log rolls, recycles, closes and recovers', () => {
  let writer = WalWriter.create(env, directory, SMALL);
  let payloads: string[] = [];
  for (let life = 0; life < 4; life++) {
    for (let i = 0; i < 12; i++) {
      payloads.push(append(writer, payloadOf(writer.lastLsn + 1, 9_000), 1, 1, i % 3 === 0).payload);
      if (i % 4 === 0) writer.sync();
      if (writer.wantsSpare()) writer.offerSpare(preallocateSegment(env, directory, SMALL.segmentBytes!));
    }
    const fromLsn = writer.lastLsn - 2;
    payloads = payloads.slice(-3);
    writer.truncate(fromLsn - 1);
    writer.close();
    const found: string[] = [];
    const recovery = recoverWal(env, directory, {
      storeId: STORE_ID,
      shard: SHARD,
      fromLsn,
      mode: 'strict',
      mustExist: true,
      onFrame: ({ bytes, start, end }) => found.push(bytes.toString('hex', start, end)),
    });
    expect(found).toEqual(payloads);
    writer = WalWriter.open(env, directory, SMALL, recovery);
  }
  writer.close();
  for (const name of readdirSync(directory)) expect(statSync(join(directory, name)).mode & 0o777).toBe(0o600);
  expect(readdirSync(directory).length).toBeLessThan(9);
});

test('a checkpoint is written and read', () => {
  const header = { storeId: STORE_ID, shard: SHARD, lsn: 5, publishedSeq: 6, createdAt: env.now() };
  const writer = CheckpointWriter.create(env, directory, header);
  for (let i = 1; i <= 30; i++) writer.write(payloadOf(i, i * 10_000));
  const { path, bytes } = writer.finish();
  expect(statSync(path).size).toBe(bytes);
  expect(readdirSync(directory)).toEqual(['checkpoint-0000000000000005.ckpt']);
  let i = 0;
  for (const chunk of readCheckpoint(env, path)) expect(chunk.equals(payloadOf(++i, i * 10_000))).toBe(true);
  expect(i).toBe(30);
});
