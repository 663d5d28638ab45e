/**
 * What a red–black tree is made of in shared memory, and the way down to a key.
 *
 *   word 0   older    the key's next older version (cells)
 *   word 1   left     address of a node, 0: none
 *   word 2   right
 *   word 3   flags of the cell (NodeFlag.Red among them) and the first three bytes of its seq
 *   …        the rest of the cell
 *
 * The root's address stands in the engine's descriptor page, black whenever no operation is under way. There are no parent links: whoever
 * needs the way back keeps the path. So a node is replaced by one store into its parent.
 *
 * Threads: any, with the arena's latch held, or as its only writer.
 */
import type { ArenaReader } from '../../shared/memory/arena.js';
import { cellLengthsAt, readVarint, skipVarint } from '../btree/page.js';
import {
  ADDRESS_SEGMENT_MASK,
  ADDRESS_SEGMENT_SHIFT,
  NodeFlag,
  OWN_WORD,
  checkAddress,
  corruptNode,
  nodeOffset,
  nodeSegment,
  nodeWord,
} from '../cells/node.js';

export const LINK_WORDS = 2;
export const LEFT_WORD = 1;
export const RIGHT_WORD = 2;
export const FLAGS_WORD = 3;
/** In word 3. */
export const RED = NodeFlag.Red;
export const CELL_OFFSET_BYTES = 4 * (1 + LINK_WORDS);
/** Words of the descriptor page: the root's address, a count of changes, the journal (tree.ts). */
export const ROOT_WORD = OWN_WORD;
export const VERSION_WORD = OWN_WORD + 1;
export const JOURNAL_WORD = OWN_WORD + 2;
/** Finds in a row that may miss the last place before it is tried less often. */
const FINGER_MISSES_MAX = 4;
const FINGER_RETRY_MASK = 31;
/** A sound tree of 2^32 nodes is at most 64 deep. The rest of the room is for deletes, which lengthen a path by one. */
export const DEPTH_MAX = 72;

/** A path from the root: path[0 … depth) and at each node the side it goes on to, 0 left, 1 right. */
export class TreePath {
  protected readonly arena: ArenaReader;
  readonly path = new Int32Array(DEPTH_MAX + 2);
  readonly side = new Uint8Array(DEPTH_MAX + 2);
  /** Nodes on the path. After find() with success the last one has the key. */
  depth = 0;
  /** The path still leads from the root to where the last findNear() was. */
  #hasFinger = false;
  #fingerMisses = 0;
  #findCount = 0;
  /** Where openKey() found the key, in its segment. */
  protected keyAt = 0;
  protected keyLength = 0;

  constructor(arena: ArenaReader) {
    this.arena = arena;
  }

  /** Address of the node with the key, 0 if there is none: then the path leads to where it would hang. */
  find(root: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    return this.descend(root, 0, key, keyStart, keyLength);
  }

  /** find() that need not begin at the root: a key next to the last one is reached from there, if the tree is still the same. */
  findNear(root: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    if (
      this.#hasFinger &&
      this.depth > 0 &&
      (this.#fingerMisses < FINGER_MISSES_MAX || (this.#findCount++ & FINGER_RETRY_MASK) === 0)
    ) {
      const last = this.path[this.depth - 1]!;
      const order = this.compare(last, key, keyStart, keyLength);
      if (order === 0) return last;
      const towards = order > 0 ? 1 : 0;
      // The subtree of the last node ends at the nearest node above of which it lies on the other side.
      let above = this.depth - 1;
      while (above > 0 && this.side[above - 1] === towards) above--;
      const bound = above === 0 ? -order : this.compare(this.path[above - 1]!, key, keyStart, keyLength);
      if (bound === 0) {
        this.depth = above;
        this.#fingerMisses = 0;
        return this.path[above - 1]!;
      }
      if (bound > 0 !== order > 0) {
        this.#fingerMisses = 0;
        this.side[this.depth - 1] = towards;
        return this.descend(this.child(last, towards), this.depth, key, keyStart, keyLength);
      }
      this.#fingerMisses++;
    }
    this.#hasFinger = true;
    return this.descend(root, 0, key, keyStart, keyLength);
  }

  /** The next findNear() starts at the root: the tree has changed elsewhere, or the path was used for something else. */
  forgetPlace(): void {
    this.#hasFinger = false;
  }

  /** > 0 if the key is above the node's. */
  protected compare(node: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    const u8 = this.openKey(node);
    const at = this.keyAt;
    const length = this.keyLength;
    const shorter = length < keyLength ? length : keyLength;
    for (let index = 0; index < shorter; index++) {
      const order = key[keyStart + index]! - u8[at + index]!;
      if (order !== 0) return order;
    }
    return keyLength - length;
  }

  /** The bytes that the node's key stands in; keyAt and keyLength say where. */
  protected openKey(node: number): Uint8Array {
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const at = skipVarint(u8, cellLengthsAt(u8, nodeOffset(node) + CELL_OFFSET_BYTES));
    this.keyLength = readVarint(u8, at);
    this.keyAt = skipVarint(u8, at);
    return u8;
  }

  /** Goes on downwards from `node`, which stands at `depth` of the path. */
  protected descend(node: number, depth: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    const { path, side } = this;
    const { u8: bytes, i32: words } = this.arena;
    // What the key has in common with the nearest smaller and the nearest larger node above; so has every node between the two.
    let lowCommon = 0;
    let highCommon = 0;
    while (node !== 0) {
      if (depth >= DEPTH_MAX) throw corruptNode(node, 'deeper than a tree can be');
      checkAddress(this.arena, node);
      path[depth] = node;
      const u8 = bytes[node >>> ADDRESS_SEGMENT_SHIFT]!;
      const granule = node & ADDRESS_SEGMENT_MASK;
      let at = cellLengthsAt(u8, (granule << 3) + CELL_OFFSET_BYTES);
      at = u8[at]! < 0x80 ? at + 1 : skipVarint(u8, at);
      let length = u8[at++]!;
      if (length >= 0x80) length = (length & 0x7f) | (u8[at++]! << 7);
      const shorter = length < keyLength ? length : keyLength;
      let index = lowCommon < highCommon ? lowCommon : highCommon;
      let order = 0;
      for (; index < shorter; index++) {
        order = key[keyStart + index]! - u8[at + index]!;
        if (order !== 0) break;
      }
      if (order === 0) {
        order = keyLength - length;
        if (order === 0) {
          this.depth = depth + 1;
          return node;
        }
      }
      if (order > 0) {
        lowCommon = index;
        side[depth++] = 1;
        node = words[node >>> ADDRESS_SEGMENT_SHIFT]![(granule << 1) + RIGHT_WORD]!;
      } else {
        highCommon = index;
        side[depth++] = 0;
        node = words[node >>> ADDRESS_SEGMENT_SHIFT]![(granule << 1) + LEFT_WORD]!;
      }
    }
    this.depth = depth;
    return 0;
  }

  /** After find() without success: the nearest node before (side 0) or after (side 1), 0 if there is none. The path ends in it. */
  neighbour(side: 0 | 1): number {
    let depth = this.depth;
    while (depth > 0 && this.side[depth - 1] === side) depth--;
    this.depth = depth;
    return depth === 0 ? 0 : this.path[depth - 1]!;
  }

  /** The first (side 0) or last (side 1) node, 0 if the tree is empty. */
  edge(root: number, side: 0 | 1): number {
    this.depth = 0;
    return this.#down(root, side);
  }

  /** From the path's last node to the one after it (side 1) or before it (side 0); 0 at the end. */
  step(side: 0 | 1): number {
    const { path } = this;
    let depth = this.depth;
    if (depth === 0) return 0;
    const child = this.child(path[depth - 1]!, side);
    if (child !== 0) {
      this.side[depth - 1] = side;
      return this.#down(child, side === 0 ? 1 : 0);
    }
    for (depth--; depth > 0 && this.side[depth - 1] === side; depth--);
    this.depth = depth;
    return depth === 0 ? 0 : path[depth - 1]!;
  }

  child(node: number, side: number): number {
    return this.arena.i32[nodeSegment(node)]![nodeWord(node) + LEFT_WORD + side]!;
  }

  isRed(node: number): boolean {
    return (this.arena.i32[nodeSegment(node)]![nodeWord(node) + FLAGS_WORD]! & RED) !== 0;
  }

  #down(node: number, side: 0 | 1): number {
    let depth = this.depth;
    let last = 0;
    while (node !== 0) {
      if (depth >= DEPTH_MAX) throw corruptNode(node, 'deeper than a tree can be');
      checkAddress(this.arena, node);
      last = node;
      this.path[depth] = node;
      this.side[depth++] = side;
      node = this.child(node, side);
    }
    this.depth = depth;
    return last;
  }
}
