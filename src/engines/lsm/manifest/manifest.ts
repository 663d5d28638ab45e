/**
 * The manifest of a tree: the truth about which tables, blob files and range tombstones it consists of.
 *
 *   CURRENT ──▶ MANIFEST-<n>:  header · the state when the file was begun · edit · edit · … · seal
 *
 * append() returns when the edit is durable; it counts as a whole or not at all. When the edits are much longer than the state they lead to, the next
 * append() begins a new file (roll) and lets CURRENT point to it by renaming; so the time to read it all is bounded.
 *
 * Failures. An append() that throws has not changed `state`. The file it was written to is not touched again: the manifest rolls, at once or before the next
 * edit. Until that has worked, isSettled is false, and a crash would find the failed edit made or not: until then keep the files that it adds, and
 * those that it removes. Afterwards it is not made, for good.
 *
 * Threads: the shard's thread only, which owns the directory's CURRENT and MANIFEST files. Bytes: format.ts, FORMAT.md.
 */
import { assert } from '../../../shared/assert.js';
import { ConcordError } from '../../../shared/errors.js';
import type { Env, EnvFile } from '../../../shared/env/env.js';
import type { LsmIdentity } from '../types.js';
import {
  FRAME_HEADER_BYTES,
  FrameKind,
  GROWTH_BYTES,
  HEADER_BYTES,
  MANIFEST_FORMAT_VERSION,
  PAYLOAD_BYTES_MAX,
  SALT_BYTES,
  checkIdentity,
  corruptManifest,
  encodeEdit,
  encodeHeader,
  frameBytes,
  sealFrame,
} from './format.js';
import {
  CURRENT_NAME,
  CURRENT_TEMPORARY_NAME,
  blobNumber,
  isTemporaryName,
  manifestName,
  manifestNumber,
  tableNumber,
} from './names.js';
import { currentText, readCurrentManifest, readManifest, type ManifestImage } from './read.js';
import {
  EMPTY_STATE,
  FILE_NUMBER_MAX,
  applyEdit,
  checkState,
  snapshotEdit,
  type LsmState,
  type VersionEdit,
} from './state.js';

export type { LsmState, VersionEdit } from './state.js';

/** A manifest is not rolled below this size. */
const ROLL_BYTES_DEFAULT = 64 << 10;
/** How many times longer than the state it begins with a manifest may become. */
const ROLL_FACTOR = 4;
/** Numbers of files that one edit reserves at least. */
const RESERVED_FILES = 512;

export interface ManifestOptions {
  /** There need not be one: it begins empty. Default false. */
  readonly create?: boolean;
  /** Nothing is written, not even what an unfinished edit left. Default false. */
  readonly readOnly?: boolean;
  /** The manifest is not rolled below this size. */
  readonly rollBytes?: number;
}

/** The file being written, and where the next frame goes. */
interface Log {
  readonly file: EnvFile;
  readonly number: number;
  readonly seed: number;
  readonly snapshotBytes: number;
  fileBytes: number;
  end: number;
  sequence: number;
}

export class LsmManifest {
  readonly #env: Env;
  readonly directory: string;
  readonly identity: LsmIdentity;
  readonly #rollBytes: number;
  readonly #isReadOnly: boolean;
  #state: LsmState;
  /** The number in CURRENT, as far as we know. */
  #number: number;
  /** Undefined: nothing may be written behind the last edit; the next one goes into a new file. */
  #log: Log | undefined;
  /** The next file to be given out; #state.nextFile is the first that is not reserved. */
  #nextFile: number;
  #isSettled = true;
  #isClosed = false;

  private constructor(
    env: Env,
    directory: string,
    identity: LsmIdentity,
    options: ManifestOptions,
    image?: ManifestImage,
  ) {
    this.#env = env;
    this.directory = directory;
    this.identity = identity;
    this.#rollBytes = options.rollBytes ?? ROLL_BYTES_DEFAULT;
    this.#isReadOnly = options.readOnly === true;
    this.#state = image?.state ?? EMPTY_STATE;
    this.#number = image?.number ?? 0;
    this.#nextFile = this.#state.nextFile;
  }

  /**
   * Reads the tree's manifest and makes durable what was read; an edit that was being written when the machine stopped is cut off.
   * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_PERMISSION, ERR_DISK_FULL
   */
  static open(env: Env, directory: string, identity: LsmIdentity, options: ManifestOptions = {}): LsmManifest {
    checkIdentity(identity);
    const isReadOnly = options.readOnly === true;
    if (!env.exists(directory)) {
      if (options.create !== true || isReadOnly)
        throw corruptManifest(directory, 0, 'the directory of the tree is missing');
      env.makeDirectory(directory);
    }
    const names = env.list(directory);
    if (!names.includes(CURRENT_NAME)) {
      if (options.create !== true || isReadOnly || !isUnfinishedCreation(env, directory, identity, names)) {
        throw corruptManifest(`${directory}/${CURRENT_NAME}`, 0, 'the pointer to the manifest is missing');
      }
      // So that the number of what a creation leaves is always 1.
      for (const name of names) if (manifestNumber(name) !== undefined) env.remove(`${directory}/${name}`);
      return LsmManifest.#create(env, directory, identity, options, EMPTY_STATE, 0);
    }
    const image = readCurrentManifest(env, directory, identity);
    const manifest = new LsmManifest(env, directory, identity, options, image);
    if (!isReadOnly) manifest.#takeOver(image);
    return manifest;
  }

  /**
   * A manifest that says `state`, whatever there was before. For repair. @throws as open()
   */
  static rebuild(env: Env, directory: string, identity: LsmIdentity, state: LsmState): LsmManifest {
    checkIdentity(identity);
    const numbers = env.list(directory).map(manifestNumber);
    const last = Math.max(0, ...numbers.filter((number) => number !== undefined));
    return LsmManifest.#create(env, directory, identity, {}, state, last);
  }

  static #create(
    env: Env,
    directory: string,
    identity: LsmIdentity,
    options: ManifestOptions,
    state: LsmState,
    last: number,
  ): LsmManifest {
    const manifest = new LsmManifest(env, directory, identity, options);
    manifest.#state = state;
    manifest.#nextFile = state.nextFile;
    manifest.#number = last;
    // The directory's own name: whoever names the tree must find it.
    const parent = directory.slice(0, Math.max(1, directory.lastIndexOf('/')));
    if (directory.includes('/') && env.exists(parent)) env.syncDirectory(parent);
    manifest.roll();
    return manifest;
  }

  /** What the durable edits lead to. A new object after each. */
  get state(): LsmState {
    return this.#state;
  }

  /** Of the file; 0 in a tree that could not be begun. */
  get number(): number {
    return this.#number;
  }

  /** False after a failed append(), until a roll has worked: see the file's head. */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** Of the manifest's file, up to the end of the last edit; 0 while none can be written to. */
  get bytes(): number {
    return this.#log?.end ?? 0;
  }

  /**
   * Makes the edit. It is durable, and part of `state`, when this returns.
   * @throws ERR_IO, ERR_DISK_FULL: see the file's head · ERR_READ_ONLY · ERR_INTERNAL when the edit does not fit the state
   */
  append(edit: VersionEdit): void {
    this.#mustWrite();
    const after = applyEdit(this.#state, edit);
    if (typeof after === 'string') throw new ConcordError('ERR_INTERNAL', `manifest of ${this.directory}: ${after}`);
    const problem = checkState(after, edit)[0];
    assert(problem === undefined, `manifest of ${this.directory}: ${problem}`);
    const { bytes, payloadBytes } = encodeEdit(edit, FRAME_HEADER_BYTES);
    if (payloadBytes === 0) return;
    assert(payloadBytes <= PAYLOAD_BYTES_MAX, `an edit of ${payloadBytes} bytes`);
    if (this.#log === undefined) this.roll();
    else if (this.#isDue(this.#log, bytes.length)) this.#tryRoll();
    try {
      this.#write(this.#log!, bytes, payloadBytes);
    } catch (error) {
      this.#giveUp();
      try {
        this.roll();
      } catch {
        // The caller hears of the first failure; the next edit tries to roll again.
      }
      throw error;
    }
    this.#state = after;
  }

  /**
   * The first of `count` numbers of files in a row. None is given twice, whatever happens to the process.
   * @throws as append()
   */
  takeFiles(count: number): number {
    assert(Number.isInteger(count) && count >= 1, `${count} is a count of files`);
    this.#mustWrite();
    const first = this.#nextFile;
    const end = first + count;
    if (end > this.#state.nextFile) {
      if (end > FILE_NUMBER_MAX)
        throw new ConcordError('ERR_INTERNAL', `${this.directory}: all numbers of files are used up`);
      this.append({ nextFile: Math.min(FILE_NUMBER_MAX, end + RESERVED_FILES) });
    }
    this.#nextFile = end;
    return first;
  }

  /**
   * Begins a new file with the state as it is, and removes the old one. append() does it when it is due.
   * @throws ERR_IO, ERR_DISK_FULL, ERR_PERMISSION: nothing has changed; try again
   */
  roll(): void {
    this.#mustWrite();
    const log = this.#begin();
    this.#giveUp();
    try {
      this.#point(log.number);
    } catch (error) {
      closeQuietly(log.file);
      throw error;
    }
    this.#log = log;
    this.#isSettled = true;
    this.#writeSeal(log);
    this.#removeOthers();
  }

  close(): void {
    this.#isClosed = true;
    if (this.#log !== undefined) closeQuietly(this.#log.file);
    this.#log = undefined;
  }

  // ---- opening ----------------------------------------------------------------------------------------------------------------------------

  /** What was read must be there after a power loss too before anybody acts on it: files are removed because of it. */
  #takeOver(image: ManifestImage): void {
    this.#env.syncDirectory(this.directory);
    const isOld = image.header.version < MANIFEST_FORMAT_VERSION;
    if (isOld || image.cut !== undefined || image.end >= this.#rollLimit(image.snapshotBytes)) {
      this.roll();
      return;
    }
    const file = this.#env.open(image.path, 'write');
    const log: Log = {
      file,
      number: image.number,
      seed: image.seed,
      snapshotBytes: image.snapshotBytes,
      fileBytes: image.fileBytes,
      end: image.end,
      sequence: image.sequence,
    };
    try {
      if (!image.isSealed) {
        // Its sync may have failed, and then only bytes that are written anew are synced.
        file.write(image.bytes, image.lastFrame, image.end - image.lastFrame, image.lastFrame);
        file.sync();
      }
    } catch (error) {
      closeQuietly(file);
      throw error;
    }
    this.#log = log;
    if (!image.isSealed) this.#writeSeal(log);
    this.#removeOthers();
  }

  // ---- writing ----------------------------------------------------------------------------------------------------------------------------

  #mustWrite(): void {
    if (this.#isClosed) throw new ConcordError('ERR_CLOSED', `the manifest of ${this.directory} is closed`);
    if (this.#isReadOnly) {
      throw new ConcordError('ERR_READ_ONLY', `the manifest of ${this.directory} was opened read-only`);
    }
  }

  #rollLimit(snapshotBytes: number): number {
    return Math.max(this.#rollBytes, ROLL_FACTOR * snapshotBytes);
  }

  #isDue(log: Log, moreBytes: number): boolean {
    // A file that holds nothing but its state would not become shorter.
    return log.sequence > 1 && log.end + moreBytes > this.#rollLimit(log.snapshotBytes);
  }

  /** A full disk does not stop edits while there is room in the old file. */
  #tryRoll(): void {
    try {
      this.roll();
    } catch (error) {
      if (this.#log === undefined) throw error;
    }
  }

  /** Nothing more is written to the file. */
  #giveUp(): void {
    const log = this.#log;
    if (log === undefined) return;
    this.#log = undefined;
    closeQuietly(log.file);
  }

  /** bytes: a header's place, the payload and its padding. */
  #write(log: Log, bytes: Uint8Array, payloadBytes: number): void {
    const sequence = log.sequence + 1;
    const length = sealFrame(bytes, 0, payloadBytes, FrameKind.Edit, sequence, log.seed);
    const needed = log.end + length + FRAME_HEADER_BYTES;
    if (needed > log.fileBytes) {
      const fileBytes = Math.ceil(needed / GROWTH_BYTES) * GROWTH_BYTES;
      log.file.truncate(fileBytes);
      log.file.sync();
      log.fileBytes = fileBytes;
    }
    this.#isSettled = false;
    log.file.write(bytes, 0, length, log.end);
    log.file.sync();
    this.#isSettled = true;
    log.end += length;
    log.sequence = sequence;
    this.#writeSeal(log);
  }

  /** Not synced, and may fail: it only lets the next reader tell more. A failed write may leave anything there, so nothing more goes into that file. */
  #writeSeal(log: Log): void {
    const bytes = new Uint8Array(FRAME_HEADER_BYTES);
    sealFrame(bytes, 0, 0, FrameKind.Seal, log.sequence, log.seed);
    try {
      log.file.write(bytes, 0, bytes.length, log.end);
    } catch {
      this.#giveUp();
    }
  }

  /** A new file, durable, that nothing points to yet. */
  #begin(): Log {
    const env = this.#env;
    const names = env.list(this.directory);
    const taken = names.map(manifestNumber).filter((number) => number !== undefined);
    const number = Math.max(this.#number, ...taken) + 1;
    const { bytes, payloadBytes } = encodeEdit(snapshotEdit(this.#state), HEADER_BYTES + FRAME_HEADER_BYTES);
    assert(payloadBytes <= PAYLOAD_BYTES_MAX, `a state of ${payloadBytes} bytes`);
    const seed = encodeHeader(bytes, {
      identity: this.identity,
      number,
      createdAt: env.now(),
      salt: env.randomBytes(SALT_BYTES),
    });
    const snapshotBytes = sealFrame(bytes, HEADER_BYTES, payloadBytes, FrameKind.Snapshot, 1, seed);
    const end = HEADER_BYTES + frameBytes(payloadBytes);
    const fileBytes = Math.ceil((end + FRAME_HEADER_BYTES) / GROWTH_BYTES) * GROWTH_BYTES;
    // Written, not only reserved: the next edits need no space on a disk that has become full.
    const whole = new Uint8Array(fileBytes);
    whole.set(bytes);
    const path = `${this.directory}/${manifestName(number)}`;
    const file = env.open(path, 'create');
    try {
      file.write(whole, 0, fileBytes, 0);
      file.sync();
      // The name must not come later than the one that leads to it.
      env.syncDirectory(this.directory);
    } catch (error) {
      closeQuietly(file);
      removeQuietly(env, path);
      throw error;
    }
    return { file, number, seed, snapshotBytes, fileBytes, end, sequence: 1 };
  }

  /** From now on this file is the manifest. After a failure either may be: both say the same, and neither is written to. */
  #point(number: number): void {
    const env = this.#env;
    const path = `${this.directory}/${CURRENT_TEMPORARY_NAME}`;
    if (env.exists(path)) env.remove(path);
    const text = Buffer.from(currentText(this.identity, number), 'latin1');
    const file = env.open(path, 'create');
    try {
      file.write(text, 0, text.length, 0);
      file.sync();
    } finally {
      file.close();
    }
    env.rename(path, `${this.directory}/${CURRENT_NAME}`);
    this.#number = number;
    env.syncDirectory(this.directory);
  }

  /** What a roll or a crash left. Failures do not matter: the next one removes it. */
  #removeOthers(): void {
    let names;
    try {
      names = this.#env.list(this.directory);
    } catch {
      return;
    }
    for (const name of names) {
      const number = manifestNumber(name);
      const isLeft = name === CURRENT_TEMPORARY_NAME || (number !== undefined && number !== this.#number);
      if (isLeft) removeQuietly(this.#env, `${this.directory}/${name}`);
    }
  }
}

/**
 * Without CURRENT: whether all there is comes from a creation that did not finish, which can only be a manifest of the empty state. Anything
 * else had a CURRENT once.
 */
function isUnfinishedCreation(env: Env, directory: string, identity: LsmIdentity, names: readonly string[]): boolean {
  return names.every((name) => {
    if (tableNumber(name) !== undefined || blobNumber(name) !== undefined) return false;
    const number = manifestNumber(name);
    if (number === undefined) return true;
    if (number !== 1) return false;
    try {
      const { sequence, state } = readManifest(env, `${directory}/${name}`, { identity, number });
      return sequence === 1 && state.nextFile === 1 && state.storedSeq === 0;
    } catch (error) {
      if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') throw error;
      return true;
    }
  });
}

function closeQuietly(file: EnvFile): void {
  try {
    file.close();
  } catch {
    // Everything that matters was synced.
  }
}

function removeQuietly(env: Env, path: string): void {
  try {
    env.remove(path);
  } catch {
    // It means nothing, and goes at the next open.
  }
}

/**
 * Removes tables and blob files that the state does not name, and temporary files; returns their names. `keep`: files that somebody still needs, a reader of
 * an older version or a job whose edit is not made yet. Files with other names are not ours. Not while the manifest is not settled.
 * @throws ERR_IO, ERR_PERMISSION
 */
export function removeOrphans(
  env: Env,
  directory: string,
  state: LsmState,
  keep: (number: number) => boolean = () => false,
): string[] {
  const removed: string[] = [];
  for (const name of env.list(directory)) {
    const table = tableNumber(name);
    const blob = blobNumber(name);
    const isOrphan =
      (table !== undefined && !state.tables.has(table) && !keep(table)) ||
      (blob !== undefined && !state.blobs.has(blob) && !keep(blob)) ||
      (isTemporaryName(name) && name !== CURRENT_TEMPORARY_NAME);
    if (!isOrphan) continue;
    env.remove(`${directory}/${name}`);
    removed.push(name);
  }
  if (removed.length > 0) env.syncDirectory(directory);
  return removed;
}
