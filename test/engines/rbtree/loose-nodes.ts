/**
 * Nodes without a heap: hand-made cells in pages of an arena whose meta page is empty, for tests of what hangs them together. A writer's death
 * is an adoption of the same memory; and the memory can be put back to how it was, so that an operation can be killed at every store.
 */
import { NEXT_WORD, PageKind } from '../../../dist/engines/btree/page.js';
import { FIRST_PAGE_WORD, walkPages } from '../../../dist/engines/cells/node.js';
import { ArenaWriter, HEADER_UNITS, createArena, type ArenaLayout } from '../../../dist/shared/memory/arena.js';

const NODE_BYTES = 64;
const PAGE_BYTES = 32768;

export class LooseNodes {
  readonly layout: ArenaLayout;
  arena: ArenaWriter;
  /** Zeroed: the structure's descriptor page. */
  readonly descriptorUnit: number;
  readonly #metaUnit: number;
  readonly #linkWords: number;
  readonly #pages: number[] = [];
  #used = PAGE_BYTES;
  #copy: Uint8Array = new Uint8Array(0);

  constructor(memoryBytes: number, linkWords: number) {
    this.layout = createArena({ memoryBytes });
    this.#linkWords = linkWords;
    this.arena = new ArenaWriter(this.layout);
    this.#metaUnit = this.arena.allocate(1);
    this.descriptorUnit = this.arena.allocate(1);
    this.arena.publish(this.#metaUnit);
  }

  /** Address of a new node with that key. */
  make(key: string): number {
    if (this.#used + NODE_BYTES > PAGE_BYTES) {
      this.#pages.push(this.arena.allocate(8));
      this.#used = 24;
    }
    const at = this.#pages.at(-1)! * 4096 + this.#used;
    this.#used += NODE_BYTES;
    const u8 = this.arena.u8[0]!;
    u8.fill(0, at, at + NODE_BYTES);
    const cell = at + 4 + 4 * this.#linkWords;
    const bytes = Buffer.from(key);
    if (bytes.length > 40) throw new Error('a loose node has 40 bytes for its key');
    u8[cell + 8] = bytes.length;
    u8.set(bytes, cell + 9);
    return at / 8;
  }

  keyOf(node: number): string {
    const cell = node * 8 + 4 + 4 * this.#linkWords;
    const u8 = this.arena.u8[0]!;
    return Buffer.from(u8.slice(cell + 9, cell + 9 + u8[cell + 8]!)).toString();
  }

  /** The writer is dead; its memory finds another one. */
  die(): void {
    this.arena = ArenaWriter.adopt(this.layout, (arena, metaUnit, mark) => {
      mark(metaUnit, 1);
      mark(this.descriptorUnit, 1);
      for (const unit of this.#pages) mark(unit, 8);
      walkPages(arena, this.descriptorUnit, FIRST_PAGE_WORD, NEXT_WORD, PageKind.Engine, mark);
    });
  }

  /** Units that are used for anything else than the nodes, the descriptor and the meta page. */
  get usedUnits(): number {
    return this.arena.usedUnits - HEADER_UNITS - 2 - 8 * this.#pages.length;
  }

  remember(): void {
    this.#copy = this.arena.u8[0]!.slice(0, this.arena.stats().highWaterUnits * 4096);
  }

  /** Back to what remember() saw; the arena must be adopted anew. */
  restore(): void {
    this.arena.u8[0]!.set(this.#copy);
  }
}

export function randomFrom(seed: number): (below: number) => number {
  let state = seed | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}
