import * as fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { CheckpointWriter } from '../../../dist/engines/checkpoint/writer.js';
import type { CheckpointHeader } from '../../../dist/engines/checkpoint/writer.js';
import {
  findCheckpoint,
  readCheckpoint,
  removeCheckpointsBefore,
  removeTemporaryCheckpoints,
} from '../../../dist/engines/checkpoint/reader.js';
import { CHUNK_BYTES_MAX, HEADER_BYTES, checkpointName } from '../../../dist/engines/checkpoint/format.js';
import { crc32 } from '../../../dist/shared/checksum.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import type { Env } from '../../../dist/shared/env/env.js';
import { Random } from '../../../dist/shared/random.js';
import {
  STORE_ID,
  failure,
  overwrite,
  payloadOf,
  readFile,
  withFixedSurroundings,
  writeFile,
} from '../wal/wal-scene.js';
import { expectGolden } from '../../shared/codec/golden-file.js';

const DIRECTORY = '/store/checkpoints';
const HEADER: CheckpointHeader = {
  storeId: STORE_ID,
  shard: 3,
  lsn: 2 ** 33 + 5,
  publishedSeq: 2 ** 40 + 9,
  createdAt: 1_700_000_000_000,
};

let env: MemEnv;
beforeEach(() => {
  env = new MemEnv();
  env.makeDirectory(DIRECTORY);
});

function write(to: Env, chunks: readonly Uint8Array[], header: CheckpointHeader = HEADER): string {
  const writer = CheckpointWriter.create(to, DIRECTORY, header);
  for (const chunk of chunks) writer.write(chunk);
  const { path, bytes } = writer.finish();
  expect(readFile(to, path).length).toBe(bytes);
  return path;
}

function read(from: Env, path: string): Buffer[] {
  const chunks: Buffer[] = [];
  for (const chunk of readCheckpoint(from, path)) chunks.push(Buffer.from(chunk));
  return chunks;
}

/** toEqual() on large buffers takes seconds. */
function expectChunks(found: readonly Buffer[], chunks: readonly Buffer[]): void {
  expect(found.map((chunk) => chunk.length)).toEqual(chunks.map((chunk) => chunk.length));
  expect(found.map((chunk, i) => chunk.equals(chunks[i]!))).toEqual(chunks.map(() => true));
}

describe('a checkpoint', () => {
  test('has the documented bytes', () => {
    const fixed = withFixedSurroundings(env, 0, 0x5a);
    const path = write(fixed, [Buffer.from('first'), Buffer.from('no 2')], { ...HEADER, replayFromLsn: 2 ** 40 });
    const bytes = readFile(env, path);
    const field = (from: number, to: number, what: string): [string, string] => [bytes.toString('hex', from, to), what];
    expectGolden('checkpoint.txt', [
      field(0, 8, 'magic "CKV-CKP\\n"'),
      field(8, 12, 'format version'),
      field(12, 16, 'shard'),
      field(16, 32, 'store id'),
      field(32, 40, 'lsn'),
      field(40, 48, 'published sequence number'),
      field(48, 56, 'created at'),
      field(56, 64, 'trim sequence number'),
      field(64, 68, 'flags: trim sequence number present'),
      field(124, 128, 'header crc; 56 zero bytes before it'),
      field(128, 132, 'block 0: payload bytes'),
      field(132, 137, '"first"'),
      field(137, 141, 'crc, seeded with the header crc'),
      field(141, 145, 'block 1: payload bytes'),
      field(145, 149, '"no 2"'),
      field(149, 153, 'crc, seeded with the crc of block 0'),
      field(153, 157, 'footer: zero instead of a length'),
      field(157, 165, 'block count'),
      field(165, 173, 'payload bytes'),
      field(173, 181, 'file bytes'),
      field(181, 189, 'magic "CKV-END\\n"'),
      field(189, 193, 'crc, seeded with the crc of block 1'),
    ]);
    expect(bytes.length).toBe(193);
  });

  test('gives back header and chunks', () => {
    const chunks = [payloadOf(1, 1), payloadOf(2, 70_000), payloadOf(3, 3 << 20), payloadOf(4, 17)];
    const path = write(env, chunks);
    expectChunks(read(env, path), chunks);
    const headers: CheckpointHeader[] = [];
    const reader = readCheckpoint(env, path, {
      onHeader: (header) => headers.push(header),
      storeId: STORE_ID,
      shard: 3,
    });
    expect(reader.header).toEqual({ ...HEADER, storeId: Uint8Array.from(STORE_ID) });
    expect(headers).toEqual([reader.header]);
    reader.close();
    expect(reader.nextChunk()).toBeUndefined();
    const withTrim = write(env, [], { ...HEADER, lsn: 1, replayFromLsn: 0 });
    expect(readCheckpoint(env, withTrim).header.replayFromLsn).toBe(0);
  });

  test('without chunks is a valid one', () => {
    expect(read(env, write(env, []))).toEqual([]);
  });

  test('takes chunks from shared memory', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(300_000));
    shared.set(payloadOf(5, 300_000));
    const found = read(env, write(env, [shared, shared.subarray(7, 20)]));
    expectChunks(found, [payloadOf(5, 300_000), payloadOf(5, 300_000).subarray(7, 20)]);
  });

  test('takes the largest chunk, and refuses an empty or larger one', () => {
    const largest = Buffer.alloc(CHUNK_BYTES_MAX, 0x31);
    const writer = CheckpointWriter.create(env, DIRECTORY, HEADER);
    for (const wrong of [Buffer.alloc(0), Buffer.alloc(CHUNK_BYTES_MAX + 1)]) {
      expect(() => writer.write(wrong)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG' }));
    }
    writer.write(largest);
    const chunks = read(env, writer.finish().path);
    expect(chunks).toHaveLength(1);
    expect(chunks[0]!.equals(largest)).toBe(true);
  });

  test.each([
    { lsn: -1 },
    { lsn: 2 ** 48 },
    { shard: 0.5 },
    { publishedSeq: NaN },
    { createdAt: -1 },
    { replayFromLsn: 1.5 },
  ])('with header field %o is the caller’s mistake', (wrong) => {
    expect(() => CheckpointWriter.create(env, DIRECTORY, { ...HEADER, ...wrong })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG' }),
    );
    expect(env.list(DIRECTORY)).toEqual([]);
  });

  test('round-trips any sequence of chunks', () => {
    const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 1_200_000 })), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(sizes, fc.nat(2 ** 31), (chunkSizes, lsn) => {
        const chunks = chunkSizes.map((chunkBytes, i) => payloadOf(i, chunkBytes, lsn));
        const found = read(env, write(env, chunks, { ...HEADER, lsn }));
        return found.length === chunks.length && found.every((chunk, i) => chunk.equals(chunks[i]!));
      }),
      { numRuns: 40 },
    );
  });
});

describe('damage', () => {
  const CHUNKS = [payloadOf(1, 100), payloadOf(2, 33), payloadOf(3, 64)];

  test('of any bit is an error naming the file, and no wrong chunk is handed out before it', () => {
    const path = write(env, CHUNKS, { ...HEADER, replayFromLsn: 5 });
    const original = readFile(env, path);
    for (let bit = 0; bit < original.length * 8; bit++) {
      const offset = bit >> 3;
      overwrite(env, path, offset, Uint8Array.of(original[offset]! ^ (1 << (bit & 7))));
      const seen: Buffer[] = [];
      const error = failure(() => {
        for (const chunk of readCheckpoint(env, path)) seen.push(Buffer.from(chunk));
      });
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
      expect(error.details['offset']).toBeTypeOf('number');
      expect(seen).toEqual(CHUNKS.slice(0, seen.length));
      overwrite(env, path, offset, original.subarray(offset, offset + 1));
    }
    expect(read(env, path)).toEqual(CHUNKS);
  });

  test('by truncation at any length, or by bytes behind the end, is an error', () => {
    const path = write(env, CHUNKS);
    const original = readFile(env, path);
    for (let length = 0; length < original.length; length++) {
      writeFile(env, path, original.subarray(0, length));
      expect(failure(() => read(env, path)).code).toBe('ERR_CORRUPT');
    }
    writeFile(env, path, Buffer.concat([original, Buffer.alloc(1)]));
    expect(failure(() => read(env, path)).message).toContain('1 bytes behind the footer');
  });

  test('by blocks lost, doubled or swapped is an error', () => {
    const path = write(env, [payloadOf(1, 50), payloadOf(2, 50), payloadOf(3, 50)]);
    const original = readFile(env, path);
    const part = (index: number): Buffer =>
      original.subarray(HEADER_BYTES + 58 * index, HEADER_BYTES + 58 * (index + 1));
    const [header, footer] = [original.subarray(0, HEADER_BYTES), original.subarray(HEADER_BYTES + 3 * 58)];
    for (const order of [[0, 2, 1], [0, 1], [0, 1, 1, 2], [1, 2], []]) {
      writeFile(env, path, Buffer.concat([header, ...order.map(part), footer]));
      expect(failure(() => read(env, path)).code).toBe('ERR_CORRUPT');
    }
    writeFile(env, path, Buffer.concat([header, ...[0, 1, 2].map(part), footer]));
    expect(read(env, path)).toHaveLength(3);
  });

  test('arbitrary bytes are an error, never a hang', () => {
    const path = `${DIRECTORY}/${checkpointName(1)}`;
    const valid = readFile(env, write(env, [payloadOf(1, 30)]));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.boolean(), (bytes, behindHeader) => {
        writeFile(env, path, behindHeader ? Buffer.concat([valid.subarray(0, HEADER_BYTES), bytes]) : bytes);
        return failure(() => read(env, path)).code === 'ERR_CORRUPT';
      }),
      { numRuns: 500 },
    );
  });

  test('a foreign format version, store, shard or name is refused', () => {
    const path = write(env, CHUNKS);
    expect(failure(() => readCheckpoint(env, path, { storeId: Buffer.alloc(16) })).code).toBe('ERR_CORRUPT');
    expect(failure(() => readCheckpoint(env, path, { shard: 4 })).message).toContain('belongs to shard 3, expected 4');
    const renamed = `${DIRECTORY}/${checkpointName(77)}`;
    writeFile(env, renamed, readFile(env, path));
    expect(failure(() => readCheckpoint(env, renamed)).code).toBe('ERR_CORRUPT');
    const header = readFile(env, path).subarray(0, HEADER_BYTES);
    header.writeUInt32LE(2, 8);
    header.writeUInt32LE(crc32(header, 0, HEADER_BYTES - 4), HEADER_BYTES - 4);
    overwrite(env, path, 0, header);
    expect(failure(() => readCheckpoint(env, path))).toMatchObject({
      code: 'ERR_FORMAT_VERSION',
      details: { version: 2 },
    });
  });
});

describe('files of a directory', () => {
  test('the newest finished checkpoint is found; unfinished and foreign files are passed over', () => {
    expect(findCheckpoint(env, DIRECTORY)).toBeUndefined();
    const open = CheckpointWriter.create(env, DIRECTORY, { ...HEADER, lsn: 900 });
    open.write(payloadOf(1, 10));
    for (const lsn of [7, 2 ** 40, 12]) write(env, [], { ...HEADER, lsn });
    writeFile(env, `${DIRECTORY}/checkpoint-99.ckpt`, Buffer.alloc(1));
    expect(findCheckpoint(env, DIRECTORY)).toEqual({ path: `${DIRECTORY}/${checkpointName(2 ** 40)}`, lsn: 2 ** 40 });
    expect(removeTemporaryCheckpoints(env, DIRECTORY)).toBe(1);
    expect(removeTemporaryCheckpoints(env, DIRECTORY)).toBe(0);
    expect(failure(() => open.finish()).code).toBe('ERR_IO');
    expect(removeCheckpointsBefore(env, DIRECTORY, 2 ** 40)).toBe(2);
    expect(findCheckpoint(env, DIRECTORY)?.lsn).toBe(2 ** 40);
    expect(env.list(DIRECTORY)).toEqual([checkpointName(2 ** 40), 'checkpoint-99.ckpt']);
  });

  test('abort removes what was written and is harmless afterwards', () => {
    const writer = CheckpointWriter.create(env, DIRECTORY, HEADER);
    writer.write(payloadOf(1, 3 << 20));
    writer.abort();
    writer.abort();
    expect(env.list(DIRECTORY)).toEqual([]);
    const path = write(env, [payloadOf(2, 20)]);
    const finished = CheckpointWriter.create(env, DIRECTORY, HEADER);
    finished.write(payloadOf(3, 20));
    finished.finish();
    finished.abort();
    expect(read(env, path)).toEqual([payloadOf(3, 20)]);
  });

  test('writing and reading can be cancelled between chunks', () => {
    let isCancelled = false;
    const options = { isCancelled: () => isCancelled };
    const writer = CheckpointWriter.create(env, DIRECTORY, HEADER, options);
    writer.write(payloadOf(1, 10));
    isCancelled = true;
    expect(failure(() => writer.write(payloadOf(2, 10))).code).toBe('ERR_CLOSED');
    expect(env.list(DIRECTORY)).toEqual([]);
    const path = write(env, [payloadOf(1, 10), payloadOf(2, 10)]);
    isCancelled = false;
    const reader = readCheckpoint(env, path, options);
    expect(reader.nextChunk()).toHaveLength(10);
    isCancelled = true;
    expect(failure(() => reader.nextChunk()).code).toBe('ERR_CLOSED');
  });
});

describe('failures of the disk', () => {
  test.each(['write', 'sync', 'rename', 'create', 'close'] as const)(
    'a failed %s leaves nothing behind',
    (operation) => {
      for (const [error, code] of [
        ['ENOSPC', 'ERR_DISK_FULL'],
        ['EIO', 'ERR_IO'],
      ] as const) {
        const faulty = new FaultEnv(env, [{ operation, path: /tmp$/, times: 1, error, shortWriteBytes: 1000 }]);
        const chunks = [payloadOf(1, 1_500_000), payloadOf(2, 10)];
        expect(failure(() => write(faulty, chunks)).code).toBe(code);
        expect(env.list(DIRECTORY)).toEqual([]);
        // The next attempt has nothing in its way.
        expectChunks(read(env, write(faulty, chunks)), chunks);
        env.remove(`${DIRECTORY}/${checkpointName(HEADER.lsn)}`);
      }
    },
  );

  test('a failed sync of the directory is reported, and the file stays', () => {
    const faulty = new FaultEnv(env, [{ operation: 'syncDirectory', times: 1, error: 'EIO' }]);
    expect(failure(() => write(faulty, [payloadOf(1, 10)])).code).toBe('ERR_IO');
    expect(env.list(DIRECTORY)).toEqual([checkpointName(HEADER.lsn)]);
  });

  test('an error while reading passes through with its code', () => {
    const path = write(env, [payloadOf(1, 1_500_000)]);
    for (const after of [0, 1]) {
      const faulty = new FaultEnv(env, [{ operation: 'read', after, error: 'EIO' }]);
      expect(failure(() => read(faulty, path)).code).toBe('ERR_IO');
    }
    expect(failure(() => read(env, `${DIRECTORY}/none.ckpt`)).code).toBe('ERR_IO');
  });
});

describe('power loss', () => {
  /** Crashes at every operation while checkpoint 20 is written beside checkpoint 10. Returns what a restart finds each time. */
  function states(ignoreSync: boolean): { found: number | undefined; isWhole: boolean; isFinished: boolean }[] {
    const result: { found: number | undefined; isWhole: boolean; isFinished: boolean }[] = [];
    const chunks = [payloadOf(1, 700_000), payloadOf(2, 700_000), payloadOf(3, 50)];
    let isWatching = false;
    let isFinished = false;
    const look = (): void => {
      for (let seed = 0; seed < 12; seed++) {
        for (const names of ['ordered', 'arbitrary', 'drop-all', 'keep-all'] as const) {
          const crashed = watched.crash(new Random(seed), { data: 'random', names });
          let found: number | undefined;
          let isWhole = false;
          try {
            found = findCheckpoint(crashed, DIRECTORY)?.lsn;
            if (found !== undefined) {
              const contents = read(crashed, `${DIRECTORY}/${checkpointName(found)}`);
              isWhole = Buffer.concat(contents).equals(found === 20 ? Buffer.concat(chunks) : payloadOf(9, 100));
            }
          } catch {
            // Not even readable: isWhole stays false.
          }
          result.push({ found, isWhole, isFinished });
        }
      }
    };
    const watched = new MemEnv({
      ignoreSync,
      onOperation: () => {
        if (isWatching) look();
      },
    });
    watched.makeDirectory(DIRECTORY);
    watched.syncDirectory('/');
    watched.syncDirectory('/store');
    write(watched, [payloadOf(9, 100)], { ...HEADER, lsn: 10 });
    isWatching = true;
    write(watched, chunks, { ...HEADER, lsn: 20 });
    isFinished = true;
    look();
    return result;
  }

  test('at any moment leaves the old checkpoint or the new one, whole; the new one once finish() returned', () => {
    const found = states(false);
    expect(found.length).toBeGreaterThan(200);
    for (const state of found) {
      expect(state).toMatchObject({ isWhole: true });
      if (state.isFinished) expect(state.found).toBe(20);
    }
    expect(new Set(found.map((state) => state.found))).toEqual(new Set([10, 20]));
  });

  test('is noticed by this test when fsync does nothing', () => {
    expect(states(true).some((state) => !state.isWhole)).toBe(true);
  });
});
