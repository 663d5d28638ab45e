/**
 * What a transaction has touched: keys it has read, with the versions it saw, and values it is going to write. Lookup by encoded key; savepoints.
 *
 *   KeyEntry   space · key · seen (the version that was read, see NOT_READ) · write ─▶ Write ─▶ previous ─▶ …
 *
 * A small transaction has no hash table. While nothing is written, what getSync() reads is only noted, in flat arrays (note()): nothing can be looked for,
 * and mostly nobody asks again. Entries are made of the notes when somebody does; a key that was read twice has two then. Once something is
 * written, keys that are strings are looked for by comparing them: mostly they are the very same strings. The table is made when there are too many
 * for that, or when a key comes another way; of two entries of a key the first one is found.
 *
 * Values are encoded when they are put: what the caller does with an object later changes nothing. Writes have an order, `step`. A Write is not written over
 * while somebody may ask for it: an iterator that was begun since, which has it, or a savepoint, for which it is kept behind the new one (`previous`). What no
 * savepoint can go back to is not kept: of a key that is written again and again there is a value for each savepoint at most. What is kept so counts to
 * the transaction's size (heldBytes()).
 *
 * Sets are used again by later transactions, with their entries and buffers: a small transaction allocates nothing here.
 * Threads: one.
 */
import { KeyScratch } from '../../shared/codec/key-encoding.js';
import { encodedBytesMax, writeEncoded, type Encoded } from '../../shared/codec/value-encoding.js';
import { hashBytes } from '../../shared/hash.js';
import { OPERATION_EXTENSION_BYTES, operationBytes } from '../../engines/operation.js';
import type { SpaceSource } from '../pool/source.js';

/** In place of a version's number: the key was not read. 0: it was, and was absent. */
export const NOT_READ = -1;

const HEADS_MIN = 64;
/** Reads that are only noted. */
const NOTED_MAX = 16;
/** Entries among which a key is looked for by comparing. */
const COMPARED_MAX = 8;
/** Kept from one transaction to the next. */
const ENTRIES_KEPT = 64;
const BYTES_KEPT = 4096;
/** No more of them are looked up again. */
const FLOATING_KEPT = 4;
const KEY_ROOM = 64;
const VALUE_ROOM = 128;

const nothing = Buffer.alloc(0);

export class Write {
  isPut = false;
  value: Buffer = nothing;
  length = 0;
  /** 0: never. */
  expiresAt = 0;
  /** When it was made: each write of a transaction has a higher one. */
  step = 0;
  previous: Write | undefined;
}

export class KeyEntry {
  source!: SpaceSource;
  spaceId = 0;
  shard = 0;
  hash = 0;
  key: Buffer = nothing;
  keyLength = 0;
  /** What the caller calls it; only while the set has no table. */
  text = '';
  /** NOT_READ, or the number of the version that was seen. */
  seen = NOT_READ;
  /** The commit looks whether `seen` still holds, whatever the isolation. */
  isGuarded = false;
  /** The lock it holds: see locks.ts. */
  lockHeld = 0;
  /** The lock it has asked for last. */
  lockMode = 0;
  /** Settles when that lock is granted; undefined: it is. */
  lockWait: Promise<void> | undefined;
  write: Write | undefined;
  /** Kept for the next transaction. */
  spare: Write | undefined;
  next = -1;
}

interface Savepoint {
  readonly name: string;
  readonly step: number;
}

export class WorkingSet {
  readonly entries: KeyEntry[] = [];
  count = 0;
  /** Entries with a version seen. */
  reads = 0;
  writes = 0;
  /** Bytes of records to be written, by shard. */
  readonly bytesOfShard: Float64Array;
  /** Of what stands behind them. */
  readonly #keptOfShard: Float64Array;
  /** The first reads that nothing but their number protects, what is noted left out; beyond FLOATING_KEPT they are only counted. */
  readonly floating: KeyEntry[] = [];
  floatingCount = 0;
  /** Of them, what was absent. */
  floatingAbsent = 0;
  /** Reads that no entry has been made of. They float, too. */
  noted = 0;
  #notedSource: SpaceSource | undefined;
  /** By note. What a transaction before this one has left stays until it is written over. */
  readonly #texts: string[] = [];
  readonly #lengths = new Int32Array(NOTED_MAX);
  readonly #shards = new Int32Array(NOTED_MAX);
  readonly #seen = new Float64Array(NOTED_MAX);
  step = 0;
  /** Entries are found by hash. */
  #isHashed = false;
  #heads = new Int32Array(HEADS_MIN);
  /** The memory of the keys of the first entries: keys are encoded where they stay. */
  readonly #rooms: KeyScratch[] = [];
  /** Writes up to here may still be asked for. */
  #keptStep = 0;
  #savepoints: Savepoint[] = [];
  /** Written entries of a space by key, without those that came since. */
  #sorted: KeyEntry[] | undefined;
  #sortedSpace = -1;
  #fresh: KeyEntry[] = [];

  constructor(shards: number) {
    this.bytesOfShard = new Float64Array(shards);
    this.#keptOfShard = new Float64Array(shards);
  }

  /** Forgets everything; memory of a large transaction is given back. */
  reset(): void {
    const { entries } = this;
    if (this.count > ENTRIES_KEPT) {
      entries.length = ENTRIES_KEPT;
      this.#heads = new Int32Array(HEADS_MIN);
    } else if (this.#isHashed) this.#heads.fill(0);
    this.#isHashed = false;
    for (let index = Math.min(this.count, entries.length) - 1; index >= 0; index--) {
      const entry = entries[index]!;
      entry.seen = NOT_READ;
      entry.text = '';
      entry.isGuarded = false;
      entry.lockHeld = 0;
      entry.lockMode = 0;
      entry.lockWait = undefined;
      if (entry.write !== undefined) {
        entry.spare = entry.write;
        entry.spare.previous = undefined;
        if (entry.spare.value.length > BYTES_KEPT) entry.spare = undefined;
        entry.write = undefined;
      }
    }
    if (this.writes > 0 || this.step > 0) {
      this.bytesOfShard.fill(0);
      this.#keptOfShard.fill(0);
    }
    this.count = 0;
    this.noted = 0;
    this.reads = 0;
    this.floatingCount = 0;
    this.floatingAbsent = 0;
    this.writes = 0;
    this.step = 0;
    this.#keptStep = 0;
    if (this.#savepoints.length > 0) this.#savepoints = [];
    this.#forgetOrder();
  }

  #forgetOrder(): void {
    if (this.#sorted === undefined) return;
    this.#sorted = undefined;
    this.#fresh = [];
  }

  // ---- without a table --------------------------------------------------------------------------------------------------------------------

  /** Whether a read can be noted, without looking whether its key is known. */
  canNote(source: SpaceSource): boolean {
    return (
      this.writes === 0 &&
      !this.#isHashed &&
      this.count + this.noted < NOTED_MAX &&
      (this.noted === 0 || this.#notedSource === source)
    );
  }

  /** Whether findText() is the way to look. */
  get isCompared(): boolean {
    return this.count + this.noted <= COMPARED_MAX && !this.#isHashed;
  }

  /** Where the key of the next note is to be encoded. */
  get room(): KeyScratch {
    return this.#rooms[this.count + this.noted] ?? this.#addRoom();
  }

  #addRoom(): KeyScratch {
    const room = new KeyScratch(KEY_ROOM);
    this.#rooms.push(room);
    return room;
  }

  /** If canNote(): the key in the room was read, and this number seen. */
  note(source: SpaceSource, text: string, shard: number, keyLength: number, seq: number): void {
    const index = this.noted++;
    if (index === 0) this.#notedSource = source;
    this.#texts[index] = text;
    this.#lengths[index] = keyLength;
    this.#shards[index] = shard;
    this.#seen[index] = seq;
  }

  /** Makes entries of what was noted. */
  unfold(): void {
    if (this.noted > 0) this.#unfold();
  }

  #unfold(): void {
    const { noted } = this;
    this.noted = 0;
    for (let index = 0; index < noted; index++) {
      const entry = this.addText(this.#notedSource!, this.#texts[index]!, this.#shards[index]!, this.#lengths[index]!);
      this.noteRead(entry, this.#seen[index]!);
      this.noteFloating(entry);
    }
  }

  /** Adds an entry for the key in the room; nothing is noted. */
  addText(source: SpaceSource, text: string, shard: number, keyLength: number): KeyEntry {
    const index = this.count;
    let entry = this.entries[index];
    if (entry === undefined) {
      entry = new KeyEntry();
      this.entries.push(entry);
    }
    entry.source = source;
    entry.spaceId = source.spaceId;
    entry.text = text;
    entry.shard = shard;
    entry.key = this.#rooms[index]!.bytes;
    entry.keyLength = keyLength;
    entry.hash = this.bytesOfShard.length === 1 ? 0 : hashBytes(entry.key, 0, keyLength);
    this.count = index + 1;
    return entry;
  }

  /** While isCompared. */
  findText(source: SpaceSource, text: string): KeyEntry | undefined {
    if (this.noted > 0) this.#unfold();
    const { entries, count } = this;
    for (let index = 0; index < count; index++) {
      const entry = entries[index]!;
      if (entry.text === text && entry.spaceId === source.spaceId) return entry;
    }
    return undefined;
  }

  #hash(): void {
    if (this.noted > 0) this.#unfold();
    this.#isHashed = true;
    const heads = this.#heads;
    // The first of two entries of a key comes before the other, for it may have what was written.
    for (let index = this.count - 1; index >= 0; index--) {
      const entry = this.entries[index]!;
      entry.hash = hashBytes(entry.key, 0, entry.keyLength);
      const bucket = entry.hash & (heads.length - 1);
      entry.next = heads[bucket]! - 1;
      heads[bucket] = index + 1;
    }
  }

  // ---- by hash ----------------------------------------------------------------------------------------------------------------------------

  find(spaceId: number, hash: number, key: Uint8Array, keyLength: number): KeyEntry | undefined {
    if (!this.#isHashed) this.#hash();
    const heads = this.#heads;
    let index = heads[hash & (heads.length - 1)]! - 1;
    while (index >= 0) {
      const entry = this.entries[index]!;
      if (entry.hash === hash && entry.spaceId === spaceId && isSame(entry, key, keyLength)) return entry;
      index = entry.next;
    }
    return undefined;
  }

  /** For a key that find() has not found. The key is copied. */
  add(source: SpaceSource, shard: number, hash: number, key: Uint8Array, keyLength: number): KeyEntry {
    const index = this.count;
    let entry = this.entries[index];
    if (entry === undefined) {
      entry = new KeyEntry();
      this.entries.push(entry);
    }
    this.count = index + 1;
    if (this.count > this.#heads.length) this.#rehash();
    if (entry.key.length < keyLength || entry.key.length > BYTES_KEPT) {
      entry.key =
        index < ENTRIES_KEPT ? Buffer.allocUnsafeSlow(Math.max(KEY_ROOM, keyLength)) : Buffer.allocUnsafe(keyLength);
    }
    const own = entry.key;
    for (let i = 0; i < keyLength; i++) own[i] = key[i]!;
    entry.source = source;
    entry.spaceId = source.spaceId;
    entry.shard = shard;
    entry.hash = hash;
    entry.keyLength = keyLength;
    const heads = this.#heads;
    const bucket = hash & (heads.length - 1);
    entry.next = heads[bucket]! - 1;
    heads[bucket] = index + 1;
    return entry;
  }

  #rehash(): void {
    const heads = new Int32Array(this.#heads.length * 4);
    // As in #hash().
    for (let index = this.count - 2; index >= 0; index--) {
      const entry = this.entries[index]!;
      const bucket = entry.hash & (heads.length - 1);
      entry.next = heads[bucket]! - 1;
      heads[bucket] = index + 1;
    }
    this.#heads = heads;
  }

  noteRead(entry: KeyEntry, seq: number): void {
    if (entry.seen !== NOT_READ) return;
    entry.seen = seq;
    this.reads++;
  }

  noteFloating(entry: KeyEntry): void {
    if (this.floatingCount < FLOATING_KEPT) this.floating[this.floatingCount] = entry;
    this.floatingCount++;
    if (entry.seen === 0) this.floatingAbsent++;
  }

  /** Bytes of the entry's record. */
  #recordBytes(entry: KeyEntry, write: Write): number {
    const extension = entry.spaceId === 0 && write.expiresAt === 0 ? 0 : OPERATION_EXTENSION_BYTES;
    return operationBytes(entry.keyLength, write.length, extension);
  }

  /** The Write to fill: the entry's own, or a new one before it. */
  #writable(entry: KeyEntry): Write {
    const last = entry.write;
    if (last === undefined) {
      this.writes++;
      if (this.#sorted !== undefined && this.#sortedSpace === entry.spaceId) this.#fresh.push(entry);
      const write = entry.spare ?? new Write();
      entry.spare = undefined;
      entry.write = write;
      return write;
    }
    this.bytesOfShard[entry.shard]! -= this.#recordBytes(entry, last);
    if (last.step > this.#keptStep) return last;
    const write = new Write();
    write.previous = this.#keep(entry, last);
    entry.write = write;
    return write;
  }

  /** Keeps the entry's last write, or the one behind it, that is there again after a rollback to the latest savepoint; undefined: none is. */
  #keep(entry: KeyEntry, last: Write): Write | undefined {
    const latest = this.#savepoints.at(-1)?.step ?? 0;
    this.#keptOfShard[entry.shard]! += this.#recordBytes(entry, last);
    let kept: Write | undefined = last;
    while (kept !== undefined && kept.step > latest) kept = this.#letGo(entry, kept);
    // Savepoints that were released since needed what stands right behind it, if anything.
    if (kept?.previous !== undefined) {
      const { step } = kept;
      const before = this.#savepoints.findLast((savepoint) => savepoint.step < step)?.step ?? 0;
      while (kept.previous !== undefined && kept.previous.step > before)
        kept.previous = this.#letGo(entry, kept.previous);
    }
    return kept;
  }

  /** The write behind it, which alone is kept. */
  #letGo(entry: KeyEntry, kept: Write): Write | undefined {
    this.#keptOfShard[entry.shard]! -= this.#recordBytes(entry, kept);
    return kept.previous;
  }

  /** Bytes of the shard's records, and of what is kept for savepoints beside them. */
  heldBytes(shard: number): number {
    return this.bytesOfShard[shard]! + this.#keptOfShard[shard]!;
  }

  setPut(entry: KeyEntry, encoded: Encoded, expiresAt: number): void {
    const room = encodedBytesMax(encoded);
    const write = this.#writable(entry);
    if (write.value.length < room) {
      write.value =
        room < VALUE_ROOM && this.count <= ENTRIES_KEPT ? Buffer.allocUnsafeSlow(VALUE_ROOM) : Buffer.allocUnsafe(room);
    }
    write.length = writeEncoded(encoded, write.value, 0);
    write.isPut = true;
    write.expiresAt = expiresAt;
    write.step = ++this.step;
    this.bytesOfShard[entry.shard]! += this.#recordBytes(entry, write);
  }

  setDel(entry: KeyEntry): void {
    const write = this.#writable(entry);
    write.length = 0;
    write.isPut = false;
    write.expiresAt = 0;
    write.step = ++this.step;
    this.bytesOfShard[entry.shard]! += this.#recordBytes(entry, write);
  }

  // ---- savepoints -------------------------------------------------------------------------------------------------------------------------

  savepoint(name: string): void {
    this.#savepoints.push({ name, step: this.step });
    this.#keptStep = this.step;
  }

  /** Takes writes made since back; the savepoint stays, later ones go. False if there is none of that name. */
  rollbackTo(name: string): boolean {
    const index = this.#savepoints.findLastIndex((savepoint) => savepoint.name === name);
    if (index < 0) return false;
    const { step } = this.#savepoints[index]!;
    this.#savepoints.length = index + 1;
    for (let at = 0; at < this.count; at++) {
      const entry = this.entries[at]!;
      const { write } = entry;
      if (write === undefined || write.step <= step) continue;
      this.bytesOfShard[entry.shard]! -= this.#recordBytes(entry, write);
      let back = write.previous;
      while (back !== undefined && back.step > step) back = this.#letGo(entry, back);
      entry.write = back;
      if (back === undefined) this.writes--;
      else {
        this.#letGo(entry, back);
        this.bytesOfShard[entry.shard]! += this.#recordBytes(entry, back);
      }
    }
    this.#forgetOrder();
    return true;
  }

  /** Forgets the savepoint and later ones; what was written stays. False if there is none of that name. */
  releaseSavepoint(name: string): boolean {
    const index = this.#savepoints.findLastIndex((savepoint) => savepoint.name === name);
    if (index < 0) return false;
    this.#savepoints.length = index;
    return true;
  }

  // ---- ranges -----------------------------------------------------------------------------------------------------------------------------

  /** Writes to [low, high) of the space in key order, as they are now: later ones do not change what the caller sees. */
  sortedWrites(spaceId: number, low: Buffer | undefined, high: Buffer | undefined): OwnWrite[] {
    this.#keptStep = this.step;
    if (this.writes === 0) return [];
    const sorted = this.#inOrder(spaceId);
    const from = low === undefined ? 0 : lowerBound(sorted, low);
    const to = high === undefined ? sorted.length : lowerBound(sorted, high);
    const own: OwnWrite[] = [];
    for (let index = from; index < to; index++) {
      const { key, keyLength, write } = sorted[index]!;
      own.push({ key, keyLength, write: write! });
    }
    return own;
  }

  #inOrder(spaceId: number): KeyEntry[] {
    const fresh = this.#fresh;
    if (this.#sorted === undefined || this.#sortedSpace !== spaceId) {
      this.#sorted = [];
      this.#sortedSpace = spaceId;
      fresh.length = 0;
      for (let index = 0; index < this.count; index++) {
        const entry = this.entries[index]!;
        if (entry.write !== undefined && entry.spaceId === spaceId) fresh.push(entry);
      }
    }
    if (fresh.length > 0) {
      fresh.sort(compareEntries);
      const old = this.#sorted;
      const merged: KeyEntry[] = [];
      let at = 0;
      for (const entry of fresh) {
        while (at < old.length && compareEntries(old[at]!, entry) < 0) merged.push(old[at++]!);
        merged.push(entry);
      }
      while (at < old.length) merged.push(old[at++]!);
      this.#sorted = merged;
      this.#fresh = [];
    }
    return this.#sorted;
  }
}

/** A write as an iterator meets it. */
export interface OwnWrite {
  readonly key: Buffer;
  readonly keyLength: number;
  readonly write: Write;
}

function isSame(entry: KeyEntry, key: Uint8Array, keyLength: number): boolean {
  if (entry.keyLength !== keyLength) return false;
  const own = entry.key;
  for (let i = 0; i < keyLength; i++) if (own[i] !== key[i]) return false;
  return true;
}

function compareEntries(a: KeyEntry, b: KeyEntry): number {
  return a.key.compare(b.key, 0, b.keyLength, 0, a.keyLength);
}

/** Index of the first entry whose key is not below the bound. */
function lowerBound(sorted: readonly KeyEntry[], bound: Buffer): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const { key, keyLength } = sorted[middle]!;
    if (key.compare(bound, 0, bound.length, 0, keyLength) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
