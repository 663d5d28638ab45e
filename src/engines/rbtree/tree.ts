/**
 * The red–black tree as its writer changes it: insert, replace, remove at the place that find() went to; and the undo journal.
 *
 * Journal. An insert or remove changes several words of nodes that readers can reach. Before each store its place and the old word go into the
 * journal in the descriptor page, then the journal's count goes up; when the operation is done, the count is set to 0 by one store. If the
 * thread dies in between, the words are put back in reverse order: the tree is as it was before the operation. Rolling back twice does no
 * harm. Stores of a dead thread are seen in program order by whoever runs after its end is known; living readers are kept out by the latch.
 * A replacement is one store, and needs no journal; nor do the words of a node that is not in the tree yet.
 *
 *   descriptor word journal      count of records
 *                   journal + 1  three words for each: node (0: the descriptor page itself), word in it, what was there
 *
 * Threads: the shard thread only, with the latch held for writing around each change.
 */
import type { ArenaReader, ArenaWriter } from '../../shared/memory/arena.js';
import { SEGMENT_UNIT_MASK, SEGMENT_UNIT_SHIFT, UNIT_BYTES, UNIT_SHIFT } from '../../shared/memory/arena.js';
import type { UnitId } from '../../shared/memory/arena.js';
import { checkAddress, corruptNode, nodeSegment, nodeWord } from '../cells/node.js';
import {
  DEPTH_MAX,
  FLAGS_WORD,
  JOURNAL_WORD,
  LEFT_WORD,
  RED,
  RIGHT_WORD,
  ROOT_WORD,
  TreePath,
  VERSION_WORD,
} from './links.js';

const RECORD_WORDS = 3;
/** Two nodes of three change colour on the way up for each two levels, and the last rotations move fewer than 16 words. */
const JOURNAL_RECORDS_MAX = 2 * DEPTH_MAX + 16;
export const JOURNAL_WORDS = 1 + JOURNAL_RECORDS_MAX * RECORD_WORDS;

/** Undoes what a dead writer left half done. Nothing happens if there is nothing. @throws ERR_CORRUPT */
export function rollBack(arena: ArenaReader, descriptorUnit: UnitId): void {
  const words = arena.i32[descriptorUnit >>> SEGMENT_UNIT_SHIFT]!;
  const base = (descriptorUnit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
  const count = words[base + JOURNAL_WORD]!;
  if (count === 0) return;
  if (count < 0 || count > JOURNAL_RECORDS_MAX) throw corruptNode(0, `a journal of ${count} records`);
  for (let index = count - 1; index >= 0; index--) {
    const record = base + JOURNAL_WORD + 1 + index * RECORD_WORDS;
    const node = words[record]!;
    const word = words[record + 1]!;
    if (node === 0) {
      if (!(word >= 0 && word < UNIT_BYTES / 4))
        throw corruptNode(0, `the journal names word ${word} of the descriptor`);
      words[base + word] = words[record + 2]!;
    } else {
      checkAddress(arena, node);
      if (!(word >= 0 && word <= FLAGS_WORD)) throw corruptNode(node, `the journal names word ${word}`);
      arena.i32[nodeSegment(node)]![nodeWord(node) + word] = words[record + 2]!;
    }
  }
  words[base + JOURNAL_WORD] = 0;
}

export class RedBlackTree extends TreePath {
  readonly #words: Int32Array;
  readonly #rootAt: number;
  readonly #versionAt: number;
  readonly #journalAt: number;
  #recordCount = 0;
  rotations = 0;
  /** For tests: called after each store into the tree or its journal that a dying thread could stop behind. */
  onStore: (() => void) | undefined;

  constructor(arena: ArenaWriter, descriptorUnit: UnitId) {
    super(arena);
    const base = (descriptorUnit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
    this.#words = arena.i32[descriptorUnit >>> SEGMENT_UNIT_SHIFT]!;
    this.#rootAt = base + ROOT_WORD;
    this.#versionAt = base + VERSION_WORD;
    this.#journalAt = base + JOURNAL_WORD;
  }

  get root(): number {
    return this.#words[this.#rootAt]!;
  }

  /** Node with the key or 0, and remembers the place. */
  locate(key: Uint8Array, keyStart: number, keyLength: number): number {
    return this.findNear(this.root, key, keyStart, keyLength);
  }

  /** Hangs the node in where locate() found nothing. */
  insert(node: number): void {
    this.#startChange();
    const { path } = this;
    const depth = this.depth;
    const words = this.arena.i32[nodeSegment(node)]!;
    const word = nodeWord(node);
    words[word + LEFT_WORD] = 0;
    words[word + RIGHT_WORD] = 0;
    if (depth === 0) {
      words[word + FLAGS_WORD]! &= ~RED;
      this.#setLink(0, node);
    } else {
      words[word + FLAGS_WORD]! |= RED;
      this.#setLink(depth, node);
    }
    path[depth] = node;
    this.depth = depth + 1;
    if (depth >= 2 && this.isRed(path[depth - 1]!)) this.#fixInsert(depth);
    this.#done();
  }

  /** Puts the node in place of the one that locate() found. One store. */
  replace(node: number): void {
    this.#startChange();
    const at = this.depth - 1;
    const old = this.path[at]!;
    const from = this.arena.i32[nodeSegment(old)]!;
    const to = this.arena.i32[nodeSegment(node)]!;
    const oldWord = nodeWord(old);
    const word = nodeWord(node);
    to[word + LEFT_WORD] = from[oldWord + LEFT_WORD]!;
    to[word + RIGHT_WORD] = from[oldWord + RIGHT_WORD]!;
    to[word + FLAGS_WORD] = (to[word + FLAGS_WORD]! & ~RED) | (from[oldWord + FLAGS_WORD]! & RED);
    if (at === 0) this.#words[this.#rootAt] = node;
    else {
      const parent = this.path[at - 1]!;
      this.arena.i32[nodeSegment(parent)]![nodeWord(parent) + LEFT_WORD + this.side[at - 1]!] = node;
    }
    this.path[at] = node;
    this.onStore?.();
  }

  /** Takes out the node that locate() found. */
  remove(): void {
    this.#startChange();
    const { path, side } = this;
    const at = this.depth - 1;
    const node = path[at]!;
    const left = this.child(node, 0);
    const right = this.child(node, 1);
    // `hole`: the removed place is the child of path[hole - 1].
    let hole = at;
    let lostBlack = !this.isRed(node);
    if (right === 0) {
      this.#setLink(at, left);
    } else if (left === 0) {
      this.#setLink(at, right);
    } else {
      // The next node of the order takes the place, the links and the colour of the one that goes.
      hole = at + 1;
      let next = right;
      for (let below = this.child(next, 0); below !== 0; below = this.child(next, 0)) {
        if (hole > DEPTH_MAX) throw corruptNode(next, 'deeper than a tree can be');
        path[hole] = next;
        side[hole++] = 0;
        next = below;
      }
      const isRed = !lostBlack;
      lostBlack = !this.isRed(next);
      if (next !== right) {
        this.#set(path[hole - 1]!, LEFT_WORD, this.child(next, 1));
        this.#set(next, RIGHT_WORD, right);
      }
      this.#set(next, LEFT_WORD, left);
      this.#setRed(next, isRed);
      this.#setLink(at, next);
      path[at] = next;
      side[at] = 1;
    }
    if (lostBlack) this.#fixRemove(hole);
    this.#done();
    this.forgetPlace();
  }

  /** Adds the problems found; returns the number of nodes. */
  check(problems: string[]): number {
    let blackHeight = -1;
    let nodes = 0;
    let before = 0;
    const visit = (node: number, depth: number, blacks: number, isBelowRed: boolean): void => {
      if (problems.length >= 20) return;
      if (node === 0) {
        if (blackHeight < 0) blackHeight = blacks;
        else if (blackHeight !== blacks)
          problems.push(`rbtree: ${blacks} black nodes on a path, ${blackHeight} on another`);
        return;
      }
      if (depth >= DEPTH_MAX) throw corruptNode(node, 'deeper than a tree can be');
      checkAddress(this.arena, node);
      const isRed = this.isRed(node);
      if (isRed && isBelowRed)
        problems.push(`rbtree: node ${node} is red ${depth === 0 ? 'at the root' : 'below a red one'}`);
      visit(this.child(node, 0), depth + 1, blacks + (isRed ? 0 : 1), isRed);
      if (before !== 0 && !this.#isAscending(before, node)) {
        problems.push(`rbtree: node ${node} is not above ${before}`);
      }
      before = node;
      nodes++;
      visit(this.child(node, 1), depth + 1, blacks + (isRed ? 0 : 1), isRed);
    };
    visit(this.root, 0, 0, true);
    const records = this.#words[this.#journalAt]!;
    if (records !== 0) problems.push(`rbtree: ${records} records are left in the journal`);
    return nodes;
  }

  // ---- balance ------------------------------------------------------------------------------------------------------------------

  /** The node at path[at] is red, and so may be the one above it. */
  #fixInsert(at: number): void {
    const { path, side } = this;
    while (at >= 2 && this.isRed(path[at - 1]!)) {
      const parent = path[at - 1]!;
      const grand = path[at - 2]!;
      const towards = side[at - 2]!;
      const uncle = this.child(grand, 1 - towards);
      if (uncle !== 0 && this.isRed(uncle)) {
        this.#setRed(parent, false);
        this.#setRed(uncle, false);
        if (at > 2) this.#setRed(grand, true);
        at -= 2;
        continue;
      }
      this.rotations++;
      const node = path[at]!;
      let middle = parent;
      if (side[at - 1] === towards) {
        // The path below the parent moves up by one.
        path[at - 2] = parent;
        side[at - 2] = side[at - 1]!;
        for (let index = at; index < this.depth; index++) {
          path[index - 1] = path[index]!;
          side[index - 1] = side[index]!;
        }
        this.depth--;
      } else {
        middle = node;
        this.#set(parent, RIGHT_WORD - towards, this.child(node, towards));
        this.#set(node, LEFT_WORD + towards, parent);
        path[at - 2] = node;
        this.depth = at - 1;
      }
      this.#set(grand, LEFT_WORD + towards, this.child(middle, 1 - towards));
      this.#set(middle, RIGHT_WORD - towards, grand);
      this.#setRed(middle, false);
      this.#setRed(grand, true);
      this.#setLink(at - 2, middle);
      return;
    }
  }

  /** The place below path[at - 1] has lost a black node. */
  #fixRemove(at: number): void {
    const { path, side } = this;
    for (;;) {
      const here = this.#link(at);
      if (here !== 0 && this.isRed(here)) {
        this.#setRed(here, false);
        return;
      }
      if (at === 0) return;
      const parent = path[at - 1]!;
      const towards = side[at - 1]!;
      // Words of the links towards the place, and away from it.
      const near = LEFT_WORD + towards;
      const far = RIGHT_WORD - towards;
      let sibling = this.child(parent, 1 - towards);
      if (sibling === 0) throw corruptNode(parent, 'not balanced');
      if (this.isRed(sibling)) {
        this.rotations++;
        this.#setRed(sibling, false);
        this.#setRed(parent, true);
        this.#set(parent, far, this.child(sibling, towards));
        this.#set(sibling, near, parent);
        this.#setLink(at - 1, sibling);
        path[at - 1] = sibling;
        path[at] = parent;
        side[at] = towards;
        at++;
        sibling = this.child(parent, 1 - towards);
        if (sibling === 0) throw corruptNode(parent, 'not balanced');
      }
      const inner = this.child(sibling, towards);
      let outer = this.child(sibling, 1 - towards);
      if ((inner === 0 || !this.isRed(inner)) && (outer === 0 || !this.isRed(outer))) {
        this.#setRed(sibling, true);
        at--;
        continue;
      }
      if (outer === 0 || !this.isRed(outer)) {
        this.#setRed(inner, false);
        this.#setRed(sibling, true);
        this.#set(sibling, near, this.child(inner, 1 - towards));
        this.#set(inner, far, sibling);
        this.#set(parent, far, inner);
        outer = sibling;
        sibling = inner;
      }
      this.rotations++;
      this.#setRed(sibling, this.isRed(parent));
      this.#setRed(parent, false);
      this.#setRed(outer, false);
      this.#set(parent, far, this.child(sibling, towards));
      this.#set(sibling, near, parent);
      this.#setLink(at - 1, sibling);
      return;
    }
  }

  // ---- stores -------------------------------------------------------------------------------------------------------------------

  /** What hangs below path[at - 1]; at 0 the root. */
  #link(at: number): number {
    return at === 0 ? this.root : this.child(this.path[at - 1]!, this.side[at - 1]!);
  }

  #setLink(at: number, node: number): void {
    if (at > 0) {
      this.#set(this.path[at - 1]!, LEFT_WORD + this.side[at - 1]!, node);
      return;
    }
    this.#record(0, ROOT_WORD, this.#words[this.#rootAt]!);
    this.#words[this.#rootAt] = node;
    this.onStore?.();
  }

  #setRed(node: number, isRed: boolean): void {
    const flags = this.arena.i32[nodeSegment(node)]![nodeWord(node) + FLAGS_WORD]!;
    if (((flags & RED) !== 0) !== isRed) this.#set(node, FLAGS_WORD, flags ^ RED);
  }

  #set(node: number, word: number, value: number): void {
    const words = this.arena.i32[nodeSegment(node)]!;
    const at = nodeWord(node) + word;
    this.#record(node, word, words[at]!);
    words[at] = value;
    this.onStore?.();
  }

  #record(node: number, word: number, old: number): void {
    const words = this.#words;
    const count = this.#recordCount;
    if (count >= JOURNAL_RECORDS_MAX) throw corruptNode(node, 'a change without end');
    const at = this.#journalAt + 1 + count * RECORD_WORDS;
    words[at] = node;
    words[at + 1] = word;
    words[at + 2] = old;
    this.onStore?.();
    words[this.#journalAt] = this.#recordCount = count + 1;
    this.onStore?.();
  }

  /** Paths that readers keep are good for the tree before. First, so that it is known of a change that its writer did not survive. */
  #startChange(): void {
    this.#words[this.#versionAt]!++;
    this.onStore?.();
  }

  #done(): void {
    if (this.#recordCount === 0) return;
    this.#recordCount = 0;
    this.#words[this.#journalAt] = 0;
    this.onStore?.();
  }

  // ---- keys ---------------------------------------------------------------------------------------------------------------------

  #isAscending(low: number, high: number): boolean {
    const u8 = this.openKey(low);
    return this.compare(high, u8, this.keyAt, this.keyLength) < 0;
  }
}
