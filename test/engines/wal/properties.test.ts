import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import { inspectSegment } from '../../../dist/engines/wal/inspect.js';
import { preallocateSegment } from '../../../dist/engines/wal/preallocate.js';
import { SEGMENT_HEADER_BYTES, segmentName } from '../../../dist/engines/wal/format.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import {
  DIRECTORY,
  SMALL,
  append,
  appendMany,
  overwrite,
  payloadOf,
  readFile,
  recover,
  segmentPaths,
  writeFile,
} from './wal-scene.js';
import type { Record } from './wal-scene.js';

type Command =
  | { readonly kind: 'append'; readonly payloadBytes: number; readonly buffered: boolean }
  | { readonly kind: 'sync' | 'writeOut' | 'discard' | 'spare' | 'close' | 'kill' }
  | { readonly kind: 'truncate'; readonly back: number };

const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('append' as const),
      payloadBytes: fc.oneof(fc.nat(100), fc.nat(61_000)),
      buffered: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constantFrom('sync', 'writeOut', 'discard', 'spare', 'close', 'kill') }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('truncate' as const), back: fc.nat(5) }) },
);

function freshEnv(): MemEnv {
  const env = new MemEnv();
  env.makeDirectory(DIRECTORY);
  return env;
}

describe('any sequence of calls', () => {
  test('is replayed as it was written, in every mode', () => {
    fc.assert(
      fc.property(
        fc.array(command, { maxLength: 40 }),
        fc.constantFrom(1, 2 ** 32 - 3, 2 ** 47),
        (commands, nextLsn) => {
          const env = freshEnv();
          let writer = WalWriter.create(env, DIRECTORY, SMALL, nextLsn);
          let records: Record[] = [];
          let fromLsn = nextLsn;
          for (const step of commands) {
            if (step.kind === 'append') {
              records.push(append(writer, payloadOf(writer.lastLsn + 1, step.payloadBytes), 2 ** 40, 3, step.buffered));
            } else if (step.kind === 'sync') writer.sync();
            else if (step.kind === 'writeOut') writer.writeOut();
            else if (step.kind === 'discard') {
              writer.begin();
              writer.ensure(50);
              writer.position += 50;
              writer.discard();
            } else if (step.kind === 'spare')
              writer.offerSpare(preallocateSegment(env, DIRECTORY, SMALL.segmentBytes!));
            else if (step.kind === 'truncate') {
              fromLsn = Math.max(fromLsn, writer.writtenLsn + 1 - step.back);
              writer.truncate(fromLsn - 1);
            } else {
              if (step.kind === 'close') writer.close();
              records = records.filter((record) => record.lsn <= writer.writtenLsn);
              writer = WalWriter.open(env, DIRECTORY, SMALL, recover(env, { fromLsn }));
            }
          }
          writer.writeOut();
          const expected = records.filter((record) => record.lsn >= fromLsn);
          for (const mode of ['tolerate-torn-tail', 'strict', 'point-in-time', 'salvage'] as const) {
            const recovery = recover(env, { fromLsn, mode });
            expect(JSON.stringify(recovery.records) === JSON.stringify(expected)).toBe(true);
            expect(recovery).toMatchObject({ cut: undefined, losses: [], lastLsn: writer.lastLsn });
          }
          expect(writer.segmentCount).toBe(segmentPaths(env).length);
          const current = inspectSegment(env, segmentPaths(env).at(-1)!);
          expect(writer.currentSegmentFill * SMALL.segmentBytes!).toBe(current.usedBytes);
          if (writer.segmentCount === 1) expect(writer.sizeBytes).toBe(current.usedBytes);
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('any bytes', () => {
  test('in place of a segment end in a coded error or in true records', () => {
    const env = freshEnv();
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const records = appendMany(writer, 6, 50);
    writer.writeOut();
    const path = `${DIRECTORY}/${segmentName(1)}`;
    const original = readFile(env, path);
    const usedBytes = inspectSegment(env, path).usedBytes;
    const damage = fc.array(
      fc.tuple(
        fc.oneof(fc.nat(original.length - 1), fc.integer({ min: SEGMENT_HEADER_BYTES, max: usedBytes })),
        fc.uint8Array({ minLength: 1, maxLength: 40 }),
      ),
      { minLength: 1, maxLength: 4 },
    );
    const mode = fc.constantFrom('tolerate-torn-tail', 'strict', 'point-in-time', 'salvage');
    fc.assert(
      fc.property(damage, mode, (pieces, chosenMode) => {
        writeFile(env, path, original);
        for (const [offset, bytes] of pieces) overwrite(env, path, offset, bytes.subarray(0, original.length - offset));
        let found;
        try {
          found = recover(env, { mode: chosenMode }).records;
        } catch (error) {
          return error instanceof ConcordError && error.code === 'ERR_CORRUPT';
        }
        if (chosenMode !== 'salvage') return JSON.stringify(found) === JSON.stringify(records.slice(0, found.length));
        return found.every((record) => JSON.stringify(record) === JSON.stringify(records[record.lsn - 1]));
      }),
      { numRuns: 2000 },
    );
  });

  test('behind a valid header end in no record', () => {
    const env = freshEnv();
    WalWriter.create(env, DIRECTORY, SMALL).close();
    const path = `${DIRECTORY}/${segmentName(1)}`;
    const header = readFile(env, path).subarray(0, SEGMENT_HEADER_BYTES);
    // Words that look like the beginning of a frame, among random ones.
    const word = fc.oneof(fc.constantFrom(0, 1, 2, 8, 48, 0xffffffff), fc.nat(0xffffffff));
    fc.assert(
      fc.property(fc.array(word, { maxLength: 200 }), (words) => {
        writeFile(env, path, Buffer.concat([header, Buffer.from(Uint32Array.from(words).buffer)]));
        for (const mode of ['tolerate-torn-tail', 'point-in-time', 'salvage'] as const) {
          const { records, losses } = recover(env, { mode });
          if (records.length > 0 || losses.length > 0) return false;
        }
        return inspectSegment(env, path).frames.length === 0;
      }),
      { numRuns: 500 },
    );
  });
});
