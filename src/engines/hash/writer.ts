/**
 * The hash table's writer. How buckets grow and in which order nodes stand is in format.ts; versions, groups and memory in cells/node-writer.ts.
 *
 * Growing. There are three buckets for two keys (one for one made reads of a million keys 8 % slower, two for one no faster). A new key splits one
 * bucket or two, each of which means to look at its nodes and to store three words: no pause, nothing is moved or copied. The steps of a split: (1) the new bucket leads to the first node that is its own, (2) there is one bucket more, (3) the
 * old bucket's list ends before that node. A reader that counted the buckets before (2) and ran into the end made by (3) finds the key absent; it
 * counts again, sees (2), and looks once more. A writer that dies between (2) and (3) leaves a node on two ways; its successor does (3).
 * The table never shrinks: 4 bytes per bucket stay for the most keys there ever were.
 *
 * Deleting is one store in the list: no tombstone stays in the table, except while a snapshot or an unpublished group needs what it hides.
 * Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import { hashBytes } from '../../shared/hash.js';
import { SEGMENT_UNIT_SHIFT, type ArenaWriter, type UnitId } from '../../shared/memory/arena.js';
import { corruptPage } from '../btree/page.js';
import { EngineCode, type EngineMetrics } from '../engine.js';
import { checkAddress, corruptNode, nodeSegment, nodeWord, pageWord } from '../cells/node.js';
import { NodeEngineWriter, compareBytes } from '../cells/node-writer.js';
import {
  BUCKETS_MAX,
  BUCKET_COUNT_WORD,
  CELL_OFFSET,
  FIRST_BUCKETS,
  FIRST_BUCKET_WORD,
  HASH_LINK,
  INDEX_WORD,
  LINK_WORDS,
  NEXT_LINK,
  PAGE_FIRST_WORD,
  PAGE_SLOTS,
  TABLE_SEED,
  bitsOf,
  bucketOf,
  reverseBits,
} from './format.js';

const NO_BYTES = new Uint8Array(0);
const BUCKETS_PER_TWO_KEYS = 3;

export class HashWriter extends NodeEngineWriter {
  #buckets = 0;
  /** Units of the bucket pages. */
  #bucketPages = new Int32Array(64);
  #bucketPageCount = 0;
  #splits = 0;

  // The place of the last locate(): the word that leads to the node that is at or behind the key.
  #placeWords: Int32Array;
  #placeWord = 0;
  #placeNode = 0;
  #placeHash = 0;

  /** Where nextNode() goes on. */
  #walkNode = 0;

  constructor(arena: ArenaWriter, row: number, spaceId: number) {
    super(arena, row, spaceId, {
      code: EngineCode.hash,
      linkWordsMax: LINK_WORDS,
      isLocked: false,
      isOrdered: false,
    });
    this.#placeWords = arena.i32[0]!;
    this.openRow();
  }

  /** Buckets now. */
  get buckets(): number {
    return this.#buckets;
  }

  // ---- structure ----------------------------------------------------------------------------------------------------------------

  protected linkWordsFor(): number {
    return LINK_WORDS;
  }

  protected cellOffset(): number {
    return CELL_OFFSET;
  }

  protected locate(key: Uint8Array, keyStart: number, keyLength: number): number {
    const hash = hashBytes(key, keyStart, keyLength, TABLE_SEED);
    this.#placeHash = hash;
    return this.#locateFrom(bucketOf(hash, this.#buckets), hash, key, keyStart, keyLength);
  }

  /** The node with the key, or 0; the place is before the first node that is not before the key. */
  #locateFrom(bucket: number, hash: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    this.#goToBucket(bucket);
    let words = this.#placeWords;
    let word = this.#placeWord;
    let node = words[word]!;
    const { i32 } = this.arena;
    let found = 0;
    while (node !== 0) {
      const nodeWords = i32[nodeSegment(node)]!;
      const at = nodeWord(node);
      const nodeHash = nodeWords[at + HASH_LINK]!;
      if (nodeHash === hash) {
        const order = this.compareKey(node, key, keyStart, keyLength);
        if (order === 0) found = node;
        if (order >= 0) break;
      } else if (reverseBits(nodeHash) > reverseBits(hash)) break;
      words = nodeWords;
      word = at + NEXT_LINK;
      node = words[word]!;
    }
    this.#placeWords = words;
    this.#placeWord = word;
    this.#placeNode = node;
    return found;
  }

  protected insertNode(address: number): void {
    this.#linkBefore(address, this.#placeNode, this.#placeHash);
  }

  protected replaceNode(old: number, address: number): void {
    const words = this.arena.i32[nodeSegment(old)]!;
    this.#linkBefore(address, words[nodeWord(old) + NEXT_LINK]!, words[nodeWord(old) + HASH_LINK]!);
  }

  #linkBefore(address: number, next: number, hash: number): void {
    const words = this.arena.i32[nodeSegment(address)]!;
    const word = nodeWord(address);
    words[word + NEXT_LINK] = next;
    words[word + HASH_LINK] = hash;
    Atomics.store(this.#placeWords, this.#placeWord, address);
    this.#placeNode = address;
  }

  protected removeNode(old: number): void {
    const next = this.arena.i32[nodeSegment(old)]![nodeWord(old) + NEXT_LINK]!;
    Atomics.store(this.#placeWords, this.#placeWord, next);
    this.#placeNode = next;
  }

  // ---- buckets ------------------------------------------------------------------------------------------------------------------

  #goToBucket(bucket: number): void {
    let unit: UnitId = this.descriptor;
    let word = FIRST_BUCKET_WORD + bucket;
    if (bucket >= FIRST_BUCKETS) {
      const index = bucket - FIRST_BUCKETS;
      const page = (index / PAGE_SLOTS) | 0;
      unit = this.#bucketPages[page]!;
      word = PAGE_FIRST_WORD + index - page * PAGE_SLOTS;
    }
    this.#placeWords = this.arena.i32[unit >>> SEGMENT_UNIT_SHIFT]!;
    this.#placeWord = pageWord(unit) + word;
  }

  protected override beforeChange(): void {
    // At most two at a time: where memory was too short for buckets, the table catches up step by step.
    for (let splits = 0; splits < 2 && this.#wantsBucket(); splits++) this.#split();
  }

  #wantsBucket(): boolean {
    return this.keyCount * BUCKETS_PER_TWO_KEYS >= this.#buckets * 2 && !this.arena.reserveMode;
  }

  #split(): void {
    const bucket = this.#buckets;
    if (bucket >= BUCKETS_MAX || !this.#hasPageFor(bucket)) return;
    const half = 1 << (31 - Math.clz32(bucket));
    const [words, word] = this.#cutOf(bucket - half, half);
    const first = words[word]!;
    this.#goToBucket(bucket);
    Atomics.store(this.#placeWords, this.#placeWord, first);
    this.#storeBuckets(bucket + 1);
    if (first !== 0) Atomics.store(words, word, 0);
    this.#splits++;
  }

  #storeBuckets(buckets: number): void {
    this.#buckets = buckets;
    const { descriptor } = this;
    Atomics.store(
      this.arena.i32[descriptor >>> SEGMENT_UNIT_SHIFT]!,
      pageWord(descriptor) + BUCKET_COUNT_WORD,
      buckets,
    );
  }

  /** The word behind the bucket's nodes without the bit. */
  #cutOf(bucket: number, bit: number): [words: Int32Array, word: number] {
    this.#goToBucket(bucket);
    let words = this.#placeWords;
    let word = this.#placeWord;
    let steps = 0;
    for (let node = words[word]!; node !== 0; node = words[word]!) {
      checkAddress(this.arena, node);
      if (++steps > this.arena.totalUnits * 512) throw corruptNode(node, 'its bucket goes round');
      const nodeWords = this.arena.i32[nodeSegment(node)]!;
      const at = nodeWord(node);
      if ((nodeWords[at + HASH_LINK]! & bit) !== 0) break;
      words = nodeWords;
      word = at + NEXT_LINK;
    }
    return [words, word];
  }

  /** False if there is no memory for another page: then buckets stay longer. */
  #hasPageFor(bucket: number): boolean {
    if (bucket < FIRST_BUCKETS) return true;
    const page = Math.floor((bucket - FIRST_BUCKETS) / PAGE_SLOTS);
    if (page < this.#bucketPageCount) return true;
    const indexPage = Math.floor(page / PAGE_SLOTS);
    try {
      if (page % PAGE_SLOTS === 0 && this.#word(this.descriptor, INDEX_WORD + indexPage) === 0) {
        this.#setWord(this.descriptor, INDEX_WORD + indexPage, this.#newPage());
      }
      const unit = this.#newPage();
      this.#setWord(
        this.#word(this.descriptor, INDEX_WORD + indexPage),
        PAGE_FIRST_WORD + (page - indexPage * PAGE_SLOTS),
        unit,
      );
      this.#rememberPage(unit);
      return true;
    } catch (error) {
      if (error instanceof ConcordError && error.code === 'ERR_MEMORY_FULL') return false;
      throw error;
    }
  }

  #newPage(): UnitId {
    const unit = this.allocatePage(1);
    const word = pageWord(unit);
    this.arena.i32[unit >>> SEGMENT_UNIT_SHIFT]!.fill(0, word + PAGE_FIRST_WORD, word + PAGE_FIRST_WORD + PAGE_SLOTS);
    return unit;
  }

  #rememberPage(unit: UnitId): void {
    if (this.#bucketPageCount === this.#bucketPages.length) {
      const grown = new Int32Array(this.#bucketPages.length * 2);
      grown.set(this.#bucketPages);
      this.#bucketPages = grown;
    }
    this.#bucketPages[this.#bucketPageCount++] = unit;
  }

  #word(unit: UnitId, word: number): number {
    return this.arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + word]!;
  }

  #setWord(unit: UnitId, word: number, value: number): void {
    Atomics.store(this.arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!, pageWord(unit) + word, value);
  }

  protected override addGrowth(counts: number[], operations: number, deletesOnly: boolean): void {
    if (deletesOnly) return;
    const buckets = Math.max(this.#buckets, FIRST_BUCKETS) + 2 * operations - FIRST_BUCKETS;
    const wanted = Math.ceil(((this.keyCount + operations) * BUCKETS_PER_TWO_KEYS) / 2) + 2 - FIRST_BUCKETS;
    const pages = Math.ceil(Math.max(0, Math.min(buckets, wanted)) / PAGE_SLOTS);
    if (pages <= this.#bucketPageCount) return;
    counts[0]! +=
      pages - this.#bucketPageCount + Math.ceil(pages / PAGE_SLOTS) - Math.ceil(this.#bucketPageCount / PAGE_SLOTS);
  }

  protected startStructure(): void {
    this.#bucketPageCount = 0;
    this.#storeBuckets(FIRST_BUCKETS);
  }

  protected adoptStructure(): void {
    const buckets = this.#word(this.descriptor, BUCKET_COUNT_WORD);
    if (!(buckets >= FIRST_BUCKETS && buckets <= BUCKETS_MAX)) {
      throw corruptPage(this.descriptor, `a hash table of ${buckets} buckets`);
    }
    const unused = new Set(this.ownPages());
    const take = (unit: UnitId): UnitId => {
      if (!unused.delete(unit)) throw corruptPage(unit, 'not a page of the hash table, or used twice');
      return unit;
    };
    const pages = Math.ceil((buckets - FIRST_BUCKETS) / PAGE_SLOTS);
    let index = 0;
    for (let page = 0; ; page++) {
      if (page % PAGE_SLOTS === 0) {
        index = this.#word(this.descriptor, INDEX_WORD + page / PAGE_SLOTS);
        if (index === 0) break;
        take(index);
      }
      const unit = this.#word(index, PAGE_FIRST_WORD + (page % PAGE_SLOTS));
      if (unit === 0) break;
      this.#rememberPage(take(unit));
    }
    if (this.#bucketPageCount < pages) {
      throw corruptPage(this.descriptor, `${this.#bucketPageCount} pages for ${buckets} buckets`);
    }
    for (const unit of unused) this.retirePage(unit);
    this.#buckets = buckets;
    // The last split may lack its cut.
    if (buckets === FIRST_BUCKETS) return;
    const half = 1 << (31 - Math.clz32(buckets - 1));
    const [words, word] = this.#cutOf(buckets - 1 - half, half);
    if (words[word] !== 0) Atomics.store(words, word, 0);
  }

  // ---- all nodes ----------------------------------------------------------------------------------------------------------------

  protected firstNode(position: Uint8Array | undefined): number {
    if (position === undefined) return this.#firstFrom(0, NO_BYTES);
    const order = ((position[0]! << 24) | (position[1]! << 16) | (position[2]! << 8) | position[3]!) >>> 0;
    return this.#firstFrom(order, position.subarray(4));
  }

  protected nextNode(): number {
    const node = this.#walkNode;
    if (node === 0) return 0;
    const words = this.arena.i32[nodeSegment(node)]!;
    const next = words[nodeWord(node) + NEXT_LINK]!;
    if (next !== 0) return this.#walkTo(next);
    return this.#firstBehind(words[nodeWord(node) + HASH_LINK]!);
  }

  #walkTo(node: number): number {
    if (node !== 0) checkAddress(this.arena, node);
    return (this.#walkNode = node);
  }

  #firstFrom(order: number, key: Uint8Array): number {
    const hash = reverseBits(order) | 0;
    this.#locateFrom(bucketOf(hash, this.#buckets), hash, key, 0, key.length);
    return this.#placeNode !== 0 ? this.#walkTo(this.#placeNode) : this.#firstBehind(hash);
  }

  /** First node of the buckets behind that of the hash. */
  #firstBehind(hash: number): number {
    let at = hash;
    for (;;) {
      const step = 2 ** (32 - bitsOf(at, this.#buckets));
      const order = (Math.floor(reverseBits(at) / step) + 1) * step;
      if (order >= 2 ** 32) return this.#walkTo(0);
      at = reverseBits(order) | 0;
      this.#goToBucket(bucketOf(at, this.#buckets));
      const node = this.#placeWords[this.#placeWord]!;
      if (node !== 0) return this.#walkTo(node);
    }
  }

  protected override positionOf(address: number): Uint8Array {
    const order = reverseBits(this.arena.i32[nodeSegment(address)]![nodeWord(address) + HASH_LINK]!);
    const { keyAt, keyLength } = this.readNode(address);
    const position = new Uint8Array(4 + keyLength);
    position[0] = order >>> 24;
    position[1] = order >>> 16;
    position[2] = order >>> 8;
    position[3] = order;
    position.set(this.arena.u8[nodeSegment(address)]!.subarray(keyAt, keyAt + keyLength), 4);
    return position;
  }

  override isBefore(key: Uint8Array, keyStart: number, keyLength: number, position: Uint8Array): boolean {
    const own = reverseBits(hashBytes(key, keyStart, keyLength, TABLE_SEED));
    const order = ((position[0]! << 24) | (position[1]! << 16) | (position[2]! << 8) | position[3]!) >>> 0;
    if (own !== order) return own < order;
    return compareBytes(key, keyStart, keyLength, position, 4, position.length - 4) < 0;
  }

  protected override structureMetrics(): EngineMetrics {
    return { buckets: this.#buckets, bucketSplits: this.#splits };
  }

  protected checkStructure(problems: string[]): void {
    let keys = 0;
    for (let bucket = 0; bucket < this.#buckets; bucket++) {
      this.#goToBucket(bucket);
      let previous = 0;
      for (let node = this.#placeWords[this.#placeWord]!; node !== 0;) {
        checkAddress(this.arena, node);
        if (++keys > this.keyCount) throw corruptNode(node, `more than ${this.keyCount} nodes are in lists`);
        const words = this.arena.i32[nodeSegment(node)]!;
        const hash = words[nodeWord(node) + HASH_LINK]!;
        const { keyAt, keyLength } = this.readNode(node);
        const u8 = this.arena.u8[nodeSegment(node)]!;
        if (hash !== hashBytes(u8, keyAt, keyLength, TABLE_SEED))
          problems.push(corruptNode(node, 'not the hash of its key').message);
        if (bucketOf(hash, this.#buckets) !== bucket) problems.push(corruptNode(node, `in bucket ${bucket}`).message);
        if (previous !== 0) {
          const before = reverseBits(this.arena.i32[nodeSegment(previous)]![nodeWord(previous) + HASH_LINK]!);
          const own = reverseBits(hash);
          if (before > own || (before === own && this.compareKey(previous, u8, keyAt, keyLength) >= 0)) {
            problems.push(corruptNode(node, 'out of order in its bucket').message);
          }
        }
        previous = node;
        node = words[nodeWord(node) + NEXT_LINK]!;
      }
    }
    if (keys !== this.keyCount) problems.push(`keys: ${keys} in buckets, counted ${this.keyCount}`);
    // Fewer keys than buckets, but for the moments when there was no memory for more.
    if (keys > 4 * this.#buckets && this.#bucketPageCount * PAGE_SLOTS + FIRST_BUCKETS > this.#buckets) {
      problems.push(`load: ${keys} keys in ${this.#buckets} buckets`);
    }
  }
}
