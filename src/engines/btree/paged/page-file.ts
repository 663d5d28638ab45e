/**
 * A page file: reading pages by reference (any thread), and the writer that gives pages their places.
 *
 * A page once written stays where it is and as it is until nothing needs it any more. Its slot is used again when both
 *   - a later checkpoint than the last that holds the page is durable (confirm), and
 *   - no reader stands on a version that refers to it (reclaim).
 * So pages may be written at any time, without a sync: after a crash the checkpoint leads only to pages that were synced before it, and the log brings
 * back the rest. A checkpoint of the tree is: all changed pages written · capture() · the file synced (any thread) · the checkpoint file, with the root in
 * it, renamed to its name · confirm(). The root stands in the checkpoint file and nowhere else, so the two cannot disagree.
 *
 * Threads: PageFileReader any, one per thread; PageFileWriter the shard's thread only. Bytes: format.ts.
 */
import type { Env, EnvFile } from '../../../shared/env/env.js';
import { RetireQueue } from '../../../shared/memory/retire-queue.js';
import {
  COLD,
  FILE_NUMBER_MAX,
  FIRST_SLOT,
  HEADER_BYTES,
  SLOT_BYTES,
  checkHeader,
  classOf,
  coldReference,
  corruptPageFile,
  encodeHeader,
  openPage,
  pageFileName,
  pageFileNumber,
  sealPage,
  slotOf,
  type PageFileIdentity,
} from './format.js';
import { SlotMap } from './slot-map.js';

/** Pages beside each other go out in one write of up to this. */
const BUFFER_BYTES = 256 * 1024;
/** The file is cut when so much of it, and a quarter, is free at its end. */
const CUT_SLOTS_MIN = 256;

export class PageFileReader {
  readonly path: string;
  readonly #file: EnvFile;
  readonly #identityCrc: number;

  /** @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_PERMISSION */
  constructor(env: Env, directory: string, identity: PageFileIdentity) {
    this.path = `${directory}/${pageFileName(identity.number)}`;
    this.#file = openPageFile(env, this.path, 'read');
    try {
      this.#identityCrc = readHeader(this.#file, identity);
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  /** The page, checked, to into[at …]. Its references are still the file's. @throws ERR_CORRUPT, ERR_IO */
  read(reference: number, into: Uint8Array, at: number): void {
    readPage(this.#file, this.#identityCrc, reference, into, at);
  }

  close(): void {
    this.#file.close();
  }
}

/** Something refers to the file: that it is not there is damage. */
function openPageFile(env: Env, path: string, mode: 'read' | 'write'): EnvFile {
  try {
    return env.open(path, mode);
  } catch (error) {
    if (env.exists(path)) throw error;
    throw corruptPageFile(path, 0, 'the page file is missing');
  }
}

function readHeader(file: EnvFile, identity: PageFileIdentity): number {
  const bytes = Buffer.alloc(HEADER_BYTES);
  return checkHeader(bytes, file.read(bytes, 0, HEADER_BYTES, 0), identity, file.path);
}

function readPage(file: EnvFile, identityCrc: number, reference: number, into: Uint8Array, at: number): void {
  const slot = slotOf(reference);
  if (reference < COLD || slot < FIRST_SLOT) {
    throw corruptPageFile(file.path, slot * SLOT_BYTES, `${reference.toString(16)} refers to no page`);
  }
  const bytes = SLOT_BYTES << classOf(reference);
  const read = file.read(into, at, bytes, slot * SLOT_BYTES);
  if (read < bytes)
    throw corruptPageFile(file.path, slot * SLOT_BYTES, `page in slot ${slot}: ${read} of ${bytes} bytes`);
  openPage(into, at, reference, identityCrc, file.path);
}

/** Everything written to the file before is durable. Any thread. */
export function syncPageFile(env: Env, directory: string, number: number): void {
  const file = env.open(`${directory}/${pageFileName(number)}`, 'write');
  try {
    file.sync();
  } finally {
    file.close();
  }
}

/** Numbers of the page files in a shard's directory, ascending. */
export function pageFileNumbers(env: Env, directory: string): number[] {
  return env
    .list(directory)
    .map(pageFileNumber)
    .filter((number) => number !== undefined)
    .sort((a, b) => a - b);
}

/** Removes page files that are not to be kept; returns how many. */
export function removePageFiles(env: Env, directory: string, isKept: (number: number) => boolean): number {
  const numbers = pageFileNumbers(env, directory).filter((number) => !isKept(number));
  for (const number of numbers) env.remove(`${directory}/${pageFileName(number)}`);
  if (numbers.length > 0) env.syncDirectory(directory);
  return numbers.length;
}

export class PageFileWriter {
  readonly path: string;
  readonly number: number;
  /** Captures so far. */
  generation = 0;
  /** Where begin()'s page is to be built. */
  readonly buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  readonly #file: EnvFile;
  readonly #identityCrc: number;
  readonly #slots = new SlotMap();
  /** Released pages: those that a durable generation may hold wait for one that does not (birth: its number), then all for readers. */
  readonly #waitingForCheckpoint = new RetireQueue();
  readonly #waitingForReaders = new RetireQueue();
  #buffered = 0;
  #bufferSlot = 0;
  #begunReference = 0;
  #sizeBytes = 0;
  #writes = 0;
  #pagesWritten = 0;
  #reads = 0;

  private constructor(file: EnvFile, identity: PageFileIdentity, identityCrc: number) {
    this.#file = file;
    this.path = file.path;
    this.number = identity.number;
    this.#identityCrc = identityCrc;
  }

  /**
   * A new file with a number above all there are, and above `last`: other threads may have files open, and pages in the cache, that are gone by now.
   * It is nobody's until a checkpoint names it.
   */
  static create(env: Env, directory: string, identity: Omit<PageFileIdentity, 'number'>, last = 0): PageFileWriter {
    const taken = pageFileNumbers(env, directory);
    let number = Math.max(taken.at(-1) ?? 0, last) + 1;
    // Numbers go round after 65,535 files.
    if (number > FILE_NUMBER_MAX) {
      number = last >= FILE_NUMBER_MAX ? 1 : last + 1;
      while (taken.includes(number)) number++;
    }
    const whole = { ...identity, number };
    const { bytes, crc } = encodeHeader(whole);
    const file = env.open(`${directory}/${pageFileName(number)}`, 'create');
    try {
      file.write(bytes, 0, bytes.length, 0);
      file.sync();
      env.syncDirectory(directory);
    } catch (error) {
      file.close();
      try {
        env.remove(file.path);
      } catch {
        // An empty page file that nothing names goes at the next open.
      }
      throw error;
    }
    return new PageFileWriter(file, whole, crc);
  }

  /** Goes on with a file. claim() what is reachable before anything is written. readOnly: nothing ever is. */
  static open(env: Env, directory: string, identity: PageFileIdentity, readOnly = false): PageFileWriter {
    const path = `${directory}/${pageFileName(identity.number)}`;
    const file = openPageFile(env, path, readOnly ? 'read' : 'write');
    try {
      const writer = new PageFileWriter(file, identity, readHeader(file, identity));
      writer.#sizeBytes = file.size();
      // What is there may be a checkpoint's: it was written before the first capture of this writer.
      writer.generation = 1;
      return writer;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * The page is reachable from what the last checkpoint holds, or from a published tree.
   * @throws ERR_CORRUPT when the place cannot be, or a page lies there already
   */
  claim(reference: number): void {
    const slot = slotOf(reference);
    const endSlot = slot + (1 << classOf(reference));
    if (
      reference < COLD ||
      endSlot * SLOT_BYTES > this.#sizeBytes ||
      !this.#slots.claim(slot, classOf(reference), this.generation - 1)
    ) {
      const text = `a page of class ${classOf(reference)} in slot ${slot}, which is beyond the end or in use`;
      throw corruptPageFile(this.path, slot * SLOT_BYTES, text);
    }
  }

  /** What was not claimed may belong to a checkpoint that nobody has looked at: it stays until the next one is durable. */
  holdUnclaimed(): void {
    this.#slots.holdFree(Math.floor(this.#sizeBytes / SLOT_BYTES));
  }

  /** The page, checked, to into[at …]. Pages that wait in the buffer are written first. */
  read(reference: number, into: Uint8Array, at: number): void {
    if (this.#buffered > 0) this.flush();
    this.#reads++;
    readPage(this.#file, this.#identityCrc, reference, into, at);
  }

  // ---- writing ------------------------------------------------------------------------------------------------------------------

  /**
   * A place for a page of that class: the caller builds it in `buffer` from the returned offset on and calls commit(). May write what the buffer holds.
   * @throws ERR_DISK_FULL, ERR_IO: nothing was begun; what was committed since the last flush() may not be there
   */
  begin(pageClass: number): number {
    const bytes = SLOT_BYTES << pageClass;
    if (this.#buffered + bytes > BUFFER_BYTES) this.flush();
    const slot = this.#slots.allocate(pageClass, this.generation);
    this.#begunReference = coldReference(slot, pageClass);
    if (this.#buffered > 0 && slot !== this.#bufferSlot + this.#buffered / SLOT_BYTES) {
      try {
        this.flush();
      } catch (error) {
        this.#slots.free(slot);
        throw error;
      }
    }
    if (this.#buffered === 0) this.#bufferSlot = slot;
    return this.#buffered;
  }

  /** The slot of the page that was begun: for whoever must forget what was there before. */
  get begunSlot(): number {
    return slotOf(this.#begunReference);
  }

  /** The page that was begun is built: its reference. It can be read after flush(). */
  commit(): number {
    const reference = this.#begunReference;
    sealPage(this.buffer, this.#buffered, reference, this.#identityCrc);
    this.#buffered += SLOT_BYTES << classOf(reference);
    this.#pagesWritten++;
    return reference;
  }

  /** Everything committed is in the file, not yet durable. @throws ERR_DISK_FULL, ERR_IO: give the references back with discard() */
  flush(): void {
    const bytes = this.#buffered;
    if (bytes === 0) return;
    this.#buffered = 0;
    this.#writes++;
    this.#file.write(this.buffer, 0, bytes, this.#bufferSlot * SLOT_BYTES);
  }

  /** A committed page that nothing ever referred to. */
  discard(reference: number): void {
    this.#slots.free(slotOf(reference));
  }

  /** Nothing that is published from `epoch` on refers to the page any more. */
  release(reference: number, epoch: number): void {
    const slot = slotOf(reference);
    // Written after the last capture: no checkpoint can hold it.
    if (this.#slots.generationOf(slot) >= this.generation) this.#waitingForReaders.push(reference, 0, epoch);
    else this.#waitingForCheckpoint.push(reference, this.generation + 1, epoch);
  }

  /** Frees what no reader can refer to any more: released at that epoch or before. */
  reclaim(safeEpoch: number): void {
    const waiting = this.#waitingForReaders;
    while (waiting.frontRetire() <= safeEpoch) {
      this.#slots.free(slotOf(waiting.frontUnit()));
      waiting.shift();
    }
  }

  // ---- checkpoints --------------------------------------------------------------------------------------------------------------

  /** Ends a generation: everything reachable from the tree's root has been written. */
  capture(): { readonly generation: number; readonly endSlot: number } {
    this.flush();
    return { generation: ++this.generation, endSlot: this.#slots.endSlot };
  }

  /** The checkpoint of that generation is what a recovery starts from. */
  confirm(generation: number): void {
    this.#slots.releaseHeld();
    const waiting = this.#waitingForCheckpoint;
    while (waiting.count > 0 && waiting.frontBirth() <= generation) {
      this.#waitingForReaders.push(waiting.frontUnit(), 0, waiting.frontRetire());
      waiting.shift();
    }
    const free = this.#slots.freeAtEnd;
    if (free >= CUT_SLOTS_MIN && 4 * free >= this.#slots.endSlot) {
      try {
        this.#file.truncate(this.#slots.trimEnd() * SLOT_BYTES);
      } catch {
        // A file that is too long harms nobody; a poisoned one fails its next write.
      }
    }
  }

  stats(): {
    readonly fileSlots: number;
    readonly usedSlots: number;
    readonly writes: number;
    readonly pagesWritten: number;
    readonly reads: number;
  } {
    return {
      fileSlots: this.#slots.endSlot,
      usedSlots: this.#slots.usedSlots,
      writes: this.#writes,
      pagesWritten: this.#pagesWritten,
      reads: this.#reads,
    };
  }

  close(): void {
    this.#file.close();
  }
}
