/**
 * Blocks of sorted entries: the data blocks of a table, and those of its index.
 *
 *   entry    size  field
 *               1  head         bits 0 … 2: EntryFlag · bits 3 … 7: shared bytes, 31: a varint32 with them follows
 *             1 …  unshared     varint32: bytes of the key behind those it shares with the key before it
 *             1 …  valueBytes   varint32
 *             1 …  seq          zigzag varint of its distance from baseSeq
 *               6  expiresAt    u48, only with EntryFlag.expiry
 *                  key[shared …) · value
 *
 *   block    entries
 *            heads              u32 BE each: of a restart's key the 4 bytes behind the common ones, with zeros behind its end
 *            offsets            u32 each: where the restart's entry begins
 *            baseSeq      u48   number of the first entry
 *            common       u16   bytes with which all keys of the block begin
 *            entryCount   u32
 *            restartCount u32
 *
 * At least every restartInterval-th entry is a restart: its key is whole. Where entries are large it is one of fewer, so that a search steps through few bytes
 * (and no more than a sixteenth of them is spent on that). A search goes through the heads, touches a key only where heads are equal, and walks the
 * entries of one restart. On that walk no key is put together: how much of the target the last key shared decides most entries by their head alone.
 *
 * Entries are ordered by key ascending, then number descending. A cursor survives any bytes: what does not fit is ERR_CORRUPT with the file and
 * offset it was told. It reads nothing outside of the block, and takes time in proportion to it at most.
 * Threads: any; the bytes may be shared memory whose content does not change.
 */
import { U48_MAX, readU48LE, writeU32BE, writeU32LE, writeU16LE, writeU48LE } from '../../../shared/codec/fixed.js';
import {
  VARINT53_BYTES_MAX,
  readVarint32,
  readVarint53,
  varintBytes,
  writeVarint32,
  writeVarint53,
} from '../../../shared/codec/varint.js';
import { ConcordError } from '../../../shared/errors.js';
import { WordCopy } from '../../../shared/memory/word-copy.js';
import { EntryFlag, KEY_BYTES_MAX } from './entry.js';

const TAIL_BYTES = 16;
const RESTART_BYTES = 8;
/** Shared bytes that stand in the head itself are fewer. */
const SHARED_ESCAPE = 31;
const FLAG_MASK = 7;
/** A restart costs its key's shared bytes and its place in the block's end: it is made as soon as it lets a search pass over so many times as much. */
const RESTART_WORTH = 16;
/** Head, three varints and a number's; an expiry. */
const ENTRY_HEADER_BYTES_MAX = 1 + 5 + 5 + 5 + 8 + 6;
export const RESTART_INTERVAL_MAX = 256;
/** Up to here a loop is faster than a call into the engine's copy. */
const LOOP_BYTES_MAX = 48;

/** Of keys, which are short mostly. */
export function copy(from: Uint8Array, start: number, length: number, into: Uint8Array, at: number): void {
  if (length > LOOP_BYTES_MAX) into.set(from.subarray(start, start + length), at);
  else for (let index = 0; index < length; index++) into[at + index] = from[start + index]!;
}

/** A block's plain bytes, from 0 on; grows. What they were before a reserve() is lost. */
export class BlockBuffer {
  bytes: Uint8Array;

  constructor(byteCount = 8192) {
    this.bytes = new Uint8Array(byteCount);
  }

  /** The bytes, at least so many. */
  reserve(byteCount: number): Uint8Array {
    if (this.bytes.length < byteCount) {
      this.bytes = new Uint8Array(Math.max(byteCount, Math.min(2 * this.bytes.length, byteCount + 65536)));
    }
    return this.bytes;
  }
}

/** Builds one block after the other in memory of its own. */
export class BlockBuilder {
  /** The block, after finish(). */
  buffer: Uint8Array;
  entries = 0;
  /** Over the same memory. */
  #words: Int32Array;
  readonly #copy = new WordCopy();
  readonly #interval: number;
  #at = 0;
  #baseSeq = 0;
  readonly #lastKey = new Uint8Array(KEY_BYTES_MAX);
  #lastKeyLength = 0;
  #sinceRestart = 0;
  /** Where the last restart begins. */
  #restartAt = 0;
  #restartCount = 0;
  #restartOffsets = new Uint32Array(64);
  /** Where the keys of the restarts stand, and their lengths. */
  #restartKeys = new Uint32Array(128);

  constructor(restartInterval: number, byteCount = 8192) {
    this.#interval = restartInterval;
    this.buffer = new Uint8Array(byteCount);
    this.#words = wordsOf(this.buffer);
  }

  /** What finish() would return now. */
  get bytes(): number {
    return this.#at + this.#restartCount * RESTART_BYTES + TAIL_BYTES;
  }

  /** What bytes would be at most after add() of such an entry. */
  bytesWith(keyLength: number, valueLength: number): number {
    return this.bytes + ENTRY_HEADER_BYTES_MAX - 9 + keyLength + valueLength + RESTART_BYTES;
  }

  get lastKey(): Uint8Array {
    return this.#lastKey;
  }

  get lastKeyLength(): number {
    return this.#lastKeyLength;
  }

  /**
   * Behind the last one: the caller sees to the order. flags: EntryFlag as they shall stand. sharedBytes: what the key begins with like the one that was added
   * last, if the caller knows it; -1: it does not.
   */
  add(
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    flags: number,
    expiresAt: number,
    sharedBytes = -1,
  ): void {
    let at = this.#at;
    const needed = at + ENTRY_HEADER_BYTES_MAX + keyLength + valueLength;
    if (needed > this.buffer.length) this.#grow(needed);
    const { buffer } = this;
    const lastKey = this.#lastKey;
    if (this.entries === 0) this.#baseSeq = seq;
    let shared = 0;
    let isRestart = this.#sinceRestart === 0;
    if (!isRestart) {
      if (sharedBytes >= 0) {
        shared = sharedBytes;
      } else {
        const most = Math.min(keyLength, this.#lastKeyLength);
        while (shared < most && key[shared] === lastKey[shared]) shared++;
      }
      isRestart = (shared + RESTART_BYTES) * RESTART_WORTH <= at - this.#restartAt;
    }
    if (isRestart) {
      shared = 0;
      if (this.#restartCount === this.#restartOffsets.length) this.#growRestarts();
      this.#restartOffsets[this.#restartCount] = at;
      this.#restartAt = at;
      this.#sinceRestart = 0;
    }
    const unshared = keyLength - shared;
    if (shared < SHARED_ESCAPE) {
      buffer[at++] = flags | (shared << 3);
    } else {
      buffer[at++] = flags | (SHARED_ESCAPE << 3);
      at = writeVarint32(buffer, at, shared);
    }
    if (unshared < 0x80) buffer[at++] = unshared;
    else at = writeVarint32(buffer, at, unshared);
    if (valueLength < 0x80) buffer[at++] = valueLength;
    else at = writeVarint32(buffer, at, valueLength);
    const distance = seq - this.#baseSeq;
    let rest = distance >= 0 ? 2 * distance : -2 * distance - 1;
    if (rest <= 0x7fffffff) {
      while (rest > 0x7f) {
        buffer[at++] = (rest & 0x7f) | 0x80;
        rest >>>= 7;
      }
      buffer[at++] = rest;
    } else {
      at = writeVarint53(buffer, at, rest);
    }
    if ((flags & EntryFlag.expiry) !== 0) {
      writeU48LE(buffer, at, expiresAt);
      at += 6;
    }
    if (isRestart) {
      this.#restartKeys[2 * this.#restartCount] = at;
      this.#restartKeys[2 * this.#restartCount + 1] = keyLength;
      this.#restartCount++;
    }
    copy(key, shared, unshared, buffer, at);
    copy(key, shared, unshared, lastKey, shared);
    this.#lastKeyLength = keyLength;
    at += unshared;
    this.#copy.copy(value, valueStart, valueLength, buffer, this.#words, at);
    this.#at = at + valueLength;
    this.#sinceRestart = this.#sinceRestart + 1 === this.#interval ? 0 : this.#sinceRestart + 1;
    this.entries++;
  }

  /** Completes the block, buffer[0, returned bytes). The next add() begins another, so it must have been used before. */
  finish(): number {
    const { bytes, entries } = this;
    if (bytes > this.buffer.length) this.#grow(bytes);
    const { buffer } = this;
    const lastKey = this.#lastKey;
    const firstKey = this.#restartKeys[0]!;
    const most = Math.min(this.#restartKeys[1]!, this.#lastKeyLength);
    let common = 0;
    while (common < most && buffer[firstKey + common] === lastKey[common]) common++;
    let at = this.#at;
    for (let index = 0; index < this.#restartCount; index++, at += 4) {
      const key = this.#restartKeys[2 * index]!;
      writeU32BE(buffer, at, headOf(buffer, key + common, key + this.#restartKeys[2 * index + 1]!));
    }
    for (let index = 0; index < this.#restartCount; index++, at += 4) {
      writeU32LE(buffer, at, this.#restartOffsets[index]!);
    }
    writeU48LE(buffer, at, this.#baseSeq);
    writeU16LE(buffer, at + 6, common);
    writeU32LE(buffer, at + 8, entries);
    writeU32LE(buffer, at + 12, this.#restartCount);
    this.#at = 0;
    this.#restartCount = 0;
    this.#sinceRestart = 0;
    this.entries = 0;
    return bytes;
  }

  #grow(needed: number): void {
    const larger = new Uint8Array(Math.max(needed + RESTART_BYTES + TAIL_BYTES, 2 * this.buffer.length));
    larger.set(this.buffer.subarray(0, this.#at));
    this.buffer = larger;
    this.#words = wordsOf(larger);
  }

  #growRestarts(): void {
    const offsets = new Uint32Array(2 * this.#restartOffsets.length);
    offsets.set(this.#restartOffsets);
    this.#restartOffsets = offsets;
    const keys = new Uint32Array(2 * this.#restartKeys.length);
    keys.set(this.#restartKeys);
    this.#restartKeys = keys;
  }
}

/** Of an array that begins where its memory does. */
function wordsOf(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.buffer, 0, bytes.length >> 2);
}

/** Four bytes as a number whose order is theirs; zeros stand for bytes behind the end. */
function headOf(bytes: Uint8Array, at: number, end: number): number {
  if (at + 4 <= end) {
    return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
  }
  let head = 0;
  for (let index = 0; index < 4; index++) head = (head << 8) | (at + index < end ? bytes[at + index]! : 0);
  return head >>> 0;
}

const NO_BYTES = new Uint8Array(0);

/** Where looking the name up costs something, and hardly anybody wants it. */
export interface FileName {
  readonly path: string;
}

/** One position in a block: at an entry, or (not valid) before the first, from where next() leads to it, or behind the last, from where prev() does. */
export class BlockCursor {
  valid = false;
  /** The key is key[0, keyLength): memory of the cursor, changed by every step. */
  readonly key = new Uint8Array(KEY_BYTES_MAX);
  keyLength = 0;
  /** The block's; the value is bytes[valueStart, valueStart + valueLength). */
  bytes: Uint8Array = NO_BYTES;
  valueStart = 0;
  valueLength = 0;
  seq = 0;
  /** EntryFlag. */
  flags = 0;
  expiresAt = 0;
  #file: string | FileName = '';
  #offset = 0;
  #start = 0;
  #entriesEnd = 0;
  #offsetsAt = 0;
  #restartCount = 0;
  #entryCount = 0;
  #common = 0;
  #baseSeq = 0;
  /** Of the entry that was decoded last: its place, the place behind it, its key's parts. */
  #at = 0;
  #next = 0;
  #shared = 0;
  #unshared = 0;
  #suffixAt = 0;
  /** The entries of one restart before #windowEnd, which prev() goes down: their places and keys. */
  #windowCount = 0;
  #windowEnd = 0;
  #windowOffsets: Uint32Array | undefined;
  #windowKeyEnds: Uint32Array | undefined;
  #windowKeys: Uint8Array | undefined;

  get entryCount(): number {
    return this.#entryCount;
  }

  /** The plain block is bytes[start, end). file and offset: for messages. @throws ERR_CORRUPT */
  open(bytes: Uint8Array, start: number, end: number, file: string | FileName, offset: number): void {
    this.bytes = bytes;
    this.valid = false;
    this.#file = file;
    this.#offset = offset;
    this.#windowCount = 0;
    const tail = end - TAIL_BYTES;
    if (tail < start) throw this.#corrupt(`a block of ${end - start} bytes`);
    const restartCount =
      (bytes[tail + 12]! | (bytes[tail + 13]! << 8) | (bytes[tail + 14]! << 16) | (bytes[tail + 15]! << 24)) >>> 0;
    const entriesEnd = tail - restartCount * RESTART_BYTES;
    if (restartCount === 0 || entriesEnd <= start) {
      throw this.#corrupt(`a block of ${end - start} bytes has ${restartCount} restarts`);
    }
    this.#start = start;
    this.#entriesEnd = entriesEnd;
    this.#offsetsAt = entriesEnd + 4 * restartCount;
    this.#restartCount = restartCount;
    this.#baseSeq = readU48LE(bytes, tail);
    this.#common = bytes[tail + 6]! | (bytes[tail + 7]! << 8);
    this.#entryCount =
      (bytes[tail + 8]! | (bytes[tail + 9]! << 8) | (bytes[tail + 10]! << 16) | (bytes[tail + 11]! << 24)) >>> 0;
  }

  /**
   * To the first entry that is not before (key, atSeq): the key's newest version with seq ≤ atSeq, else the next larger key's newest. True if it is the key's.
   * Behind the last entry: false, and not valid. @throws ERR_CORRUPT
   */
  seek(key: Uint8Array, keyLength: number, atSeq: number): boolean {
    const restart = this.#restartFor(key, keyLength, atSeq);
    const { bytes } = this;
    // matched: bytes of the target that the last key begins with; it is before the target.
    let matched = 0;
    let lastLength = 0;
    const entriesEnd = this.#entriesEnd;
    let next: number;
    const common = this.#common;
    for (let at = this.#restartOffset(restart); at < entriesEnd; at = next) {
      // As #decode() does, but nothing is noted before the entry is known to be the one.
      const head = bytes[at]!;
      let shared = head >>> 3;
      let unshared = bytes[at + 1]!;
      let suffixAt = at + 2;
      let valueLength = bytes[suffixAt++]!;
      if (valueLength >= 0x80) valueLength = (valueLength & 0x7f) | (bytes[suffixAt++]! << 7);
      if (shared === SHARED_ESCAPE || unshared >= 0x80 || valueLength >= 0x4000) {
        this.#decode(at);
        shared = this.#shared;
        unshared = this.#unshared;
        suffixAt = this.#suffixAt;
        next = this.#next;
      } else {
        const numberEnd = suffixAt + VARINT53_BYTES_MAX;
        while (bytes[suffixAt++]! >= 0x80 && suffixAt < numberEnd);
        if ((head & EntryFlag.expiry) !== 0) suffixAt += 6;
        next = suffixAt + unshared + valueLength;
        // Throws: it does not fit.
        if (next > entriesEnd) this.#decode(at);
      }
      if (shared > lastLength) {
        this.#at = at;
        throw this.#corruptEntry(`shares ${shared} bytes with a key of ${lastLength}`);
      }
      const length = shared + unshared;
      lastLength = length;
      if (shared > matched) continue;
      const shift = suffixAt - shared;
      // Less is shared by a larger key, or by a restart, whose key was stored whole: it is not before the target either.
      const isCompared = shared === matched;
      if (isCompared) {
        const most = length < keyLength ? length : keyLength;
        while (matched < most && bytes[shift + matched] === key[matched]) matched++;
        if (matched < common) {
          // Heads say nothing of a key that does not begin as all of the block do: it is before them, or behind.
          if (matched === length || (matched < keyLength && bytes[shift + matched]! < key[matched]!))
            return this.#behind();
          this.seekToFirst();
          return false;
        }
        // A beginning of the target is before it.
        if (matched === length && length < keyLength) continue;
        if (matched < most && bytes[shift + matched]! < key[matched]!) continue;
      }
      this.#decode(at);
      if (isCompared && matched === length && length === keyLength && this.seq > atSeq) continue;
      for (let index = 0; index < shared; index++) this.key[index] = key[index]!;
      copy(bytes, suffixAt, unshared, this.key, shared);
      this.keyLength = length;
      this.valid = true;
      if (length !== keyLength) return false;
      if (isCompared) return matched === length;
      for (let index = shared; index < length; index++) if (this.key[index] !== key[index]) return false;
      return true;
    }
    return this.#behind();
  }

  seekToFirst(): boolean {
    this.keyLength = 0;
    return this.#step(this.#start);
  }

  seekToLast(): boolean {
    return this.#stepBefore(this.#entriesEnd);
  }

  /** @throws ERR_CORRUPT */
  next(): boolean {
    return this.#step(this.#next);
  }

  /** @throws ERR_CORRUPT */
  prev(): boolean {
    return this.#stepBefore(this.#at);
  }

  /** What is wrong with the whole block, undefined if nothing: every entry, their order and number, the restarts. */
  check(): string | undefined {
    const last = Buffer.alloc(KEY_BYTES_MAX);
    let lastLength = -1;
    let lastSeq = 0;
    let entries = 0;
    let restart = 0;
    for (let more = this.seekToFirst(); more; more = this.next()) {
      if (entries++ > 0) {
        const order = last.compare(this.key, 0, this.keyLength, 0, lastLength);
        if (order > 0 || (order === 0 && lastSeq <= this.seq)) return `entry ${entries - 1} is out of order`;
      }
      if (restart < this.#restartCount && this.#restartOffset(restart) === this.#at) {
        const head = this.#entriesEnd + 4 * restart;
        if (this.#shared !== 0) return `restart ${restart} has no whole key`;
        if (readHead(this.bytes, head) !== headOf(this.key, this.#common, this.keyLength)) {
          return `the head of restart ${restart} is not its key's`;
        }
        restart++;
      }
      last.set(this.key.subarray(0, this.keyLength));
      lastLength = this.keyLength;
      lastSeq = this.seq;
    }
    if (restart !== this.#restartCount) return `restart ${restart} is not at an entry`;
    if (entries !== this.#entryCount) return `${entries} entries, ${this.#entryCount} in its tail`;
    return undefined;
  }

  /** Damage of what stands here, as an error with file and offset. */
  damage(text: string): ConcordError {
    return this.#corruptEntry(text);
  }

  /** The last restart that comes before (key, atSeq), or the first one; any, if the key does not begin as all of the block do. */
  #restartFor(key: Uint8Array, keyLength: number, atSeq: number): number {
    const common = this.#common;
    const { bytes } = this;
    const head = headOf(key, common, keyLength);
    const headsAt = this.#entriesEnd;
    // Restart low - 1 is always before the target (or the first one), high never.
    let low = 1;
    let high = this.#restartCount;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const other = readHead(bytes, headsAt + 4 * middle);
      if (other < head || (other === head && this.#isRestartBefore(middle, key, keyLength, atSeq))) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  #restartOffset(index: number): number {
    const { bytes } = this;
    const at = this.#offsetsAt + 4 * index;
    const offset = (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
    if (offset >= this.#entriesEnd - this.#start) throw this.#corrupt(`restart ${index} at ${offset}`);
    return this.#start + offset;
  }

  /** Whether a restart's entry comes before (key, atSeq). */
  #isRestartBefore(index: number, key: Uint8Array, keyLength: number, atSeq: number): boolean {
    this.#decode(this.#restartOffset(index));
    if (this.#shared !== 0) throw this.#corruptEntry('is not a restart');
    const { bytes } = this;
    const suffixAt = this.#suffixAt;
    const length = this.#unshared;
    const most = length < keyLength ? length : keyLength;
    for (let at = 0; at < most; at++) {
      const byte = bytes[suffixAt + at]!;
      if (byte !== key[at]) return byte < key[at]!;
    }
    return length === keyLength ? this.seq > atSeq : length < keyLength;
  }

  /** Decodes all of the entry at `at` but its key. */
  #decode(at: number): void {
    // Reads without a look at the end may go up to 13 bytes beyond the entries: the tail is longer.
    const { bytes } = this;
    const end = this.#entriesEnd;
    this.#at = at;
    const head = bytes[at++]!;
    const flags = head & FLAG_MASK;
    let shared = head >>> 3;
    if (shared === SHARED_ESCAPE) {
      shared = readVarint32(bytes, at, end);
      if (shared < SHARED_ESCAPE) throw this.#corruptEntry('has no length');
      at += varintBytes(shared);
    }
    let unshared = bytes[at]!;
    if (unshared < 0x80) {
      at++;
    } else {
      unshared = readVarint32(bytes, at, end);
      if (unshared < 0) throw this.#corruptEntry('has no key length');
      at += varintBytes(unshared);
    }
    let valueLength = bytes[at]!;
    if (valueLength < 0x80) {
      at++;
    } else {
      valueLength = readVarint32(bytes, at, end);
      if (valueLength < 0) throw this.#corruptEntry('has no value length');
      at += varintBytes(valueLength);
    }
    let zigzag = bytes[at]!;
    if (zigzag < 0x80) {
      at++;
    } else {
      // Mostly three or four bytes.
      const second = bytes[at + 1]!;
      const third = bytes[at + 2]!;
      const fourth = bytes[at + 3]!;
      if (second >= 0x80 && third < 0x80 && third > 0) {
        zigzag = (zigzag & 0x7f) | ((second & 0x7f) << 7) | (third << 14);
        at += 3;
      } else if (second >= 0x80 && third >= 0x80 && fourth < 0x80 && fourth > 0) {
        zigzag = (zigzag & 0x7f) | ((second & 0x7f) << 7) | ((third & 0x7f) << 14) | (fourth << 21);
        at += 4;
      } else {
        zigzag = readVarint53(bytes, at, end);
        if (zigzag < 0) throw this.#corruptEntry('has no number');
        at += varintBytes(zigzag);
      }
    }
    this.seq =
      this.#baseSeq +
      (zigzag <= 0x7fffffff ? (zigzag >>> 1) ^ -(zigzag & 1) : zigzag % 2 === 0 ? zigzag / 2 : -(zigzag + 1) / 2);
    if ((flags & EntryFlag.expiry) !== 0) {
      this.expiresAt = readU48LE(bytes, at);
      at += 6;
    } else {
      this.expiresAt = 0;
    }
    this.flags = flags;
    this.#shared = shared;
    this.#unshared = unshared;
    this.#suffixAt = at;
    at += unshared;
    this.valueStart = at;
    this.valueLength = valueLength;
    at += valueLength;
    this.#next = at;
    if (at > end) throw this.#corruptEntry(`reaches ${at - end} bytes behind the last entry's end`);
    if (shared + unshared > KEY_BYTES_MAX) throw this.#corruptEntry(`has a key of ${shared + unshared} bytes`);
    if (!(this.seq >= 0 && this.seq <= U48_MAX)) throw this.#corruptEntry(`has number ${this.seq}`);
  }

  /** To the entry at `at`; key and keyLength are those of the one before it. */
  #step(at: number): boolean {
    if (at >= this.#entriesEnd) return this.#behind();
    this.#decode(at);
    const shared = this.#shared;
    if (shared > this.keyLength) throw this.#corruptEntry(`shares ${shared} bytes with a key of ${this.keyLength}`);
    copy(this.bytes, this.#suffixAt, this.#unshared, this.key, shared);
    this.keyLength = shared + this.#unshared;
    this.valid = true;
    return true;
  }

  /** To the entry that ends at `end`. */
  #stepBefore(end: number): boolean {
    if (end <= this.#start) {
      this.#at = this.#next = this.#start;
      this.keyLength = 0;
      this.valid = false;
      return false;
    }
    if (this.#windowCount === 0 || this.#windowEnd !== end) this.#fillWindow(end);
    const index = --this.#windowCount;
    const offset = this.#windowOffsets![index]!;
    const keyEnd = this.#windowKeyEnds![index]!;
    const keyStart = index === 0 ? 0 : this.#windowKeyEnds![index - 1]!;
    this.#decode(offset);
    copy(this.#windowKeys!, keyStart, keyEnd - keyStart, this.key, 0);
    this.keyLength = keyEnd - keyStart;
    this.#windowEnd = offset;
    this.valid = true;
    return true;
  }

  #behind(): false {
    this.#at = this.#next = this.#entriesEnd;
    this.valid = false;
    return false;
  }

  /** Notes places and keys of the entries between `end` and the last restart before it. */
  #fillWindow(end: number): void {
    this.#windowOffsets ??= new Uint32Array(RESTART_INTERVAL_MAX);
    this.#windowKeyEnds ??= new Uint32Array(RESTART_INTERVAL_MAX);
    this.#windowKeys ??= new Uint8Array(1024);
    let low = 0;
    let high = this.#restartCount;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#restartOffset(middle) < end) low = middle + 1;
      else high = middle;
    }
    if (low === 0) throw this.#corrupt('its first restart is not its first entry');
    this.keyLength = 0;
    let count = 0;
    let keyEnd = 0;
    let at = this.#restartOffset(low - 1);
    while (at < end) {
      this.#step(at);
      if (count === RESTART_INTERVAL_MAX) throw this.#corruptEntry(`is more than ${count} from its restart`);
      if (keyEnd + this.keyLength > this.#windowKeys.length) {
        const larger = new Uint8Array(2 * (keyEnd + this.keyLength));
        larger.set(this.#windowKeys);
        this.#windowKeys = larger;
      }
      copy(this.key, 0, this.keyLength, this.#windowKeys, keyEnd);
      keyEnd += this.keyLength;
      this.#windowOffsets[count] = at;
      this.#windowKeyEnds[count] = keyEnd;
      count++;
      at = this.#next;
    }
    if (at !== end) throw this.#corruptEntry('does not end where the next one begins');
    this.#windowCount = count;
    this.#windowEnd = end;
  }

  #corruptEntry(text: string): ConcordError {
    return this.#corrupt(`entry at ${this.#at - this.#start} of the block ${text}`);
  }

  #corrupt(text: string): ConcordError {
    this.valid = false;
    const file = typeof this.#file === 'string' ? this.#file : this.#file.path;
    const offset = this.#offset;
    return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset });
  }
}

function readHead(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** No encoded handle is longer: see writeHandle(). */
export const HANDLE_BYTES_MAX = 13;

/** The value of an index entry: where a block lies, and its stored bytes. */
export function writeHandle(into: Uint8Array, at: number, offset: number, storedBytes: number): number {
  return writeVarint32(into, writeVarint53(into, at, offset), storedBytes);
}

/** Of the index entry that the cursor stands on: where its block lies in the file. @throws ERR_CORRUPT */
export function handleOffset(cursor: BlockCursor): number {
  const offset = readVarint53(cursor.bytes, cursor.valueStart, cursor.valueStart + cursor.valueLength);
  if (offset < 0) throw cursor.damage('leads to no block');
  return offset;
}

/** Its stored bytes, trailer included: what readBlock() wants. @throws ERR_CORRUPT */
export function handleBytes(cursor: BlockCursor): number {
  const at = cursor.valueStart + varintBytes(handleOffset(cursor));
  const storedBytes = readVarint32(cursor.bytes, at, cursor.valueStart + cursor.valueLength);
  if (storedBytes < 0) throw cursor.damage('leads to no block');
  return storedBytes;
}
