/**
 * The red–black tree's writer: cells/node-writer.ts does what all engines with nodes have in common, tree.ts the tree.
 *
 * Readers are kept out by the arena's latch while the tree changes, and only then: versions below a node are pruned beside them.
 * Threads: the shard's thread only.
 */
import type { ArenaWriter } from '../../shared/memory/arena.js';
import { NodeEngineWriter } from '../cells/node-writer.js';
import { EngineCode, type EngineMetrics } from '../engine.js';
import { CELL_OFFSET_BYTES, LINK_WORDS, TreePath } from './links.js';
import { RedBlackTree, rollBack } from './tree.js';

export class RbTreeWriter extends NodeEngineWriter {
  /** There from the first put on. */
  protected tree: RedBlackTree | undefined;
  /** For walks, so that the tree's own path stays where the last operation was. */
  readonly #walk: TreePath;

  constructor(arena: ArenaWriter, row: number, spaceId: number) {
    super(arena, row, spaceId, {
      code: EngineCode.rbtree,
      linkWordsMax: LINK_WORDS,
      isLocked: true,
      isOrdered: true,
    });
    this.#walk = new TreePath(arena);
    this.openRow();
  }

  protected override linkWordsFor(): number {
    return LINK_WORDS;
  }

  protected override cellOffset(): number {
    return CELL_OFFSET_BYTES;
  }

  protected override locate(key: Uint8Array, keyStart: number, keyLength: number): number {
    return this.tree!.locate(key, keyStart, keyLength);
  }

  protected override insertNode(address: number): void {
    this.tree!.insert(address);
  }

  protected override replaceNode(_old: number, address: number): void {
    this.tree!.replace(address);
  }

  protected override removeNode(): void {
    this.tree!.remove();
  }

  protected override firstNode(position: Uint8Array | undefined): number {
    const { root } = this.tree!;
    if (position === undefined) return this.#walk.edge(root, 0);
    return this.#walk.find(root, position, 0, position.length) || this.#walk.neighbour(1);
  }

  protected override nextNode(): number {
    return this.#walk.step(1);
  }

  protected override startStructure(): void {
    this.tree = new RedBlackTree(this.arena, this.descriptor);
  }

  protected override adoptStructure(): void {
    rollBack(this.arena, this.descriptor);
    this.startStructure();
  }

  protected override checkStructure(problems: string[]): void {
    this.tree!.check(problems);
  }

  protected override structureMetrics(): EngineMetrics {
    return { rotations: this.tree?.rotations ?? 0 };
  }
}
