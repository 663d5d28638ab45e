/** Entries of a space in a checkpoint: their bytes are on people's disks (golden), any engine's come back whole, and no bytes get past the decoder. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  ENTRIES_MAGIC,
  EntriesReader,
  EntriesWriter,
  isEntriesChunk,
  writeEntries,
  type EntriesSink,
} from '../../dist/engines/checkpoint/entries.js';
import type { EngineCursor } from '../../dist/engines/engine.js';
import { ConcordError } from '../../dist/shared/errors.js';
import { Random } from '../../dist/shared/random.js';
import { apply, randomOperation, MIX } from '../engines/contract-operations.js';
import { ENGINES, EngineScene, expectSame, hex as keyHex } from '../engines/contract-scene.js';
import { expectGolden, hex } from '../shared/codec/golden-file.js';
import { runCount } from '../support/pool-scene.js';

const text = (string: string): Buffer => Buffer.from(string);

/** An entry as a cursor shows it, of a value that need not be there. */
function entry(key: Buffer, seq: number, expiresAt: number, value: Buffer, valueLength = value.length): EngineCursor {
  const only = (): never => expect.fail('a writer of entries only copies');
  return {
    valid: true,
    seq,
    expiresAt,
    keyLength: key.length,
    valueLength,
    copyKey: (into, at) => key.copy(into, at),
    readValue: (into, at, from, length) => value.copy(into, at, from, from + length),
    compareKey: only,
    copyValue: only,
    valueUtf8: only,
    seek: only,
    next: only,
    prev: only,
    release: only,
    setRange: only,
  };
}

function chunksOf(spaceId: number, fill: (writer: EntriesWriter) => void): Buffer[] {
  const chunks: Buffer[] = [];
  const writer = new EntriesWriter(spaceId, (chunk) => chunks.push(Buffer.from(chunk)));
  fill(writer);
  writer.finish();
  return chunks;
}

interface Decoded {
  readonly lines: string[];
  readonly sink: EntriesSink;
}

/** As pictures of an iteration: key, number, expiry, value. */
function decoder(): Decoded {
  const lines: string[] = [];
  let pieces: Buffer[] = [];
  let announced = '';
  const sink: EntriesSink = {
    entry(spaceId, chunk, keyAt, keyLength, valueAt, valueLength, seq, expiresAt) {
      const [key, value] = [chunk.subarray(keyAt, keyAt + keyLength), chunk.subarray(valueAt, valueAt + valueLength)];
      expect([key.length, value.length]).toEqual([keyLength, valueLength]);
      lines.push(`${spaceId} ${keyHex(key)} ${seq} ${expiresAt} ${keyHex(value)}`);
    },
    begin(spaceId, key, _valueLength, seq, expiresAt) {
      pieces = [];
      announced = `${spaceId} ${keyHex(key)} ${seq} ${expiresAt}`;
    },
    piece(chunk, at, length) {
      pieces.push(Buffer.from(chunk.subarray(at, at + length)));
      expect(pieces.at(-1)!.length).toBe(length);
    },
    end() {
      lines.push(`${announced} ${keyHex(Buffer.concat(pieces))}`);
    },
  };
  return { lines, sink };
}

test('the bytes of chunks stay what they were', () => {
  const few = chunksOf(7, (writer) => {
    writer.add(entry(text('a'), 1, 0, text('one')));
    writer.add(entry(text('bb'), 2 ** 40 + 2, 1_700_000_000_000, text('')));
    writer.add(entry(text(''), 2 ** 48 - 1, 2 ** 48 - 1, text('of the empty key')));
  });
  const inPieces = chunksOf(2 ** 28 - 3, (writer) => {
    writer.add(entry(text('big'), 3, 0, text(''), 65_537));
    writer.addPiece(text('first bytes'));
    writer.addPiece(text('last'));
  });
  const empty = chunksOf(9, () => undefined);
  expect([few.length, inPieces.length, empty.length]).toEqual([1, 4, 1]);
  const [chunk] = few as [Buffer];
  expectGolden('checkpoint-entries.txt', [
    [hex(chunk.subarray(0, 16)), 'magic CKVE, space 7 u32, 3 entries u32, flags u32: the last chunk of the space'],
    [
      hex(chunk.subarray(16, 44)),
      'seq 1 u48, flags, zero; key length u16, zero u16; value length u32; never expires u48, zero u16; a, one',
    ],
    [hex(chunk.subarray(44, 70)), 'seq 2^40 + 2, expires at 1,700,000,000,000, bb, no value'],
    [hex(chunk.subarray(70)), 'the empty key, last number and last time there are'],
    [hex(inPieces[0]!), 'a chunk of the last space there is, whose only entry announces a value of 65,537 bytes in pieces'],
    [hex(inPieces[1]!), 'a piece: header with flag 2 and no entries, then bytes of the value'],
    [hex(inPieces[2]!), 'the next piece'],
    [hex(inPieces[3]!), 'the end of the space'],
    [hex(empty[0]!), 'an empty space'],
  ]);
  expect(ENTRIES_MAGIC).toBe(0x45564b43);
  expect(isEntriesChunk(chunk)).toBe(true);
  expect(isEntriesChunk(chunk.subarray(0, 15))).toBe(false);
  const { lines, sink } = decoder();
  const reader = new EntriesReader(sink);
  reader.chunk(chunk);
  reader.finish();
  expect(lines).toHaveLength(3);
});

describe.each(ENGINES)('%s', (name) => {
  test('entries of a space come back whole and in key order, as of the number asked for, expired ones too', () => {
    const random = new Random(Number(process.env['SEED'] ?? 5));
    const scene = new EngineScene(name, { spaceId: 12, memoryBytes: 24 << 20 });
    const step = (count: number): void => {
      scene.group(() => {
        for (; count > 0; count--) apply(scene, randomOperation(random, { ...MIX, clears: 0 }));
        scene.put(text('large'), Buffer.alloc(70_000 + count, count));
        scene.put(text('larger'), Buffer.alloc(600_000, count));
      });
    };
    for (let round = 0; round < 5; round++) step(300);
    const snapshot = scene.snapshot();
    // Nothing has expired for the writer of a checkpoint.
    scene.nowMs = 1;
    const expected = scene
      .modelLines(snapshot)
      .map((line) => line.split(' '))
      .map(([key]) => {
        const version = scene.live(key!, snapshot)!;
        return `12 ${key} ${version.seq} ${version.expiresAt} ${keyHex(version.value!)}`;
      });
    step(500);
    const chunks: Buffer[] = [];
    const entries = writeEntries(scene.view, 2, 12, snapshot, (chunk) => chunks.push(Buffer.from(chunk)));
    expect(entries).toBe(expected.length);
    const { lines, sink } = decoder();
    const reader = new EntriesReader(sink);
    for (const chunk of chunks) reader.chunk(chunk);
    reader.finish();
    expectSame(lines, expected, 'decoded');
    // A space that is not there is empty.
    const none: Buffer[] = [];
    expect(writeEntries(scene.view, 2, 13, snapshot, (chunk) => none.push(Buffer.from(chunk)))).toBe(0);
    expect(none).toHaveLength(1);
  });
});

describe('the decoder', () => {
  const good = (): Buffer[] =>
    chunksOf(7, (writer) => {
      for (let index = 0; index < 20; index++) writer.add(entry(text(`key ${index}`), index + 1, 0, Buffer.alloc(index)));
    });

  function decode(chunks: readonly Uint8Array[]): string[] {
    const { lines, sink } = decoder();
    const reader = new EntriesReader(sink);
    for (const chunk of chunks) reader.chunk(chunk);
    reader.finish();
    return lines;
  }
  const corrupt = expect.objectContaining({ code: 'ERR_CORRUPT' }) as Error;

  test('refuses a chunk that is cut off anywhere or has bytes behind its end', () => {
    const [chunk] = good() as [Buffer];
    for (let end = 0; end < chunk.length; end++) expect(() => decode([chunk.subarray(0, end)])).toThrow(corrupt);
    expect(() => decode([Buffer.concat([chunk, Buffer.alloc(1)])])).toThrow(corrupt);
  });

  test('refuses spaces without an end, behind their end, and values with bytes missing', () => {
    const [chunk] = good() as [Buffer];
    const open = Buffer.from(chunk);
    open.writeUInt32LE(0, 12);
    expect(() => decode([open])).toThrow(corrupt);
    expect(() => decode([chunk, chunk])).toThrow(corrupt);
    const pieces = chunksOf(8, (writer) => {
      writer.add(entry(text('big'), 3, 0, text(''), 70_000));
      writer.addPiece(Buffer.alloc(70_000, 7));
      writer.add(entry(text('next'), 4, 0, text('value')));
    });
    expect(decode(pieces)).toHaveLength(2);
    for (let left = 0; left < pieces.length; left++)
      expect(() => decode(pieces.filter((_, index) => index !== left))).toThrow(corrupt);
    expect(() => decode([open, ...pieces])).toThrow(corrupt);
  });

  test('any bytes are refused with a code, or lie inside their chunk', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(600), fc.nat(255)), { maxLength: 6 }),
        fc.uint8Array({ maxLength: 60 }),
        (changes, noise) => {
          const [chunk] = good() as [Buffer];
          for (const [at, byte] of changes) if (at < chunk.length) chunk[at] = byte;
          for (const bytes of [chunk, Buffer.concat([chunk.subarray(0, 16), noise]), noise]) {
            try {
              decode([bytes]);
            } catch (error) {
              expect(error).toBeInstanceOf(ConcordError);
              expect((error as ConcordError).code).toBe('ERR_CORRUPT');
            }
          }
        },
      ),
      { numRuns: runCount(500) },
    );
  });
});
