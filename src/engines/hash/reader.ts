/**
 * Point reads of a hash table: the bucket's word, then its nodes, without a lock. See format.ts and the heads of the two writers.
 *
 * A key that is not found is looked for again if there are more buckets than before: its node may have been cut off while the search stood
 * before it. Threads: any, one per thread, between pin and unpin.
 */
import { hashBytes } from '../../shared/hash.js';
import {
  HEADER_UNITS,
  SEGMENT_UNIT_SHIFT,
  PAGE_BIRTH_LOW_WORD,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import { NodeReader } from '../cells/node-reader.js';
import {
  ADDRESS_UNIT_SHIFT,
  corruptNode,
  nodeLimit,
  nodeOffset,
  nodeSegment,
  nodeWord,
  pageWord,
} from '../cells/node.js';
import { CELL_LENGTHS_OFFSET, CellFlag, corruptPage, readVarint, skipVarint } from '../btree/page.js';
import { EngineCode } from '../engine.js';
import {
  BUCKETS_MAX,
  BUCKET_COUNT_WORD,
  CELL_OFFSET,
  FIRST_BUCKETS,
  FIRST_BUCKET_WORD,
  HASH_LINK,
  INDEX_WORD,
  NEXT_LINK,
  PAGE_FIRST_WORD,
  PAGE_SLOTS,
  TABLE_SEED,
  bucketOf,
} from './format.js';

/** Where a table's buckets are, as this thread has learnt it. */
export class BucketMap {
  readonly #arena: ArenaReader;
  #descriptor: UnitId = 0;
  #birth = 0;
  /** Units of bucket pages; 0 not looked up yet. */
  #pages = new Int32Array(16);
  #words: Int32Array;
  #word = 0;

  constructor(arena: ArenaReader) {
    this.#arena = arena;
    this.#words = arena.i32[0]!;
  }

  /** The table's descriptor may be another one's page by now. */
  open(descriptor: UnitId): void {
    const words = this.#arena.i32[descriptor >>> SEGMENT_UNIT_SHIFT]!;
    const word = pageWord(descriptor);
    const birth = words[word + PAGE_BIRTH_LOW_WORD]!;
    if (descriptor === this.#descriptor && birth === this.#birth) return;
    this.#descriptor = descriptor;
    this.#birth = birth;
    this.#pages.fill(0);
    this.#words = words;
    this.#word = word;
  }

  get buckets(): number {
    const buckets = Atomics.load(this.#words, this.#word + BUCKET_COUNT_WORD);
    if (!(buckets >= FIRST_BUCKETS && buckets <= BUCKETS_MAX)) {
      throw corruptPage(this.#descriptor, `a hash table of ${buckets} buckets`);
    }
    return buckets;
  }

  /** The first node of the bucket, 0 if it is empty. */
  first(bucket: number): number {
    if (bucket < FIRST_BUCKETS) return Atomics.load(this.#words, this.#word + FIRST_BUCKET_WORD + bucket);
    const index = bucket - FIRST_BUCKETS;
    const page = (index / PAGE_SLOTS) | 0;
    const unit = (page < this.#pages.length ? this.#pages[page]! : 0) || this.#lookUp(page);
    return Atomics.load(
      this.#arena.i32[unit >>> SEGMENT_UNIT_SHIFT]!,
      pageWord(unit) + PAGE_FIRST_WORD + index - page * PAGE_SLOTS,
    );
  }

  #lookUp(page: number): UnitId {
    if (page >= this.#pages.length) {
      const grown = new Int32Array(Math.max(this.#pages.length * 2, page + 1));
      grown.set(this.#pages);
      this.#pages = grown;
    }
    const indexPage = (page / PAGE_SLOTS) | 0;
    const index = this.#checked(Atomics.load(this.#words, this.#word + INDEX_WORD + indexPage) >>> 0);
    const words = this.#arena.i32[index >>> SEGMENT_UNIT_SHIFT]!;
    const at = pageWord(index) + PAGE_FIRST_WORD + (page - indexPage * PAGE_SLOTS);
    const unit = this.#checked(Atomics.load(words, at) >>> 0);
    this.#pages[page] = unit;
    return unit;
  }

  #checked(unit: UnitId): UnitId {
    if (!(unit >= HEADER_UNITS && unit < this.#arena.totalUnits)) throw corruptPage(unit, 'not a page of buckets');
    return unit;
  }
}

export class HashReader extends NodeReader {
  readonly #buckets: BucketMap;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.hash, slot, false);
    this.#buckets = new BucketMap(arena);
  }

  protected cellOffset(): number {
    return CELL_OFFSET;
  }

  protected lookup(descriptor: UnitId, key: Uint8Array, keyLength: number): number {
    this.#buckets.open(descriptor);
    return lookUp(this.arena, this.#buckets, key, keyLength);
  }
}

/** The node with the key, or 0. */
export function lookUp(arena: ArenaReader, map: BucketMap, key: Uint8Array, keyLength: number): number {
  const hash = hashBytes(key, 0, keyLength, TABLE_SEED);
  const { totalUnits } = arena;
  let buckets = map.buckets;
  for (;;) {
    let node = map.first(bucketOf(hash, buckets));
    for (let steps = 0; node !== 0; steps++) {
      const unit = node >>> ADDRESS_UNIT_SHIFT;
      if (!(unit >= HEADER_UNITS && unit < totalUnits)) throw corruptNode(node, 'not in the arena');
      const words = arena.i32[nodeSegment(node)]!;
      const word = nodeWord(node);
      if (words[word + HASH_LINK] === hash && isKeyOf(arena, node, key, keyLength)) return node;
      if (steps > totalUnits * 512) throw corruptNode(node, 'its bucket goes round');
      node = Atomics.load(words, word + NEXT_LINK);
    }
    const now = map.buckets;
    if (now === buckets) return 0;
    buckets = now;
  }
}

function isKeyOf(arena: ArenaReader, node: number, key: Uint8Array, keyLength: number): boolean {
  const u8 = arena.u8[nodeSegment(node)]!;
  const offset = nodeOffset(node);
  const cell = offset + CELL_OFFSET;
  let at = cell + CELL_LENGTHS_OFFSET + ((u8[cell]! & CellFlag.Expiry) >> 2) * 6;
  at = skipVarint(u8, at);
  let ownLength = u8[at]!;
  if (ownLength < 0x80) at++;
  else {
    ownLength = readVarint(u8, at);
    at = skipVarint(u8, at);
  }
  if (ownLength !== keyLength) return false;
  if (!(at + keyLength <= nodeLimit(offset))) throw corruptNode(node, 'a cell reaches beyond its page');
  for (let index = 0; index < keyLength; index++) {
    if (u8[at + index] !== key[index]) return false;
  }
  return true;
}
