/**
 * A cache of file blocks in shared memory, for all threads and shards: pages of paged trees, blocks of sorted tables.
 *
 *   stripe     ┌─ control ─┬─ index ─┬─ heat ─┬─ ghosts ─┬─ small ring ─┬─ main ring ───────────────────┐
 *   (one of n, by the      │ 8 entries                   │ ▸tail …… head▸                               │
 *    key's hash)           │ a line                      │ [header · block][header · block] …           │
 *
 * A key is (file, block), two u32; whoever makes files sees to it that no two have one number (see fileKey of each user). A block is 1 byte to
 * BLOCK_BYTES_MAX and never changes.
 *
 * Replacement is S3-FIFO: new blocks go through the small ring (a tenth); what is read again there moves to the main ring, the rest leaves only its
 * hash behind (a ghost). A block whose ghost is met goes straight to the main ring, which gives read blocks further rounds. So one long scan passes
 * through the small ring and leaves the main one alone. Rings are logs: blocks of any sizes lie one after another and nothing is ever in pieces.
 *
 * Reading takes no lock: entry (or the place that a reader remembers), header, copy, and then a look whether the ring's tail has passed the block meanwhile
 * (the tail moves before anything is overwritten). Where it lies is stored in a block's header when the block is whole, and the entry last, so a half-written
 * block is never found. Inserting takes the stripe's lock or, if another thread has it, does not insert: a cache may forget. A thread that dies inside leaves the
 * lock behind; until recover() has emptied its stripe, that stripe is read-only.
 *
 * Threads: any; one PageCache object per thread and layout. Nothing here waits.
 */
import { ConcordError, invalidArgument } from '../errors.js';
import type { OwnerId } from './lock-owner.js';

const CACHE_BYTES_MIN = 256 * 1024;
export const BLOCK_BYTES_MAX = 64 * 1024;

/** Structured-cloneable: pass it to other threads. */
export interface PageCacheLayout {
  readonly stripes: SharedArrayBuffer[];
}

export interface PageCacheStats {
  /** Of the shared memory, bookkeeping included. */
  readonly bytes: number;
  /** Of blocks, and what lies between them. */
  readonly usedBytes: number;
  readonly hits: number;
  readonly misses: number;
  readonly insertions: number;
  /** Blocks that had to go. */
  readonly evictions: number;
  /** Insertions that another thread was in the way of. */
  readonly skipped: number;
}

/** Control words of a stripe; what many threads write has its own line. */
const MAGIC_WORD = 0;
const INDEX_MASK_WORD = 1;
const GHOST_MASK_WORD = 2;
const SMALL_GRANULES_WORD = 3;
const MAIN_GRANULES_WORD = 4;
const LOCK_WORD = 16;
const SMALL_HEAD_WORD = 17;
const MAIN_HEAD_WORD = 18;
const INSERTIONS_WORD = 19;
const EVICTIONS_WORD = 20;
const SMALL_TAIL_WORD = 32;
const MAIN_TAIL_WORD = 33;
const HITS_WORD = 48;
const MISSES_WORD = 49;
const SKIPPED_WORD = 50;
const CONTROL_WORDS = 64;

const MAGIC = 0x43764b43; // "CKvC"
const BUCKET_ENTRIES = 8;
const BUCKET_WORDS = 2 * BUCKET_ENTRIES;
/** Ring positions count these; a block starts at one. */
const GRANULE_BYTES = 32;
const GRANULE_WORDS = GRANULE_BYTES / 4;
const HEADER_BYTES = 32;

/** Words of a block's header: file · block · length · entry · granules · where · tag · 0. A filler at the ring's end has length 0. */
const FILE = 0;
const BLOCK = 1;
const LENGTH = 2;
const ENTRY = 3;
const GRANULES = 4;
const WHERE = 5;
const TAG = 6;

/** Top bit of a position in the index: which ring. */
const MAIN = 0x80000000;
const POSITION_MASK = 0x7fffffff;
const HEAT_MAX = 3;
/** Rounds that an insertion gives to other blocks before it takes room regardless. */
const ROUNDS_MAX = 32;
const STRIPE_BYTES_MIN = 1 << 20;
const STRIPE_BYTES_MAX = 1 << 30;
const STRIPE_COUNT_MAX = 64;
const SMALL_SHARE = 10;
/** Most blocks are that large, or larger: the index has room for as many as fit. */
const SMALL_BLOCK_BYTES = 1024;

interface StripeSizes {
  readonly buckets: number;
  readonly ghosts: number;
  readonly smallGranules: number;
  readonly mainGranules: number;
}

function powerOfTwoUpTo(value: number): number {
  return 2 ** Math.floor(Math.log2(value));
}

function sizesOf(bytes: number): StripeSizes {
  // Room for half as many blocks of 1 KiB again as fit: buckets do not fill evenly.
  const buckets = 2 ** Math.ceil(Math.log2(Math.max(16, (1.5 * bytes) / SMALL_BLOCK_BYTES / BUCKET_ENTRIES)));
  const ghosts = powerOfTwoUpTo(Math.max(64, bytes / SMALL_BLOCK_BYTES));
  const overhead = CONTROL_WORDS * 4 + buckets * (BUCKET_WORDS * 4 + BUCKET_ENTRIES) + ghosts * 4;
  const granules = Math.floor((bytes - overhead) / GRANULE_BYTES);
  const smallGranules = Math.floor(granules / SMALL_SHARE);
  return { buckets, ghosts, smallGranules, mainGranules: granules - smallGranules };
}

/** Shared memory for a cache of about that many bytes, all of it counted. Costs address space at once, memory when used. */
export function createPageCache(options: { readonly bytes: number }): PageCacheLayout {
  const { bytes } = options;
  if (!(bytes >= CACHE_BYTES_MIN && bytes <= STRIPE_COUNT_MAX * STRIPE_BYTES_MAX)) {
    throw invalidArgument(
      `a page cache has ${CACHE_BYTES_MIN} to ${STRIPE_COUNT_MAX * STRIPE_BYTES_MAX} bytes, not ${bytes}`,
    );
  }
  const count = Math.min(STRIPE_COUNT_MAX, powerOfTwoUpTo(Math.max(1, bytes / STRIPE_BYTES_MIN)));
  const stripeBytes = Math.floor(bytes / count / GRANULE_BYTES) * GRANULE_BYTES;
  const sizes = sizesOf(stripeBytes);
  const stripes: SharedArrayBuffer[] = [];
  for (let index = 0; index < count; index++) {
    const stripe = new SharedArrayBuffer(stripeBytes);
    const words = new Int32Array(stripe, 0, CONTROL_WORDS);
    words[INDEX_MASK_WORD] = sizes.buckets - 1;
    words[GHOST_MASK_WORD] = sizes.ghosts - 1;
    words[SMALL_GRANULES_WORD] = sizes.smallGranules;
    words[MAIN_GRANULES_WORD] = sizes.mainGranules;
    words[MAGIC_WORD] = MAGIC;
    stripes.push(stripe);
  }
  return { stripes };
}

export class PageCache {
  readonly layout: PageCacheLayout;
  readonly #stripes: Stripe[];
  readonly #shift: number;
  /** What locate() found: the block is foundBytes[foundAt, foundAt + its length). */
  foundBytes: Uint8Array;
  /** The same memory. */
  foundWords: Int32Array;
  foundAt = 0;
  /** Where the last insert() that took the block put it, or found it: a place for locate(). */
  insertedPlace = 0;
  #foundIn: Stripe;

  /** `owner`: the thread, for recover(). Each thread that inserts has its own. */
  constructor(layout: PageCacheLayout, owner: OwnerId) {
    this.layout = layout;
    this.#stripes = layout.stripes.map((stripe) => new Stripe(stripe, owner));
    this.#shift = 32 - Math.log2(layout.stripes.length);
    this.#foundIn = this.#stripes[0]!;
    this.foundBytes = this.#foundIn.bytes;
    this.foundWords = this.#foundIn.words;
  }

  /**
   * Where the block lies in shared memory, to look at it there without a copy; returns its length, 0: it is not here. Any moment it may become something else:
   * whoever looks must survive any bytes, copy what is needed, and believe it only if confirm() says so afterwards. Each locate() that found something
   * is followed by one confirm(). expectedBytes: about its length, if it is known: then its end comes from memory while its head is looked at.
   * place: foundPlace of another time, or any number. If the block is still there, the index is not looked at: good for blocks that are never forgotten.
   */
  locate(file: number, block: number, expectedBytes = 0, place = 0): number {
    const hash = hashOf(file, block);
    const stripe = this.#stripeOf(hash);
    const length = stripe.locate(hash, file, block, expectedBytes, place);
    if (length !== 0) {
      this.#foundIn = stripe;
      this.foundBytes = stripe.bytes;
      this.foundWords = stripe.words;
      this.foundAt = stripe.foundAt;
    }
    return length;
  }

  /** Where locate() found the block, never 0: for the next time. */
  get foundPlace(): number {
    return this.#foundIn.foundWhere + 1;
  }

  /** Whether the block that locate() found last was there, whole, until now. */
  confirm(): boolean {
    return this.#foundIn.confirm();
  }

  /** Copies the block to into[at …] and returns its length; 0 if it is not here, and then what stands there is anything. */
  read(file: number, block: number, into: Uint8Array, at: number): number {
    const hash = hashOf(file, block);
    return this.#stripeOf(hash).read(hash, file, block, into, at);
  }

  /** False if it was not taken: too large, or another thread is inserting just now. */
  insert(file: number, block: number, bytes: Uint8Array, at: number, length: number): boolean {
    const hash = hashOf(file, block);
    const stripe = this.#stripeOf(hash);
    const isTaken = stripe.insert(hash, file, block, bytes, at, length);
    if (isTaken) this.insertedPlace = stripe.insertedWhere + 1;
    return isTaken;
  }

  /** Counts a read that did not ask for the block, since nobody has noted that it is here. */
  countMiss(file: number, block: number): void {
    this.#stripeOf(hashOf(file, block)).countMiss();
  }

  /** The block's place in the file is to hold something else. Whoever could still insert the old one must have gone. */
  forget(file: number, block: number): void {
    const hash = hashOf(file, block);
    this.#stripeOf(hash).forget(hash, file, block);
  }

  stats(): PageCacheStats {
    const sum = { bytes: 0, usedBytes: 0, hits: 0, misses: 0, insertions: 0, evictions: 0, skipped: 0 };
    for (const stripe of this.#stripes) stripe.addStats(sum);
    return sum;
  }

  /** After a thread's death: empties the stripes it was inserting into. Returns how many there were. */
  static recover(layout: PageCacheLayout, dead: OwnerId): number {
    let recovered = 0;
    for (const stripe of layout.stripes) if (new Stripe(stripe, dead).recover()) recovered++;
    return recovered;
  }

  #stripeOf(hash: number): Stripe {
    // A shift by 32 would be one by 0.
    return this.#stripes.length === 1 ? this.#stripes[0]! : this.#stripes[hash >>> this.#shift]!;
  }
}

/** Stripes take its high bits, buckets its low ones. */
function hashOf(file: number, block: number): number {
  let hash = Math.imul(file ^ 0x636f6e63, 0xcc9e2d51);
  hash = (hash << 15) | (hash >>> 17);
  hash = (Math.imul(hash, 0x1b873593) ^ block) | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** What an entry remembers of the key; never 0, which is an empty entry. */
function tagOf(hash: number, file: number, block: number): number {
  return (Math.imul(hash, 0x9e3779b1) ^ Math.imul(file + 0x7f4a7c15, 0x85ebca6b) ^ block) >>> 0 || 1;
}

/** Two halves of a ring's state: where its head and tail stand, and where it lies. */
interface Ring {
  readonly flag: number;
  readonly granules: number;
  /** Positions are counted modulo this: a multiple of the ring's size. */
  readonly modulus: number;
  /** First word of the ring. */
  readonly firstWord: number;
  readonly headWord: number;
  readonly tailWord: number;
}

class Stripe {
  readonly #owner: OwnerId;
  readonly #u32: Uint32Array;
  readonly #i32: Int32Array;
  readonly #u8: Uint8Array;
  readonly #indexMask: number;
  /** Entries are a power of two. */
  readonly #entryMask: number;
  readonly #ghostMask: number;
  readonly #ghostWord: number;
  readonly #heatAt: number;
  readonly #small: Ring;
  readonly #main: Ring;
  readonly #blockBytesMax: number;
  /** A block on its way from one place to another. */
  #moved: Uint8Array | undefined;
  #movedAgain: Uint8Array | undefined;
  #rounds = 0;
  /** Where insert() has put the block, or found it. */
  insertedWhere = 0;
  /** Where the block lies that #find() found, the word of its header, and how often it was read, with the place of that. */
  foundWhere = 0;
  #foundHeader = 0;
  #foundHeat = 0;
  #foundHeatAt = 0;
  /** Its first byte, after locate(). */
  foundAt = 0;
  /** Nobody reads it: loads whose result is used are made. */
  touched = 0;

  constructor(buffer: SharedArrayBuffer, owner: OwnerId) {
    this.#owner = owner;
    this.#u32 = new Uint32Array(buffer);
    this.#i32 = new Int32Array(buffer);
    this.#u8 = new Uint8Array(buffer);
    const words = this.#u32;
    if (words[MAGIC_WORD] !== MAGIC) throw new ConcordError('ERR_FORMAT_VERSION', 'page cache: unknown layout');
    this.#indexMask = words[INDEX_MASK_WORD]!;
    this.#entryMask = BUCKET_ENTRIES * (this.#indexMask + 1) - 1;
    this.#ghostMask = words[GHOST_MASK_WORD]!;
    const smallGranules = words[SMALL_GRANULES_WORD]!;
    const mainGranules = words[MAIN_GRANULES_WORD]!;
    const buckets = this.#indexMask + 1;
    const ghosts = this.#ghostMask + 1;
    this.#ghostWord = CONTROL_WORDS + buckets * BUCKET_WORDS;
    this.#heatAt = (this.#ghostWord + ghosts) * 4;
    // Rings start at a multiple of a granule: the counts of buckets and ghosts are powers of two above it.
    const firstWord = (this.#heatAt + buckets * BUCKET_ENTRIES) >>> 2;
    this.#small = {
      flag: 0,
      granules: smallGranules,
      modulus: Math.floor(POSITION_MASK / smallGranules) * smallGranules,
      firstWord,
      headWord: SMALL_HEAD_WORD,
      tailWord: SMALL_TAIL_WORD,
    };
    this.#main = {
      flag: MAIN,
      granules: mainGranules,
      modulus: Math.floor(POSITION_MASK / mainGranules) * mainGranules,
      firstWord: firstWord + smallGranules * GRANULE_WORDS,
      headWord: MAIN_HEAD_WORD,
      tailWord: MAIN_TAIL_WORD,
    };
    this.#blockBytesMax = Math.min(BLOCK_BYTES_MAX, (mainGranules >>> 2) * GRANULE_BYTES - HEADER_BYTES);
  }

  read(hash: number, file: number, block: number, into: Uint8Array, at: number): number {
    const words = this.#u32;
    const entry = this.#find(hash, file, block);
    if (entry >= 0) {
      const header = this.#foundHeader;
      const length = words[header + LENGTH]!;
      // Anything may stand there by now: it is only looked at, and not beyond the ring.
      if (length <= into.length - at && header * 4 + HEADER_BYTES + length <= this.#u8.length) {
        const start = header * 4 + HEADER_BYTES;
        into.set(this.#u8.subarray(start, start + length), at);
        return this.confirm() && length > 0 ? length : 0;
      }
    }
    this.countMiss();
    return 0;
  }

  get bytes(): Uint8Array {
    return this.#u8;
  }

  get words(): Int32Array {
    return this.#i32;
  }

  /** 0: not here. */
  locate(hash: number, file: number, block: number, expectedBytes: number, place: number): number {
    const isThere = place !== 0 && this.#isAt(place - 1, file, block, expectedBytes);
    if (isThere || this.#find(hash, file, block, expectedBytes) >= 0) {
      const header = this.#foundHeader;
      const length = this.#u32[header + LENGTH]!;
      const start = header * 4 + HEADER_BYTES;
      if (length > 0 && start + length <= this.#u8.length) {
        this.foundAt = start;
        return length;
      }
    }
    this.countMiss();
    return 0;
  }

  confirm(): boolean {
    // A full fence too: what was read was read before the tail is looked at.
    Atomics.add(this.#i32, HITS_WORD, 1);
    if (!this.#isLive(this.foundWhere)) {
      Atomics.sub(this.#i32, HITS_WORD, 1);
      Atomics.add(this.#i32, MISSES_WORD, 1);
      return false;
    }
    if (this.#foundHeat < HEAT_MAX) this.#u8[this.#foundHeatAt] = this.#foundHeat + 1;
    return true;
  }

  insert(hash: number, file: number, block: number, bytes: Uint8Array, at: number, length: number): boolean {
    if (length < 1 || length > this.#blockBytesMax) return false;
    const control = this.#i32;
    if (Atomics.compareExchange(control, LOCK_WORD, 0, this.#owner) !== 0) {
      Atomics.add(control, SKIPPED_WORD, 1);
      return false;
    }
    try {
      if (this.#find(hash, file, block) < 0) this.#insert(hash, file, block, bytes, at, length);
      else this.insertedWhere = this.foundWhere;
      return true;
    } catch (error) {
      // Half done: as if the thread had died here.
      this.#empty();
      throw error;
    } finally {
      Atomics.store(control, LOCK_WORD, 0);
    }
  }

  countMiss(): void {
    Atomics.add(this.#i32, MISSES_WORD, 1);
  }

  forget(hash: number, file: number, block: number): void {
    const tag = tagOf(hash, file, block);
    const first = this.#bucketWord(hash);
    for (let word = first; word < first + BUCKET_WORDS; word += 2) {
      // Another key with the same tag would go too: nobody is harmed.
      if (this.#u32[word] === tag) Atomics.compareExchange(this.#u32, word, tag, 0);
    }
  }

  recover(): boolean {
    if (Atomics.load(this.#i32, LOCK_WORD) !== this.#owner) return false;
    this.#empty();
    Atomics.store(this.#i32, LOCK_WORD, 0);
    return true;
  }

  addStats(sum: { -readonly [Name in keyof PageCacheStats]: number }): void {
    const words = this.#u32;
    sum.bytes += this.#u8.length;
    sum.usedBytes += (this.#used(this.#small) + this.#used(this.#main)) * GRANULE_BYTES;
    sum.hits += words[HITS_WORD]!;
    sum.misses += words[MISSES_WORD]!;
    sum.insertions += words[INSERTIONS_WORD]!;
    sum.evictions += words[EVICTIONS_WORD]!;
    sum.skipped += words[SKIPPED_WORD]!;
  }

  #bucketWord(hash: number): number {
    return CONTROL_WORDS + (hash & this.#indexMask) * BUCKET_WORDS;
  }

  #entryWord(entry: number): number {
    return CONTROL_WORDS + 2 * entry;
  }

  #headerWord(where: number): number {
    const ring = where >= MAIN ? this.#main : this.#small;
    return ring.firstWord + ((where & POSITION_MASK) % ring.granules) * GRANULE_WORDS;
  }

  /** Whether the ring's tail has not passed the position. */
  #isLive(where: number): boolean {
    const ring = where >= MAIN ? this.#main : this.#small;
    const ahead = (where & POSITION_MASK) - Atomics.load(this.#u32, ring.tailWord);
    return (ahead < 0 ? ahead + ring.modulus : ahead) < ring.granules;
  }

  #used(ring: Ring): number {
    const used = this.#u32[ring.headWord]! - this.#u32[ring.tailWord]!;
    return used < 0 ? used + ring.modulus : used;
  }

  /** Entry that leads to the key's block, as far as can be told without a lock; -1 if there is none. */
  #find(hash: number, file: number, block: number, expectedBytes = 0): number {
    const words = this.#u32;
    const tag = tagOf(hash, file, block);
    const first = this.#bucketWord(hash);
    for (let word = first; word < first + BUCKET_WORDS; word += 2) {
      if (words[word] !== tag) continue;
      const where = Atomics.load(words, word + 1);
      if (this.#isAt(where, file, block, expectedBytes)) return (word - CONTROL_WORDS) >>> 1;
    }
    return -1;
  }

  /** Whether the key's block is there, as far as can be told without a lock. */
  #isAt(where: number, file: number, block: number, expectedBytes: number): boolean {
    const words = this.#u32;
    const header = this.#headerWord(where);
    // Neither load waits for what the header says.
    if (expectedBytes > 0) {
      const first = header + HEADER_BYTES / 4;
      this.touched = words[first + (expectedBytes >>> 3)]! ^ words[first + (expectedBytes >>> 2) - 4]!;
    }
    const isThere =
      words[header + FILE] === file &&
      words[header + BLOCK] === block &&
      words[header + WHERE] === where &&
      this.#isLive(where);
    if (!isThere) return false;
    this.foundWhere = where;
    this.#foundHeader = header;
    // Now, so that its load does not wait behind the fence of confirm(). The entry is anything if another block has come here meanwhile.
    this.#foundHeatAt = this.#heatAt + (words[header + ENTRY]! & this.#entryMask);
    this.#foundHeat = this.#u8[this.#foundHeatAt]!;
    return true;
  }

  // ---- with the lock ------------------------------------------------------------------------------------------------------------

  #insert(hash: number, file: number, block: number, bytes: Uint8Array, at: number, length: number): void {
    const words = this.#u32;
    const tag = tagOf(hash, file, block);
    const granules = Math.ceil((HEADER_BYTES + length) / GRANULE_BYTES);
    const ghost = this.#ghostWord + (tag & this.#ghostMask);
    const isKnown = words[ghost] === tag;
    if (isKnown) words[ghost] = 0;
    this.#rounds = 0;
    const ring = isKnown || 2 * granules > this.#small.granules ? this.#main : this.#small;
    const where = this.#makeRoom(ring, granules);
    const entry = this.#entryFor(hash);
    const header = this.#headerWord(where);
    words[header + FILE] = file;
    words[header + BLOCK] = block;
    words[header + LENGTH] = length;
    words[header + ENTRY] = entry;
    words[header + GRANULES] = granules;
    words[header + TAG] = tag;
    this.#u8.set(bytes.subarray(at, at + length), header * 4 + HEADER_BYTES);
    // Whoever has been here before finds it from now on.
    Atomics.store(words, header + WHERE, where);
    this.#advance(ring, ring.headWord, granules);
    this.#u8[this.#heatAt + entry] = 0;
    const word = this.#entryWord(entry);
    Atomics.store(words, word, 0);
    Atomics.store(words, word + 1, where);
    Atomics.store(words, word, tag);
    words[INSERTIONS_WORD]!++;
    this.insertedWhere = where;
  }

  /** An entry of the bucket that is free, or leads to a block that is gone; else the one read least. */
  #entryFor(hash: number): number {
    const words = this.#u32;
    const first = this.#bucketWord(hash);
    let coldest = -1;
    let coldestHeat = Infinity;
    for (let word = first; word < first + BUCKET_WORDS; word += 2) {
      const entry = (word - CONTROL_WORDS) >>> 1;
      if (words[word] === 0 || !this.#isLive(words[word + 1]!)) return entry;
      const heat = this.#u8[this.#heatAt + entry]! + (words[word + 1]! >= MAIN ? HEAT_MAX : 0);
      if (heat < coldestHeat) {
        coldest = entry;
        coldestHeat = heat;
      }
    }
    words[EVICTIONS_WORD]!++;
    return coldest;
  }

  /** Where a block of so many granules can be written at the ring's head, with the ring's flag. */
  #makeRoom(ring: Ring, granules: number): number {
    const words = this.#u32;
    for (;;) {
      const head = words[ring.headWord]!;
      const toEnd = ring.granules - (head % ring.granules);
      const filler = granules <= toEnd ? 0 : toEnd;
      if (ring.granules - this.#used(ring) >= granules + filler) {
        if (filler > 0) {
          const header = ring.firstWord + (head % ring.granules) * GRANULE_WORDS;
          words[header + LENGTH] = 0;
          words[header + GRANULES] = filler;
          words[header + WHERE] = (head | ring.flag) >>> 0;
          this.#advance(ring, ring.headWord, filler);
        }
        return (words[ring.headWord]! | ring.flag) >>> 0;
      }
      this.#evict(ring);
    }
  }

  #advance(ring: Ring, word: number, granules: number): void {
    const next = this.#u32[word]! + granules;
    Atomics.store(this.#u32, word, next >= ring.modulus ? next - ring.modulus : next);
  }

  /** Takes the block at the tail out, or on to the main ring's head. */
  #evict(ring: Ring): void {
    const words = this.#u32;
    const header = ring.firstWord + (words[ring.tailWord]! % ring.granules) * GRANULE_WORDS;
    const granules = words[header + GRANULES]!;
    const entry = words[header + ENTRY]!;
    const word = this.#entryWord(entry);
    const where = words[header + WHERE]!;
    const isUsed = words[header + LENGTH] !== 0 && words[word] === words[header + TAG] && words[word + 1] === where;
    const heat = isUsed ? this.#u8[this.#heatAt + entry]! : 0;
    const main = this.#main;
    let stays = heat > 0 && this.#rounds < ROUNDS_MAX;
    // As long as the main ring has room, nothing is lost.
    if (ring !== main) stays ||= isUsed && main.granules - this.#used(main) >= 2 * granules;
    if (!stays) {
      if (isUsed) {
        Atomics.store(words, word, 0);
        words[EVICTIONS_WORD]!++;
        if (ring !== main) words[this.#ghostWord + (words[header + TAG]! & this.#ghostMask)] = words[header + TAG]!;
      }
      this.#passTail(ring, granules);
      return;
    }
    const bytes = granules * GRANULE_BYTES;
    const copy = ring === main ? (this.#movedAgain ??= this.#newCopy()) : (this.#moved ??= this.#newCopy());
    copy.set(this.#u8.subarray(header * 4, header * 4 + bytes));
    this.#passTail(ring, granules);
    if (ring === main) {
      this.#rounds++;
      // Its own room is free now; if the ring's end is in the way, it has had its time.
      const head = words[main.headWord]!;
      if (granules > main.granules - (head % main.granules)) {
        Atomics.store(words, word, 0);
        words[EVICTIONS_WORD]!++;
        return;
      }
    }
    const to = this.#makeRoom(main, granules);
    const target = this.#headerWord(to);
    this.#u8.set(copy.subarray(0, bytes), target * 4);
    Atomics.store(words, target + WHERE, to);
    this.#advance(main, main.headWord, granules);
    this.#u8[this.#heatAt + entry] = ring === main ? heat - 1 : 0;
    // The entry may have gone to another key while room was made.
    if (words[word] === words[target + TAG] && words[word + 1] === where) Atomics.store(words, word + 1, to);
  }

  /** Readers see the new tail before anything behind it is overwritten. */
  #passTail(ring: Ring, granules: number): void {
    this.#advance(ring, ring.tailWord, granules);
    Atomics.exchange(this.#i32, LOCK_WORD, this.#owner);
    Atomics.load(this.#i32, LOCK_WORD);
  }

  #newCopy(): Uint8Array {
    return new Uint8Array(BLOCK_BYTES_MAX + 2 * GRANULE_BYTES);
  }

  #empty(): void {
    const words = this.#u32;
    for (let entry = 0; entry < (this.#indexMask + 1) * BUCKET_ENTRIES; entry++) {
      Atomics.store(words, this.#entryWord(entry), 0);
    }
    for (const ring of [this.#small, this.#main]) {
      // Not from the start again: a slow reader's position must stay behind the tail.
      const head = words[ring.headWord]!;
      const next = (Math.floor(head / ring.granules) + 1) * ring.granules;
      const from = next >= ring.modulus ? 0 : next;
      Atomics.store(words, ring.headWord, from);
      Atomics.store(words, ring.tailWord, from);
    }
  }
}
