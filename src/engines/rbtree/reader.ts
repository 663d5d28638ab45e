/**
 * Point reads and ordered walks in the red–black tree, with the arena's read latch held until release().
 *
 * A point read starts where the last one ended if the tree is still the same, so reads in key order stay near the leaves.
 * A cursor keeps the path to its node, which is good while it holds the latch. Between chunks it holds nothing: it is sought again from the last key, so it
 * survives whatever changed meanwhile. Threads: any, one object per thread, between pin and unpin; release() before unpin.
 */
import { PAGE_BIRTH_LOW_WORD, SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../shared/memory/arena.js';
import { NodeCursor } from '../cells/node-cursor.js';
import { NodeReader } from '../cells/node-reader.js';
import { corruptNode, pageWord } from '../cells/node.js';
import { EngineCode } from '../engine.js';
import { CELL_OFFSET_BYTES, ROOT_WORD, TreePath, VERSION_WORD } from './links.js';

function rootOf(arena: ArenaReader, descriptor: UnitId): number {
  return arena.i32[descriptor >>> SEGMENT_UNIT_SHIFT]![pageWord(descriptor) + ROOT_WORD]!;
}

export class RbTreeReader extends NodeReader {
  readonly #path: TreePath;
  /** Which tree the path leads through: the descriptor page, when it was born, and how often the tree had changed. */
  #descriptor: UnitId = 0;
  #birth = 0;
  #version = 0;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.rbtree, slot, true);
    this.#path = new TreePath(arena);
  }

  protected override cellOffset(): number {
    return CELL_OFFSET_BYTES;
  }

  protected override lookup(descriptor: UnitId, key: Uint8Array, keyLength: number): number {
    const words = this.arena.i32[descriptor >>> SEGMENT_UNIT_SHIFT]!;
    const word = pageWord(descriptor);
    const version = words[word + VERSION_WORD]!;
    const birth = words[word + PAGE_BIRTH_LOW_WORD]!;
    if (version !== this.#version || birth !== this.#birth || descriptor !== this.#descriptor) {
      this.#version = version;
      this.#birth = birth;
      this.#descriptor = descriptor;
      this.#path.forgetPlace();
    }
    return this.#path.findNear(words[word + ROOT_WORD]!, key, 0, keyLength);
  }
}

export class RbTreeCursor extends NodeCursor {
  readonly #path: TreePath;
  /** More than there is room for nodes: a walk that goes round ends. */
  #stepsLeft = 0;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.rbtree, slot, true);
    this.#path = new TreePath(arena);
  }

  protected override cellOffset(): number {
    return CELL_OFFSET_BYTES;
  }

  protected override seekNode(
    descriptor: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    reverse: boolean,
  ): number {
    this.#stepsLeft = this.arena.totalUnits * 256;
    const root = rootOf(this.arena, descriptor);
    const path = this.#path;
    if (key === undefined) return path.edge(root, reverse ? 1 : 0);
    return path.find(root, key, 0, keyLength) || path.neighbour(reverse ? 0 : 1);
  }

  protected override stepNode(forward: boolean): number {
    const node = this.#path.step(forward ? 1 : 0);
    if (--this.#stepsLeft < 0) throw corruptNode(node, 'a walk that does not end');
    return node;
  }
}
