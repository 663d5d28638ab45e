/**
 * Which slots of a page file are in use: one bit each, in the writer's heap, rebuilt from what is reachable when the file is opened.
 *
 * Pages of 1, 2, 4 or 8 slots lie aligned to their size, so a page never crosses a group of eight slots: one byte of the map. Allocation goes
 * on where the last one ended (pages written together lie together, and go out in one write), through what was freed, and grows the
 * file when a whole round finds nothing. Threads: the page file's writer only.
 */
import { ConcordError } from '../../../shared/errors.js';
import { FIRST_SLOT, SLOT_COUNT_MAX } from './format.js';

/** Bits of a page of 2^class slots, by class: at its first place in a group. */
const MASKS = [0x01, 0x03, 0x0f, 0xff] as const;
const FULL = 0xff;

export class SlotMap {
  /** Slots that hold a page. */
  usedSlots = 0;
  /** The file ends here: a multiple of 8. */
  endSlot = FIRST_SLOT;
  #groups = new Uint8Array(1024);
  /** By slot: 1 + class of the page that begins there, and the generation it was written in. */
  #begins = new Uint8Array(1024 * 8);
  #generations = new Uint32Array(1024 * 8);
  #hand = FIRST_SLOT >>> 3;
  /** Slots held by nobody known, by group. */
  #held: Uint8Array | undefined;
  /** By class: a round since the last free has found nothing. */
  readonly #exhausted = [false, false, false, false];

  constructor() {
    this.#groups[0] = FULL;
  }

  /** First slot of a free place for a page; ERR_DISK_FULL when the format has no more. */
  allocate(pageClass: number, generation: number): number {
    let slot = this.#exhausted[pageClass] ? -1 : this.#findFreed(pageClass);
    if (slot < 0) {
      this.#exhausted[pageClass] = true;
      if (this.endSlot + 8 > SLOT_COUNT_MAX)
        throw new ConcordError('ERR_DISK_FULL', `a page file has at most ${SLOT_COUNT_MAX} slots`);
      slot = this.endSlot;
      this.#growTo(slot + 8);
      this.#hand = slot >>> 3;
      // What is left of the new group is free.
      if (pageClass < 3) this.#exhausted.fill(false, 0, pageClass + 1);
    }
    this.#take(slot, pageClass, generation);
    return slot;
  }

  /** The page there is in use. False if that cannot be. */
  claim(slot: number, pageClass: number, generation: number): boolean {
    const slots = 1 << pageClass;
    if (slot < FIRST_SLOT || slot + slots > SLOT_COUNT_MAX || (slot & (slots - 1)) !== 0) return false;
    this.#growTo((slot + slots + 7) & ~7);
    if ((this.#groups[slot >>> 3]! & (MASKS[pageClass as 0 | 1 | 2 | 3] << (slot & 7))) !== 0) return false;
    this.#take(slot, pageClass, generation);
    return true;
  }

  free(slot: number): void {
    const pageClass = this.#begins[slot]! - 1;
    if (pageClass < 0) throw new ConcordError('ERR_INTERNAL', `slot ${slot} is freed but holds no page`);
    this.#groups[slot >>> 3]! &= ~(MASKS[pageClass as 0 | 1 | 2 | 3] << (slot & 7));
    this.#begins[slot] = 0;
    this.usedSlots -= 1 << pageClass;
    this.#exhausted.fill(false);
  }

  /** Generation that the page there was written in. */
  generationOf(slot: number): number {
    return this.#generations[slot]!;
  }

  /** Nothing is put into what is free now, up to that slot, until releaseHeld(). */
  holdFree(endSlot: number): void {
    this.#growTo((endSlot + 7) & ~7);
    const held = new Uint8Array(this.endSlot >>> 3);
    for (let group = FIRST_SLOT >>> 3; group < held.length; group++) {
      held[group] = ~this.#groups[group]!;
      this.#groups[group] = FULL;
    }
    this.#held = held;
  }

  releaseHeld(): void {
    this.#held?.forEach((slots, group) => (this.#groups[group]! &= ~slots));
    this.#held = undefined;
    this.#exhausted.fill(false);
  }

  /** Forgets the free slots at the end; returns the new end. */
  trimEnd(): number {
    let group = this.endSlot >>> 3;
    while (group > FIRST_SLOT >>> 3 && this.#groups[group - 1] === 0) group--;
    this.endSlot = group << 3;
    if (this.#hand >= group) this.#hand = FIRST_SLOT >>> 3;
    return this.endSlot;
  }

  /** Free slots at the end of the file. */
  get freeAtEnd(): number {
    let group = this.endSlot >>> 3;
    while (group > FIRST_SLOT >>> 3 && this.#groups[group - 1] === 0) group--;
    return this.endSlot - (group << 3);
  }

  #findFreed(pageClass: number): number {
    const groups = this.#groups;
    const end = this.endSlot >>> 3;
    const begin = FIRST_SLOT >>> 3;
    let group = this.#hand;
    for (let left = end - begin; left > 0; left--, group++) {
      if (group >= end) group = begin;
      const used = groups[group]!;
      if (used === FULL) continue;
      const at = firstFit(used, pageClass);
      if (at < 0) continue;
      this.#hand = group;
      return (group << 3) + at;
    }
    return -1;
  }

  #take(slot: number, pageClass: number, generation: number): void {
    this.#groups[slot >>> 3]! |= MASKS[pageClass as 0 | 1 | 2 | 3] << (slot & 7);
    this.#begins[slot] = pageClass + 1;
    this.#generations[slot] = generation;
    this.usedSlots += 1 << pageClass;
  }

  #growTo(endSlot: number): void {
    if (endSlot <= this.endSlot) return;
    if (endSlot > this.#begins.length) {
      let slots = this.#begins.length;
      while (slots < endSlot) slots *= 2;
      const groups = new Uint8Array(slots >>> 3);
      groups.set(this.#groups);
      this.#groups = groups;
      const begins = new Uint8Array(slots);
      begins.set(this.#begins);
      this.#begins = begins;
      const generations = new Uint32Array(slots);
      generations.set(this.#generations);
      this.#generations = generations;
    }
    this.endSlot = endSlot;
  }
}

function firstFit(used: number, pageClass: number): number {
  const mask = MASKS[pageClass as 0 | 1 | 2 | 3];
  const step = 1 << pageClass;
  for (let at = 0; at < 8; at += step) if ((used & (mask << at)) === 0) return at;
  return -1;
}
