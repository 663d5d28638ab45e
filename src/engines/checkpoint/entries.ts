/**
 * Entries of a space as chunks of a checkpoint, for engines that are not written as pages: any engine can be filled from them.
 *
 *   chunk     offset  size  field
 *                  0     4  magic        "CKVE"
 *                  4     4  spaceId      u32
 *                  8     4  count        entries that begin in this chunk
 *                 12     4  flags        1: the space's last chunk · 2: a piece of the value of the last entry before, and nothing else
 *                 16     …  entries, or the piece
 *   entry          0     6  seq          u48
 *                  6     1  flags        1: the value follows in pieces
 *                  7     1  zero
 *                  8     2  keyLength
 *                 10     2  zero
 *                 12     4  valueLength
 *                 16     6  expiresAt    u48 ms, 0: never
 *                 22     2  zero
 *                 24     k  key
 *                  …     v  value, unless it follows in pieces
 *
 * Integers are little-endian. Checksums are the checkpoint file's; the decoder survives any bytes all the same. Golden bytes:
 * test/golden/checkpoint-entries.txt. Threads: any; the writer reads shared memory chunk by chunk, each under a pin of its own, as of one number that
 * the shard keeps alive meanwhile.
 */
import { readU32LE, readU48LE } from '../../shared/codec/fixed.js';
import { ConcordError } from '../../shared/errors.js';
import type { ArenaReader } from '../../shared/memory/arena.js';
import { rowOfSpace, treeCounts } from '../btree/meta.js';
import { engineCodeOfTag, engineOfCode, StaleViewError, type EngineCursor } from '../engine.js';
import { MAX_VALUE_BYTES } from '../operation.js';

export const ENTRIES_MAGIC = 0x45564b43; // "CKVE"
const CHUNK_HEADER_BYTES = 16;
const ENTRY_HEADER_BYTES = 24;
const LAST_CHUNK = 1;
const PIECE_CHUNK = 2;
const VALUE_IN_PIECES = 1;
/** Longer values go in pieces. */
const INLINE_VALUE_BYTES_MAX = 64 * 1024;
const CHUNK_BYTES = 256 * 1024;
const KEY_BYTES_MAX = 4096;
const ENTRIES_PER_PIN = 512;

/** Whether the chunk belongs here and not to the image of pages before. */
export function isEntriesChunk(chunk: Uint8Array): boolean {
  return chunk.length >= CHUNK_HEADER_BYTES && readU32LE(chunk, 0) === ENTRIES_MAGIC;
}

/** Writes chunks; add() and addValue() in turn, finish() once. The memory of a chunk is used again when emit has returned. */
export class EntriesWriter {
  readonly #spaceId: number;
  readonly #emit: (chunk: Uint8Array) => void;
  readonly #chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  #used = CHUNK_HEADER_BYTES;
  #count = 0;

  constructor(spaceId: number, emit: (chunk: Uint8Array) => void) {
    this.#spaceId = spaceId;
    this.#emit = emit;
  }

  /** Whether an entry of these lengths fits the chunk at hand without emitting. */
  hasRoom(keyLength: number, valueLength: number): boolean {
    const inline = valueLength > INLINE_VALUE_BYTES_MAX ? 0 : valueLength;
    return this.#used + ENTRY_HEADER_BYTES + keyLength + inline <= CHUNK_BYTES;
  }

  static goesInPieces(valueLength: number): boolean {
    return valueLength > INLINE_VALUE_BYTES_MAX;
  }

  /** Adds the cursor's entry; of a value that goes in pieces only the announcement. */
  add(cursor: EngineCursor): void {
    const { keyLength, valueLength, seq, expiresAt } = cursor;
    const inPieces = EntriesWriter.goesInPieces(valueLength);
    if (!this.hasRoom(keyLength, valueLength)) this.#flush(0);
    const chunk = this.#chunk;
    const at = this.#used;
    chunk.fill(0, at, at + ENTRY_HEADER_BYTES);
    chunk.writeUIntLE(seq, at, 6);
    chunk[at + 6] = inPieces ? VALUE_IN_PIECES : 0;
    chunk.writeUInt16LE(keyLength, at + 8);
    chunk.writeUInt32LE(valueLength, at + 12);
    chunk.writeUIntLE(expiresAt, at + 16, 6);
    cursor.copyKey(chunk, at + ENTRY_HEADER_BYTES);
    this.#used = at + ENTRY_HEADER_BYTES + keyLength;
    this.#count++;
    if (inPieces) return;
    cursor.readValue(chunk, this.#used, 0, valueLength);
    this.#used += valueLength;
  }

  /** The next bytes of the value announced last. */
  addPiece(bytes: Uint8Array): void {
    if (this.#count > 0) this.#flush(0);
    for (let done = 0; done < bytes.length;) {
      const length = Math.min(bytes.length - done, CHUNK_BYTES - CHUNK_HEADER_BYTES);
      this.#chunk.set(bytes.subarray(done, done + length), CHUNK_HEADER_BYTES);
      this.#used = CHUNK_HEADER_BYTES + length;
      this.#flush(PIECE_CHUNK);
      done += length;
    }
  }

  /** What is gathered goes out, if there is any. */
  flush(): void {
    if (this.#count > 0) this.#flush(0);
  }

  finish(): void {
    this.#flush(LAST_CHUNK);
  }

  #flush(flags: number): void {
    const chunk = this.#chunk;
    chunk.writeUInt32LE(ENTRIES_MAGIC, 0);
    chunk.writeUInt32LE(this.#spaceId, 4);
    chunk.writeUInt32LE(this.#count, 8);
    chunk.writeUInt32LE(flags, 12);
    this.#emit(chunk.subarray(0, this.#used));
    this.#used = CHUNK_HEADER_BYTES;
    this.#count = 0;
  }
}

/**
 * Writes the entries of a space as of `atSeq`, in key order, expired ones too. Chunks are gathered under a pin and emitted outside of it. A space that
 * is dropped meanwhile ends early. Returns the number of entries.
 */
export function writeEntries(
  arena: ArenaReader,
  slot: number,
  spaceId: number,
  atSeq: number,
  emit: (chunk: Uint8Array) => void,
): number {
  const writer = new EntriesWriter(spaceId, emit);
  let cursor: EngineCursor | undefined;
  let resume: Buffer | undefined;
  let entries = 0;
  const lastKey = Buffer.allocUnsafeSlow(KEY_BYTES_MAX);
  const piece = Buffer.allocUnsafeSlow(CHUNK_BYTES - CHUNK_HEADER_BYTES);
  for (let more = true; more;) {
    let largeBytes = 0;
    const metaUnit = arena.pin(slot);
    try {
      cursor ??= openCursor(arena, metaUnit, slot, spaceId);
      if (cursor === undefined) break;
      cursor.seek(metaUnit, resume, resume?.length ?? 0, atSeq, false, 1);
      // The last chunk ended with `resume`.
      if (cursor.valid && resume !== undefined && cursor.compareKey(resume, resume.length) === 0) cursor.next();
      let keyLength = -1;
      while (cursor.valid && writer.hasRoom(cursor.keyLength, cursor.valueLength)) {
        writer.add(cursor);
        entries++;
        keyLength = cursor.copyKey(lastKey, 0);
        if (EntriesWriter.goesInPieces(cursor.valueLength)) {
          largeBytes = cursor.valueLength;
          break;
        }
        cursor.next();
      }
      if (keyLength >= 0) resume = Buffer.from(lastKey.subarray(0, keyLength));
      more = cursor.valid;
    } catch (error) {
      if (!(error instanceof StaleViewError)) throw error;
      cursor = undefined;
    } finally {
      cursor?.release();
      arena.unpin(slot);
    }
    writer.flush();
    for (let from = 0; from < largeBytes; from += piece.length) {
      const length = Math.min(piece.length, largeBytes - from);
      if (!readPiece(arena, slot, spaceId, atSeq, resume!, from, piece, length)) {
        throw new ConcordError('ERR_CLOSED', `space ${spaceId} was dropped while it was being written`);
      }
      writer.addPiece(piece.subarray(0, length));
    }
  }
  writer.finish();
  return entries;
}

/** Shows the entries of a space as of `atSeq`, in key order, expired ones too; a few hundred under one pin. */
export function visitEntries(
  arena: ArenaReader,
  slot: number,
  spaceId: number,
  atSeq: number,
  visit: (cursor: EngineCursor) => void,
): void {
  let cursor: EngineCursor | undefined;
  let resume: Buffer | undefined;
  for (let more = true; more;) {
    const metaUnit = arena.pin(slot);
    try {
      cursor ??= openCursor(arena, metaUnit, slot, spaceId);
      if (cursor === undefined) return;
      cursor.seek(metaUnit, resume, resume?.length ?? 0, atSeq, false, 1);
      for (let count = 0; cursor.valid && count < ENTRIES_PER_PIN; count++, cursor.next()) visit(cursor);
      more = cursor.valid;
      if (!more) return;
      resume = Buffer.allocUnsafe(cursor.keyLength);
      cursor.copyKey(resume, 0);
    } catch (error) {
      if (!(error instanceof StaleViewError)) throw error;
      cursor = undefined;
    } finally {
      cursor?.release();
      arena.unpin(slot);
    }
  }
}

function openCursor(arena: ArenaReader, metaUnit: number, slot: number, spaceId: number): EngineCursor | undefined {
  const row = rowOfSpace(arena, metaUnit, spaceId);
  if (row < 0) return undefined;
  const engine = engineOfCode(engineCodeOfTag(treeCounts(arena, metaUnit, row).tag));
  return engine.openCursor(arena, row, spaceId, slot);
}

function readPiece(
  arena: ArenaReader,
  slot: number,
  spaceId: number,
  atSeq: number,
  key: Buffer,
  from: number,
  into: Buffer,
  length: number,
): boolean {
  const metaUnit = arena.pin(slot);
  try {
    const row = rowOfSpace(arena, metaUnit, spaceId);
    if (row < 0) return false;
    const engine = engineOfCode(engineCodeOfTag(treeCounts(arena, metaUnit, row).tag));
    const reader = engine.openReader(arena, row, spaceId, slot);
    try {
      return reader.find(metaUnit, key, key.length, atSeq, 1) && reader.readValue(into, 0, from, length) === length;
    } finally {
      reader.release();
    }
  } finally {
    arena.unpin(slot);
  }
}

/** Where decoded entries go. Bytes are the receiver's until the call returns. */
export interface EntriesSink {
  entry(spaceId: number, chunk: Uint8Array, keyAt: number, keyLength: number, valueAt: number, valueLength: number, seq: number, expiresAt: number): void; // prettier-ignore
  /** A value that comes in pieces: they follow. */
  begin(spaceId: number, key: Uint8Array, valueLength: number, seq: number, expiresAt: number): void;
  piece(chunk: Uint8Array, at: number, length: number): void;
  /** All pieces are there. */
  end(): void;
}

/** Decodes the chunks of one checkpoint, in their order. */
export class EntriesReader {
  readonly #sink: EntriesSink;
  /** Bytes of the value in pieces that are still to come. */
  #missing = 0;
  #spaceId = -1;
  readonly #ended = new Set<number>();

  constructor(sink: EntriesSink) {
    this.#sink = sink;
  }

  /** @throws ERR_CORRUPT */
  chunk(chunk: Uint8Array): void {
    if (!isEntriesChunk(chunk)) throw corrupt('not a chunk of entries');
    const spaceId = readU32LE(chunk, 4);
    const count = readU32LE(chunk, 8);
    const flags = readU32LE(chunk, 12);
    if (flags > (LAST_CHUNK | PIECE_CHUNK)) throw corrupt(`unknown flags ${flags}`);
    if (this.#spaceId !== -1 && this.#spaceId !== spaceId) throw corrupt(`space ${this.#spaceId} has no end`);
    if (this.#ended.has(spaceId)) throw corrupt(`space ${spaceId} goes on behind its end`);
    this.#spaceId = spaceId;
    if ((flags & PIECE_CHUNK) !== 0) {
      const length = chunk.length - CHUNK_HEADER_BYTES;
      if (count !== 0 || length === 0 || length > this.#missing) throw corrupt(`a piece of ${length} bytes`);
      this.#sink.piece(chunk, CHUNK_HEADER_BYTES, length);
      this.#missing -= length;
      if (this.#missing === 0) this.#sink.end();
    } else {
      if (this.#missing > 0) throw corrupt(`${this.#missing} bytes of a value are missing`);
      this.#entries(chunk, spaceId, count);
    }
    if ((flags & LAST_CHUNK) === 0) return;
    if (this.#missing > 0) throw corrupt(`${this.#missing} bytes of a value are missing`);
    this.#ended.add(spaceId);
    this.#spaceId = -1;
  }

  /** @throws ERR_CORRUPT when a space has no end */
  finish(): void {
    if (this.#spaceId !== -1) throw corrupt(`space ${this.#spaceId} has no end`);
  }

  #entries(chunk: Uint8Array, spaceId: number, count: number): void {
    let at = CHUNK_HEADER_BYTES;
    for (let index = 0; index < count; index++) {
      if (this.#missing > 0) throw corrupt('an entry before the value of the one before it');
      if (at + ENTRY_HEADER_BYTES > chunk.length) throw corrupt(`entry ${index} of ${count} is cut off`);
      const seq = readU48LE(chunk, at);
      const flags = chunk[at + 6]!;
      const keyLength = chunk[at + 8]! | (chunk[at + 9]! << 8);
      const valueLength = readU32LE(chunk, at + 12);
      const expiresAt = readU48LE(chunk, at + 16);
      const keyAt = at + ENTRY_HEADER_BYTES;
      const inPieces = flags === VALUE_IN_PIECES;
      at = keyAt + keyLength + (inPieces ? 0 : valueLength);
      if (flags > VALUE_IN_PIECES || keyLength > KEY_BYTES_MAX || valueLength > MAX_VALUE_BYTES || at > chunk.length) {
        throw corrupt(`entry ${index}: flags ${flags}, key of ${keyLength} bytes, value of ${valueLength}`);
      }
      if (!inPieces) {
        this.#sink.entry(spaceId, chunk, keyAt, keyLength, keyAt + keyLength, valueLength, seq, expiresAt);
        continue;
      }
      if (valueLength === 0) throw corrupt('an empty value in pieces');
      // A copy: the pieces come in other chunks, for which the memory of this one may be used. (slice() of a Buffer is no copy.)
      const key = Buffer.from(chunk.subarray(keyAt, keyAt + keyLength));
      this.#sink.begin(spaceId, key, valueLength, seq, expiresAt);
      this.#missing = valueLength;
    }
    if (at !== chunk.length) throw corrupt(`${chunk.length - at} bytes behind the last entry`);
  }
}

function corrupt(what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `entries of a checkpoint: ${what}`);
}
