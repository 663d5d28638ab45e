/**
 * The array's writer: cells/node-writer.ts does what all engines with nodes have in common, sorted-array.ts the array.
 *
 * Readers are kept out by the arena's latch while the array changes, and only then: versions below a node are pruned beside them.
 * Threads: the shard's thread only.
 */
import type { ArenaWriter } from '../../shared/memory/arena.js';
import { NodeEngineWriter } from '../cells/node-writer.js';
import { EngineCode, type EngineMetrics } from '../engine.js';
import { ArrayPlace, CELL_OFFSET_BYTES } from './pages.js';
import { SortedArray, unitsNeededByNew, type PageSource } from './sorted-array.js';

export class ArrayWriter extends NodeEngineWriter {
  /** There from the first put on. */
  protected array: SortedArray | undefined;
  /** For walks, so that the array's own place stays where the last operation was. */
  #walk: ArrayPlace | undefined;
  readonly #pageSource: PageSource = {
    allocatePage: (units) => this.allocatePage(units),
    retirePage: (unit) => {
      this.retirePage(unit);
    },
    ownPages: () => this.ownPages(),
  };

  constructor(arena: ArenaWriter, row: number, spaceId: number) {
    super(arena, row, spaceId, { code: EngineCode.array, linkWordsMax: 0, isLocked: true, isOrdered: true });
    this.openRow();
  }

  protected override linkWordsFor(): number {
    return 0;
  }

  protected override cellOffset(): number {
    return CELL_OFFSET_BYTES;
  }

  protected override locate(key: Uint8Array, keyStart: number, keyLength: number): number {
    return this.array!.locate(key, keyStart, keyLength);
  }

  protected override insertNode(address: number): void {
    this.array!.insert(address);
  }

  protected override replaceNode(_old: number, address: number): void {
    this.array!.replace(address);
  }

  protected override removeNode(): void {
    this.array!.remove();
  }

  protected override firstNode(position: Uint8Array | undefined): number {
    const walk = this.#walk!;
    if (position === undefined) return walk.edge(0);
    return walk.find(position, 0, position.length) || walk.nodeOrNext();
  }

  protected override nextNode(): number {
    return this.#walk!.step(1);
  }

  protected override startStructure(): void {
    this.#walk = new ArrayPlace(this.arena, this.descriptor);
    this.array = new SortedArray(this.arena, this.descriptor, this.#pageSource);
  }

  protected override adoptStructure(): void {
    this.startStructure();
  }

  protected override beforeChange(): void {
    this.array!.prepare();
  }

  protected override addGrowth(counts: number[], operations: number, deletesOnly: boolean): void {
    const array = this.descriptor === 0 ? undefined : this.array;
    const inserts = deletesOnly ? 0 : operations;
    counts[0]! += array === undefined ? unitsNeededByNew(inserts) : array.unitsNeeded(inserts);
  }

  protected override checkStructure(problems: string[]): void {
    this.array!.check(problems);
  }

  protected override structureMetrics(): EngineMetrics {
    const array = this.descriptor === 0 ? undefined : this.array;
    return { blocks: array?.blocks ?? 0, splits: array?.splits ?? 0, merges: array?.merges ?? 0 };
  }
}
