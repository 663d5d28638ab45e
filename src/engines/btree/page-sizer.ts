/**
 * Chooses the page classes of a tree: fixed, or by the sizes of the cells that come ("adaptive").
 *
 *   leaf    8 KiB where 4 KiB hold fewer than ENTRIES_MIN cells of the average size, that is, above 570 bytes
 *   branch  the smallest class that holds CHILDREN_MIN separators of the average size, at least that of the leaves
 *
 * Cells above a quarter of such a page take larger pages by themselves, up to 32 KiB (LeafRun.classFor). Measured with groups of 16 and of 500
 * operations: at 700 to 1,000 bytes pages of 8 KiB make inserts 17 to 30 % faster and need 2 to 7 % less memory than pages of 4 KiB, which waste
 * their rest; from 8 to 24 entries a page nothing more is gained but a tenth of a scan's time, and an update copies more: a quarter
 * slower with each class.
 *
 * The class counts where pages are written anew: made, split, merged, rewritten; what stands stays. It changes at most once between two
 * publications, before the first page is written: the bounds of admission rest on one class per group.
 *
 * Threads: the tree's writer only.
 */
import { UNIT_SHIFT } from '../../shared/memory/arena.js';
import { BRANCH_SLOT_BYTES, LEAF_SLOT_BYTES, PAGE_CLASS_MAX } from './page.js';

const ENTRIES_MIN = 7;
const LEAF_CLASS_MAX = 1;
const CHILDREN_MIN = 40;
/** The smaller class must hold that many more before the tree goes back to it. */
const WAY_BACK = 1.25;
/** Averages are kept as 16ths of a byte, over about 2^7 cells. */
const SCALE_SHIFT = 4;
const WINDOW_SHIFT = 7;

export class PageSizer {
  readonly isAdaptive: boolean;
  leafClass: number;
  branchClass: number;
  #cellBytes16 = 0;
  #separatorBytes16 = 0;
  #decidedEpoch = 0;

  /** pageBytes: of all pages, or the leaves' that an adaptive tree begins with. */
  constructor(pageBytes: number, isAdaptive: boolean) {
    this.isAdaptive = isAdaptive;
    this.leafClass = 31 - Math.clz32(pageBytes >>> UNIT_SHIFT);
    this.branchClass = this.leafClass;
    // In the middle of the sizes that lead to the class: it takes a while of others to leave it.
    if (this.leafClass > 0) this.#cellBytes16 = ((0.75 * pageBytes) / ENTRIES_MIN - LEAF_SLOT_BYTES) * 16;
  }

  /** Of a cell that was put, slot not counted. */
  noteCell(bytes: number): void {
    if (!this.isAdaptive) return;
    const average = this.#cellBytes16;
    const bytes16 = bytes << SCALE_SHIFT;
    this.#cellBytes16 = average === 0 ? bytes16 : average + ((bytes16 - average) >> WINDOW_SHIFT);
  }

  noteSeparator(bytes: number): void {
    if (!this.isAdaptive) return;
    const average = this.#separatorBytes16;
    const bytes16 = bytes << SCALE_SHIFT;
    this.#separatorBytes16 = average === 0 ? bytes16 : average + ((bytes16 - average) >> WINDOW_SHIFT);
  }

  /** Before pages are written. Decides once per epoch. */
  decide(epoch: number): void {
    if (!this.isAdaptive || epoch === this.#decidedEpoch) return;
    this.#decidedEpoch = epoch;
    const cellBytes = this.#cellBytes16 / 16 + LEAF_SLOT_BYTES;
    const separatorBytes = this.#separatorBytes16 / 16 + BRANCH_SLOT_BYTES;
    this.leafClass = classFor(this.leafClass, LEAF_CLASS_MAX, cellBytes, ENTRIES_MIN);
    this.branchClass = Math.max(
      this.leafClass,
      classFor(this.branchClass, PAGE_CLASS_MAX, separatorBytes, CHILDREN_MIN),
    );
  }
}

function classFor(current: number, classMax: number, bytes: number, entriesMin: number): number {
  let pageClass = 0;
  while (pageClass < classMax && 4096 << pageClass < bytes * entriesMin) pageClass++;
  if (pageClass < current && 4096 << pageClass < bytes * entriesMin * WAY_BACK) pageClass++;
  return Math.min(pageClass, classMax);
}
