/**
 * The skip list, as readers and the writer of a memtable walk and change it.
 *
 *   insert    the node's own links first, then one store on level 0, which shows it, then one on each level above
 *   replace   the new node has the key, the height and the links of the old one: one store on each level, from level 0 up
 *   remove    one store on each level from the top down
 *
 * So whatever store was the last before the writer died, level 0 is a whole list in key order, and each level above leads from smaller keys to larger
 * ones that are, or were just now, in the list. relink() makes the levels above anew from level 0.
 *
 * A search starts at the node that the express lane names (lane.ts), if that is smaller than what is looked for, else at the head; goes forward while
 * the next node is smaller, on the highest level of the node it has come to (so a bad start costs a logarithm, not a walk), and down where it is not.
 *
 * Readers use plain loads: what a store shows is built before it, a node's content is reached through its address only, and neither compilers nor
 * processors that V8 runs on reorder a load before the one that yields its address.
 * Threads: ListSearch any, under a pin, one per thread and table. SkipList the shard thread only.
 */
import { assert } from '../../shared/assert.js';
import type { ArenaReader, ArenaWriter, UnitId } from '../../shared/memory/arena.js';
import { ADDRESS_UNIT_SHIFT, checkAddress, corruptNode, nodeSegment, nodeWord } from '../cells/node.js';
import { LaneView } from './lane.js';
import type { ExpressLane } from './lane-writer.js';
import { readVarint, skipVarint } from '../btree/page.js';
import {
  HEIGHT_MAX,
  LINKS_WORD,
  SEARCH_STEPS_MAX,
  cellOf,
  compareNode,
  heightOf,
  keyLengthAt,
  linkOf,
} from './node.js';

export class ListSearch {
  readonly #arena: ArenaReader;
  readonly #lane: LaneView;
  /** The last search met its key. */
  isEqual = false;
  /** After a search from the head: by level, the last node before the key. */
  readonly path = new Int32Array(HEIGHT_MAX);

  constructor(arena: ArenaReader) {
    this.#arena = arena;
    this.#lane = new LaneView(arena);
  }

  /** The first node with a key ≥ the given one, 0 if there is none. */
  seek(head: number, laneRoot: UnitId, key: Uint8Array, keyStart: number, keyLength: number): number {
    const arena = this.#arena;
    const lane = this.#lane;
    lane.seek(laneRoot, key, keyStart, keyLength);
    if (lane.match !== 0 && compareNode(arena, lane.match, key, keyStart, keyLength) === 0) {
      this.isEqual = true;
      return lane.match;
    }
    const { before } = lane;
    if (before === 0 || compareNode(arena, before, key, keyStart, keyLength) >= 0) {
      return this.seekFrom(head, HEIGHT_MAX - 1, key, keyStart, keyLength, false);
    }
    return this.seekFrom(before, 0, key, keyStart, keyLength, false);
  }

  /** The last node with a key < the given one, 0 if there is none. */
  seekBefore(head: number, laneRoot: UnitId, key: Uint8Array, keyStart: number, keyLength: number): number {
    const lane = this.#lane;
    lane.seek(laneRoot, key, keyStart, keyLength);
    const { before } = lane;
    if (before === 0 || compareNode(this.#arena, before, key, keyStart, keyLength) >= 0) {
      this.seekFrom(head, HEIGHT_MAX - 1, key, keyStart, keyLength, true);
    } else {
      this.seekFrom(before, 0, key, keyStart, keyLength, true);
    }
    return this.path[0] === head ? 0 : this.path[0]!;
  }

  /** The last node of the list, 0 if it is empty. */
  last(head: number): number {
    const arena = this.#arena;
    let node = head;
    let level = HEIGHT_MAX - 1;
    for (let steps = 0; steps < SEARCH_STEPS_MAX; steps++) {
      const next = linkOf(arena, node, level);
      if (next !== 0) {
        node = next;
        level = heightOf(arena, node) - 1;
      } else if (level-- === 0) return node === head ? 0 : node;
    }
    throw corruptNode(node, `a search of ${SEARCH_STEPS_MAX} steps`);
  }

  /**
   * seek() from a node that is smaller than the key, or the head, on one of its levels. `withPath`: goes down to level 0 even past a match, and
   * leaves in `path` what is before the key on each level it came through.
   */
  seekFrom(
    node: number,
    level: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    withPath: boolean,
  ): number {
    const arena = this.#arena;
    const path = this.path;
    let bound = 0;
    let order = 1;
    for (let steps = 0; steps < SEARCH_STEPS_MAX; steps++) {
      const next = linkOf(arena, node, level);
      if (next !== bound && next !== 0) {
        const nextOrder = compareNode(arena, next, key, keyStart, keyLength);
        if (nextOrder < 0) {
          node = next;
          level = heightOf(arena, node) - 1;
          continue;
        }
        bound = next;
        order = nextOrder;
      }
      path[level] = node;
      if (level === 0 || (order === 0 && !withPath)) {
        this.isEqual = next !== 0 && order === 0;
        return level === 0 ? next : bound;
      }
      level--;
    }
    throw corruptNode(node, `a search of ${SEARCH_STEPS_MAX} steps`);
  }
}

export class SkipList {
  readonly #arena: ArenaWriter;
  readonly #lane: ExpressLane;
  #head = 0;
  readonly #search: ListSearch;
  /** By level, the last node before the located key, below #pathLevels. */
  readonly #path: Int32Array;
  #pathLevels = 0;
  #laneKnows = false;
  #key: Uint8Array;
  #keyStart = 0;
  #keyLength = 0;
  /** The node with the located key, 0 if there is none. */
  #found = 0;
  /** Where a key that follows the last one taken in would go; 0: nothing is known. */
  #finger = 0;
  /** Keys come in ascending runs: the finger is tried first. */
  #isRun = false;

  constructor(arena: ArenaWriter, lane: ExpressLane) {
    this.#arena = arena;
    this.#lane = lane;
    this.#search = new ListSearch(arena);
    this.#path = this.#search.path;
    this.#key = arena.u8[0]!;
  }

  open(head: number): void {
    this.#head = head;
    this.forget();
  }

  /** The node with the key, 0 if there is none. insert(), replace() and remove() then work there; the bytes must stay until then. */
  locate(key: Uint8Array, keyStart: number, keyLength: number): number {
    const arena = this.#arena;
    const lane = this.#lane;
    const finger = this.#finger;
    this.#key = key;
    this.#keyStart = keyStart;
    this.#keyLength = keyLength;
    this.#laneKnows = false;
    this.#finger = 0;
    if (this.#isRun && finger !== 0 && compareNode(arena, finger, key, keyStart, keyLength) < 0) {
      const next = linkOf(arena, finger, 0);
      const order = next === 0 ? 1 : compareNode(arena, next, key, keyStart, keyLength);
      if (order >= 0) {
        // The path of the finger is that of the key behind it.
        this.#laneKnows = lane.before === finger && lane.locateNext(key, keyStart, keyLength);
        return (this.#found = order === 0 ? next : 0);
      }
    }
    this.#isRun = false;
    if (lane.locate(key, keyStart, keyLength)) {
      const { before, after } = lane;
      const next = linkOf(arena, before, 0);
      this.#laneKnows = true;
      this.#path[0] = before;
      this.#pathLevels = 1;
      this.#isRun = before === finger;
      if (next === 0) return (this.#found = 0);
      if (next === after && !lane.mayMatch) return (this.#found = 0);
      const order = compareNode(arena, next, key, keyStart, keyLength);
      if (order >= 0) return (this.#found = order === 0 ? next : 0);
      // Nodes that the lane left out.
      this.#laneKnows = false;
    }
    const next = this.#search.seekFrom(this.#head, HEIGHT_MAX - 1, key, keyStart, keyLength, true);
    this.#pathLevels = HEIGHT_MAX;
    this.#isRun = this.#path[0] === finger && finger !== 0;
    return (this.#found = this.#search.isEqual ? next : 0);
  }

  /** Puts a node of that height at the located place, where no node has the key. Its links are set here. */
  insert(node: number, height: number): void {
    this.#findPath(height);
    const arena = this.#arena;
    const path = this.#path;
    const links = arena.i32[nodeSegment(node)]!;
    const word = nodeWord(node) + LINKS_WORD;
    for (let level = 0; level < height; level++) links[word + level] = linkOf(arena, path[level]!, level);
    // An exchange, since it is a fence as well: whoever meets the node's address in the lane must see the node, and processors that reorder stores could
    // show the plain ones of the lane first.
    const before = path[0]!;
    Atomics.exchange(arena.i32[nodeSegment(before)]!, nodeWord(before) + LINKS_WORD, node);
    path[0] = node;
    for (let level = 1; level < height; level++) {
      this.#setLink(path[level]!, level, node);
      path[level] = node;
    }
    this.#lane.insert(node);
    this.#finger = node;
  }

  /** Puts a node of the same height in place of the located one. */
  replace(old: number, node: number): void {
    assert(old === this.#found, 'the node that is replaced was located');
    const arena = this.#arena;
    const height = heightOf(arena, old);
    this.#findPath(height);
    const path = this.#path;
    const links = arena.i32[nodeSegment(node)]!;
    const word = nodeWord(node) + LINKS_WORD;
    for (let level = 0; level < height; level++) links[word + level] = linkOf(arena, old, level);
    for (let level = 0; level < height; level++) {
      this.#setLink(path[level]!, level, node);
      path[level] = node;
    }
    this.#lane.replace(old, node);
    this.#found = node;
    this.#finger = node;
  }

  /** Takes the located node out. */
  remove(old: number): void {
    assert(old === this.#found, 'the node that is removed was located');
    const arena = this.#arena;
    const height = heightOf(arena, old);
    this.#findPath(height);
    this.#lane.remove(old);
    for (let level = height - 1; level >= 0; level--)
      this.#setLink(this.#path[level]!, level, linkOf(arena, old, level));
    this.#found = 0;
  }

  /** Makes the levels above and the lane anew from level 0. @throws ERR_CORRUPT */
  relink(): void {
    const arena = this.#arena;
    const last = new Int32Array(HEIGHT_MAX).fill(this.#head);
    const nodesMax = arena.totalUnits * (1 << ADDRESS_UNIT_SHIFT);
    let nodes = 0;
    for (let node = linkOf(arena, this.#head, 0); node !== 0; node = linkOf(arena, node, 0)) {
      checkAddress(arena, node);
      if (++nodes > nodesMax) throw corruptNode(node, 'the list goes round');
      const height = heightOf(arena, node);
      for (let level = 0; level < height; level++) {
        if (level > 0 && linkOf(arena, last[level]!, level) !== node) this.#setLink(last[level]!, level, node);
        last[level] = node;
      }
      this.#lane.append(node);
    }
    for (let level = 1; level < HEIGHT_MAX; level++) {
      if (linkOf(arena, last[level]!, level) !== 0) this.#setLink(last[level]!, level, 0);
    }
    this.forget();
  }

  /** Problems found: order on each level, links to nodes that are not there, nodes that a level misses. */
  check(problems: string[]): void {
    const arena = this.#arena;
    const ranks = new Map<number, number>();
    const expected = new Int32Array(HEIGHT_MAX).fill(this.#head);
    const nodesMax = arena.totalUnits * (1 << ADDRESS_UNIT_SHIFT);
    let before = 0;
    for (let node = linkOf(arena, this.#head, 0); node !== 0; node = linkOf(arena, node, 0)) {
      checkAddress(arena, node);
      if (ranks.has(node) || ranks.size > nodesMax) throw corruptNode(node, 'the list goes round');
      ranks.set(node, ranks.size);
      const u8 = arena.u8[nodeSegment(node)]!;
      const lengthAt = keyLengthAt(u8, cellOf(arena, node));
      const keyAt = skipVarint(u8, lengthAt);
      if (before !== 0 && compareNode(arena, before, u8, keyAt, readVarint(u8, lengthAt)) >= 0)
        problems.push(corruptNode(node, 'it is not greater than the node before').message);
      before = node;
      const height = heightOf(arena, node);
      for (let level = 1; level < height; level++) {
        if (linkOf(arena, expected[level]!, level) !== node)
          problems.push(corruptNode(node, `level ${level} misses it`).message);
        expected[level] = node;
      }
    }
    for (let level = 1; level < HEIGHT_MAX; level++) {
      if (linkOf(arena, expected[level]!, level) !== 0)
        problems.push(corruptNode(expected[level]!, `level ${level} goes on behind it`).message);
    }
    this.#lane.check(ranks, problems);
  }

  /** Nothing that was located counts any more. */
  forget(): void {
    this.#found = 0;
    this.#finger = 0;
    this.#isRun = false;
    this.#pathLevels = 0;
    this.#laneKnows = false;
  }

  /** The nodes before the located key on all levels below `height`. */
  #findPath(height: number): void {
    const arena = this.#arena;
    const found = this.#found;
    for (let level = this.#pathLevels; level < height; level++) {
      const before = this.#laneKnows ? this.#lane.beforeAt(level) : 0;
      if (before !== 0 && this.#isBefore(before)) {
        const next = linkOf(arena, before, level);
        const isHere =
          found !== 0 ? next === found : next === 0 || next === this.#lane.afterAt(level) || !this.#isBefore(next);
        if (isHere) {
          this.#path[level] = before;
          this.#pathLevels = level + 1;
          continue;
        }
      }
      this.#search.seekFrom(this.#head, HEIGHT_MAX - 1, this.#key, this.#keyStart, this.#keyLength, true);
      this.#pathLevels = HEIGHT_MAX;
      return;
    }
  }

  #isBefore(node: number): boolean {
    return compareNode(this.#arena, node, this.#key, this.#keyStart, this.#keyLength) < 0;
  }

  #setLink(node: number, level: number, next: number): void {
    Atomics.store(this.#arena.i32[nodeSegment(node)]!, nodeWord(node) + LINKS_WORD + level, next);
  }
}
