/**
 * A disk in memory that crashes like a real one.
 *
 *   write, truncate ──► seen at once by every reader, pending until the file's sync
 *   create, rename, remove, makeDirectory ──► seen at once, pending until syncDirectory of the directories they touch
 *   crash(random, policy) ──► a new MemEnv with what survived; this one is left as it is
 *
 * What a crash leaves of unsynced data (`data` of the policy):
 *   drop-all   nothing
 *   keep-all   everything
 *   prefix     the changes up to a moment; the write of that moment is torn: only its first bytes or some of its sectors
 *   sectors    each 512-byte sector as it was at a moment of its own, and the size as at another: a page cache written out in any order
 *   writes     each write kept, dropped or torn by itself, even where they overlap in a sector: harsher than any real disk
 *   random     one of these, drawn per file
 * A size may survive without the data that made it grow: the range reads as zeros.
 *
 * What it leaves of unsynced names (`names`):
 *   drop-all, keep-all
 *   ordered    per directory the changes up to a moment (journaling file systems)
 *   arbitrary  any subset of them
 * A rename is atomic under each of them, also between directories. A file's sync makes its content durable, not its name: a file
 * whose creation was lost is gone with all its synced data.
 *
 * Everything is deterministic under the seeds given. The clock stands still unless advanced. Space is counted in chunks of 4 KiB.
 * Invariant: after sync of a file and syncDirectory of every directory above it, no crash takes or changes it (unless `ignoreSync`).
 *
 * Threads: one; an instance is not shared.
 */
import { posix } from 'node:path';
import { ConcordError } from '../errors.js';
import { Random } from '../random.js';
import type { Env, EnvFile, OpenMode } from './env.js';
import { CHUNK_BYTES, SparseBytes } from './sparse-bytes.js';
import { systemError } from './system-error.js';

/** What a disk writes as a whole or not at all. */
const SECTOR_BYTES = 512;

/** 2026-01-01, so that timestamps of tests look like timestamps. */
const CLOCK_START_MS = Date.UTC(2026, 0, 1);

/** Operations that change the disk or make a change durable. */
export type MutationKind =
  'create' | 'write' | 'truncate' | 'sync' | 'makeDirectory' | 'rename' | 'remove' | 'syncDirectory';

export type DataSurvival = 'drop-all' | 'keep-all' | 'prefix' | 'sectors' | 'writes' | 'random';
export type NameSurvival = 'drop-all' | 'keep-all' | 'ordered' | 'arbitrary';

/** The short forms mean: both so; for `random` names are ordered. */
export type CrashPolicy =
  'drop-all' | 'keep-all' | 'random' | { readonly data: DataSurvival; readonly names: NameSurvival };

export interface MemEnvOptions {
  /** Seed of randomBytes. Default 1. */
  readonly seed?: number;
  /** Size of the disk. Default: no limit. */
  readonly capacityBytes?: number;
  /** The control experiment: sync and syncDirectory make nothing durable. */
  readonly ignoreSync?: boolean;
  /**
   * Called before each mutation, `index` counting from 0. It may take crash() states of this moment, or throw a CrashSignal: the
   * mutation does not happen and from then on every call throws that signal.
   */
  readonly onOperation?: (index: number, kind: MutationKind, path: string) => void;
  /** For now(), in ms since the epoch. */
  readonly startMs?: number;
}

/** Thrown by an onOperation hook to stop the machine there. Deliberately no ConcordError: no handler should mistake it for a failed call. */
export class CrashSignal extends Error {
  constructor(message = 'the simulated machine has lost power') {
    super(message);
    this.name = 'CrashSignal';
  }
}

type DataChange =
  | { readonly kind: 'write'; readonly bytes: Uint8Array; readonly position: number }
  | { readonly kind: 'truncate'; readonly length: number };

class FileNode {
  /** As running programs see it. */
  content: SparseBytes;
  /** `durable` with all of `pending` applied equals `content`. */
  pending: DataChange[] = [];
  /** Changes that have become durable: with those pending, all there ever were. */
  syncedCount = 0;
  openCount = 0;
  hasName = true;

  constructor(public durable: SparseBytes) {
    this.content = durable.clone();
  }
}

class DirectoryNode {
  /** As running programs see it. */
  readonly names = new Map<string, MemNode>();
  /** As the disk has it. */
  readonly durable = new Map<string, MemNode>();
}

type MemNode = FileNode | DirectoryNode;

/** One change of names, kept or lost as a whole. */
interface NameChange {
  /** `node` undefined: the name goes away. */
  readonly sets: readonly {
    readonly directory: DirectoryNode;
    readonly name: string;
    readonly node: MemNode | undefined;
  }[];
}

export class MemEnv implements Env {
  private readonly root = new DirectoryNode();
  private pendingNames: NameChange[] = [];
  private readonly random: Random;
  private clockMs: number;
  private allocatedBytes = 0;
  private stopSignal: CrashSignal | undefined;
  private mutationCount = 0;
  private capacity: number;
  private readonly ignoreSync: boolean;
  private readonly onOperation: MemEnvOptions['onOperation'];

  constructor(options: MemEnvOptions = {}) {
    this.random = new Random(options.seed ?? 1);
    this.clockMs = options.startMs ?? CLOCK_START_MS;
    this.capacity = options.capacityBytes ?? Infinity;
    this.ignoreSync = options.ignoreSync ?? false;
    this.onOperation = options.onOperation;
  }

  open(path: string, mode: OpenMode): EnvFile {
    this.mustRun();
    const place = this.resolve(path, 'open');
    let node = place.node;
    if (mode === 'create') {
      if (node !== undefined) throw systemError('EEXIST', 'open', path);
      this.beforeMutation('create', path);
      node = new FileNode(new SparseBytes());
      this.changeNames({ sets: [{ directory: place.directory, name: place.name, node }] });
    }
    if (node === undefined) throw systemError('ENOENT', 'open', path);
    if (node instanceof DirectoryNode) throw systemError('EISDIR', 'open', path);
    return new MemFile(this, path, node, mode !== 'read');
  }

  exists(path: string): boolean {
    this.mustRun();
    return this.find(path) !== undefined;
  }

  list(directory: string): string[] {
    this.mustRun();
    return [...this.mustBeDirectory(directory, 'list').names.keys()].sort();
  }

  makeDirectory(path: string): void {
    this.mustRun();
    let directory = this.root;
    let isAnnounced = false;
    for (const name of partsOf(path)) {
      const found = directory.names.get(name);
      if (found instanceof FileNode) throw systemError('EEXIST', 'make directory', path);
      if (found !== undefined) {
        directory = found;
        continue;
      }
      if (!isAnnounced) this.beforeMutation('makeDirectory', path);
      isAnnounced = true;
      const made = new DirectoryNode();
      this.changeNames({ sets: [{ directory, name, node: made }] });
      directory = made;
    }
  }

  rename(from: string, to: string): void {
    this.mustRun();
    const source = this.resolve(from, 'rename');
    const target = this.resolve(to, 'rename');
    const node = source.node;
    if (node === undefined) throw systemError('ENOENT', 'rename', from);
    if (node === target.node) return;
    if (node instanceof DirectoryNode) {
      if (isBelow(partsOf(to), partsOf(from))) throw systemError('EINVAL', 'rename', from);
      if (target.node instanceof FileNode) throw systemError('ENOTDIR', 'rename', to);
      if (target.node !== undefined && target.node.names.size > 0) throw systemError('ENOTEMPTY', 'rename', to);
    } else if (target.node instanceof DirectoryNode) throw systemError('EISDIR', 'rename', to);
    this.beforeMutation('rename', from);
    this.changeNames({
      sets: [
        { directory: source.directory, name: source.name, node: undefined },
        { directory: target.directory, name: target.name, node },
      ],
    });
  }

  remove(path: string): void {
    this.mustRun();
    const place = this.resolve(path, 'remove');
    if (place.node === undefined) throw systemError('ENOENT', 'remove', path);
    if (place.node instanceof DirectoryNode) throw systemError('EISDIR', 'remove', path);
    this.beforeMutation('remove', path);
    this.changeNames({ sets: [{ directory: place.directory, name: place.name, node: undefined }] });
  }

  removeDirectory(path: string): void {
    this.mustRun();
    const place = this.resolve(path, 'remove directory');
    if (place.node === undefined) throw systemError('ENOENT', 'remove directory', path);
    if (!(place.node instanceof DirectoryNode)) throw systemError('ENOTDIR', 'remove directory', path);
    if (place.node.names.size > 0) throw systemError('ENOTEMPTY', 'remove directory', path);
    this.beforeMutation('remove', path);
    this.changeNames({ sets: [{ directory: place.directory, name: place.name, node: undefined }] });
  }

  syncDirectory(path: string): void {
    this.mustRun();
    const directory = this.mustBeDirectory(path, 'sync directory');
    this.beforeMutation('syncDirectory', path);
    if (this.ignoreSync) return;
    // A rename ties two directories together: what came before it in the other one becomes durable with it.
    const durableUpTo = new Map<DirectoryNode, number>([[directory, this.pendingNames.length]]);
    const isCovered = (change: NameChange, index: number): boolean =>
      change.sets.some((set) => index < (durableUpTo.get(set.directory) ?? 0));
    for (let index = this.pendingNames.length - 1; index >= 0; index--) {
      const change = this.pendingNames[index]!;
      if (!isCovered(change, index)) continue;
      for (const { directory } of change.sets) {
        durableUpTo.set(directory, Math.max(durableUpTo.get(directory) ?? 0, index + 1));
      }
    }
    const left: NameChange[] = [];
    this.pendingNames.forEach((change, index) => {
      if (isCovered(change, index)) applyNames(change, (directory) => directory.durable);
      else left.push(change);
    });
    this.pendingNames = left;
  }

  now(): number {
    this.mustRun();
    return this.clockMs;
  }

  randomBytes(length: number): Uint8Array {
    this.mustRun();
    return this.random.bytes(length);
  }

  advanceClock(ms: number): void {
    this.clockMs += ms;
  }

  /** Mutations so far; the index of the next one. */
  get operationCount(): number {
    return this.mutationCount;
  }

  /** Space taken by named and open files. */
  get usedBytes(): number {
    return this.allocatedBytes;
  }

  /** Fills the disk (a value below usedBytes) or gives space back. */
  setCapacity(capacityBytes: number): void {
    this.capacity = capacityBytes;
  }

  /** From now on every call throws, as after a CrashSignal of the hook. crash() still works. */
  stop(signal = new CrashSignal()): void {
    this.stopSignal ??= signal;
  }

  /**
   * The disk as found after a power loss now. Draws its choices from `random`, and leaves this disk as it is, so many crashes of one moment can be
   * looked at. The survivor keeps capacity, clock and ignoreSync unless `options` say otherwise.
   */
  crash(random: Random, policy: CrashPolicy = 'random', options: MemEnvOptions = {}): MemEnv {
    const { data, names } = spelledOut(policy);
    const survivor = new MemEnv({
      seed: random.nextU32(),
      capacityBytes: this.capacity,
      ignoreSync: this.ignoreSync,
      startMs: this.clockMs,
      ...options,
    });
    const tables = this.survivingTables(random, names);
    const copy = (from: DirectoryNode, to: DirectoryNode): void => {
      for (const [name, node] of tables.get(from) ?? from.durable) {
        let twin: MemNode;
        if (node instanceof FileNode) {
          twin = new FileNode(survivingContent(node, random, data));
          survivor.allocatedBytes += twin.content.allocatedBytes;
        } else {
          twin = new DirectoryNode();
          copy(node, twin);
        }
        to.names.set(name, twin);
        to.durable.set(name, twin);
      }
    };
    copy(this.root, survivor.root);
    return survivor;
  }

  /** One line per name, for people: what is there and what a crash could take. */
  dump(): string {
    const lines: string[] = [];
    const visit = (directory: DirectoryNode, path: string): void => {
      for (const name of [...directory.names.keys()].sort()) {
        const node = directory.names.get(name)!;
        const isDurable = directory.durable.get(name) === node ? '' : ', name not durable';
        if (node instanceof FileNode) {
          const unsynced = node.pending.length === 0 ? '' : `, ${node.pending.length} unsynced changes`;
          lines.push(`${path}/${name}  ${node.content.size} bytes${unsynced}${isDurable}`);
        } else {
          lines.push(`${path}/${name}/${isDurable}`);
          visit(node, `${path}/${name}`);
        }
      }
      for (const name of [...directory.durable.keys()].sort()) {
        if (!directory.names.has(name)) lines.push(`${path}/${name}  removal not durable`);
      }
    };
    visit(this.root, '');
    return lines.join('\n');
  }

  // What open files call.

  /** @internal */
  writeFile(node: FileNode, path: string, from: Uint8Array, start: number, length: number, position: number): void {
    this.mustRun();
    this.beforeMutation('write', path);
    const fitting = this.fittingBytes(node, length, position);
    if (fitting > 0) {
      const bytes = new Uint8Array(fitting);
      bytes.set(from.subarray(start, start + fitting));
      this.changeContent(node, { kind: 'write', bytes, position });
    }
    if (fitting < length) throw systemError('ENOSPC', 'write', path);
  }

  /** @internal */
  truncateFile(node: FileNode, path: string, length: number): void {
    this.mustRun();
    this.beforeMutation('truncate', path);
    this.changeContent(node, { kind: 'truncate', length });
  }

  /** @internal */
  syncFile(node: FileNode, path: string, upToCount = Infinity): void {
    this.mustRun();
    this.beforeMutation('sync', path);
    if (this.ignoreSync) return;
    // Of an asynchronous one: others may have made these durable meanwhile.
    const count = Math.max(0, Math.min(node.pending.length, upToCount - node.syncedCount));
    const synced = node.pending.splice(0, count);
    for (const change of synced) applyData(node.durable, change);
    node.syncedCount += count;
  }

  /** @internal */
  releaseFile(node: FileNode): void {
    node.openCount--;
    this.freeIfUnused(node);
  }

  /** @internal */
  mustRun(): void {
    if (this.stopSignal !== undefined) throw this.stopSignal;
  }

  private beforeMutation(kind: MutationKind, path: string): void {
    const index = this.mutationCount++;
    if (this.onOperation === undefined) return;
    try {
      this.onOperation(index, kind, path);
    } catch (error) {
      if (error instanceof CrashSignal) this.stop(error);
      throw error;
    }
  }

  private changeContent(node: FileNode, change: DataChange): void {
    const before = node.content.allocatedBytes;
    applyData(node.content, change);
    node.pending.push(change);
    this.allocatedBytes += node.content.allocatedBytes - before;
  }

  /** How much of a write has room, from its start. */
  private fittingBytes(node: FileNode, length: number, position: number): number {
    if (this.capacity === Infinity) return length;
    const free = this.capacity - this.allocatedBytes;
    if (node.content.missingBytes(length, position) <= free) return length;
    let fitting = 0;
    while (fitting < length) {
      const step = Math.min(length - fitting, CHUNK_BYTES - ((position + fitting) % CHUNK_BYTES));
      if (node.content.missingBytes(fitting + step, position) > free) break;
      fitting += step;
    }
    return fitting;
  }

  private changeNames(change: NameChange): void {
    const displaced = change.sets.map((set) => set.directory.names.get(set.name));
    applyNames(change, (directory) => directory.names);
    this.pendingNames.push(change);
    for (const node of displaced) {
      if (!(node instanceof FileNode) || change.sets.some((set) => set.node === node)) continue;
      node.hasName = false;
      this.freeIfUnused(node);
    }
  }

  private freeIfUnused(node: FileNode): void {
    if (!node.hasName && node.openCount === 0) this.allocatedBytes -= node.content.allocatedBytes;
  }

  /** Durable names of the directories in which pending changes survived. */
  private survivingTables(random: Random, policy: NameSurvival): Map<DirectoryNode, Map<string, MemNode>> {
    const tables = new Map<DirectoryNode, Map<string, MemNode>>();
    const kept = survivingChanges(this.pendingNames, random, policy);
    if (kept.length === 0) return tables;
    const tableOf = (directory: DirectoryNode): Map<string, MemNode> => {
      let table = tables.get(directory);
      if (table === undefined) tables.set(directory, (table = new Map(directory.durable)));
      return table;
    };
    const isArbitrary = policy === 'arbitrary';
    if (isArbitrary) for (const directory of this.everyDirectory()) tableOf(directory);
    for (const change of kept) {
      if (isArbitrary) {
        // A rename may survive where an earlier rename of the same file was lost: the file leaves the name it durably has.
        for (const { node } of change.sets) if (node !== undefined) removeNode(tables, node);
      }
      applyNames(change, tableOf);
    }
    return tables;
  }

  private everyDirectory(): Set<DirectoryNode> {
    const all = new Set<DirectoryNode>();
    const visit = (node: MemNode | undefined): void => {
      if (!(node instanceof DirectoryNode) || all.has(node)) return;
      all.add(node);
      for (const child of node.durable.values()) visit(child);
    };
    visit(this.root);
    for (const change of this.pendingNames) {
      for (const set of change.sets) {
        visit(set.directory);
        visit(set.node);
      }
    }
    return all;
  }

  private find(path: string): MemNode | undefined {
    let node: MemNode = this.root;
    for (const name of partsOf(path)) {
      const next: MemNode | undefined = node instanceof DirectoryNode ? node.names.get(name) : undefined;
      if (next === undefined) return undefined;
      node = next;
    }
    return node;
  }

  private mustBeDirectory(path: string, doing: string): DirectoryNode {
    const node = this.find(path);
    if (node === undefined) throw systemError('ENOENT', doing, path);
    if (node instanceof FileNode) throw systemError('ENOTDIR', doing, path);
    return node;
  }

  /** The directory that holds or would hold the name, which must exist. */
  private resolve(path: string, doing: string): { directory: DirectoryNode; name: string; node: MemNode | undefined } {
    const parts = partsOf(path);
    const name = parts.pop();
    if (name === undefined) throw systemError('EISDIR', doing, path);
    let directory = this.root;
    for (const part of parts) {
      const next = directory.names.get(part);
      if (next === undefined) throw systemError('ENOENT', doing, path);
      if (next instanceof FileNode) throw systemError('ENOTDIR', doing, path);
      directory = next;
    }
    return { directory, name, node: directory.names.get(name) };
  }
}

class MemFile implements EnvFile {
  private closed = false;

  constructor(
    private readonly env: MemEnv,
    readonly path: string,
    private readonly node: FileNode,
    private readonly isWritable: boolean,
  ) {
    node.openCount++;
  }

  read(into: Uint8Array, start: number, length: number, position: number): number {
    this.mustBeOpen();
    checkRange(into, start, length, position);
    return this.node.content.read(into, start, length, position);
  }

  /** What the file holds when the event loop comes round, as on a real machine. */
  async readAsync(into: Uint8Array, start: number, length: number, position: number): Promise<number> {
    this.mustBeOpen();
    await new Promise<void>((resolve) => setImmediate(resolve));
    return this.read(into, start, length, position);
  }

  write(from: Uint8Array, start: number, length: number, position: number): void {
    this.mustBeOpen();
    checkRange(from, start, length, position);
    if (!this.isWritable) throw systemError('EBADF', 'write', this.path);
    if (length > 0) this.env.writeFile(this.node, this.path, from, start, length, position);
  }

  sync(): void {
    this.mustBeOpen();
    this.env.syncFile(this.node, this.path);
  }

  /** Durable when the event loop comes round, and only what was written before the call: all that a real machine promises. */
  async syncAsync(): Promise<void> {
    this.mustBeOpen();
    const upToCount = this.node.syncedCount + this.node.pending.length;
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.mustBeOpen();
    this.env.syncFile(this.node, this.path, upToCount);
  }

  size(): number {
    this.mustBeOpen();
    return this.node.content.size;
  }

  truncate(length: number): void {
    this.mustBeOpen();
    checkRange(EMPTY, 0, 0, length);
    if (!this.isWritable) throw systemError('EINVAL', 'truncate', this.path);
    this.env.truncateFile(this.node, this.path, length);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.env.releaseFile(this.node);
  }

  private mustBeOpen(): void {
    this.env.mustRun();
    if (this.closed) throw new ConcordError('ERR_INTERNAL', `${this.path} is used after close`, { file: this.path });
  }
}

const EMPTY = new Uint8Array(0);

/** node:fs throws on such arguments too. */
function checkRange(bytes: Uint8Array, start: number, length: number, position: number): void {
  const isValid =
    Number.isSafeInteger(start) &&
    Number.isSafeInteger(length) &&
    Number.isSafeInteger(position) &&
    start >= 0 &&
    length >= 0 &&
    position >= 0 &&
    start + length <= bytes.length;
  if (!isValid) {
    throw new RangeError(`${length} bytes from ${start} of a buffer of ${bytes.length} at position ${position}`);
  }
}

function partsOf(path: string): string[] {
  return posix
    .resolve('/', path)
    .split('/')
    .filter((part) => part !== '');
}

function isBelow(path: readonly string[], above: readonly string[]): boolean {
  return path.length > above.length && above.every((part, index) => path[index] === part);
}

function spelledOut(policy: CrashPolicy): { data: DataSurvival; names: NameSurvival } {
  if (typeof policy === 'object') return policy;
  return { data: policy, names: policy === 'random' ? 'ordered' : policy };
}

function applyData(content: SparseBytes, change: DataChange): void {
  if (change.kind === 'truncate') content.resize(change.length);
  else content.write(change.bytes, 0, change.bytes.length, change.position);
}

function applyNames(change: NameChange, tableOf: (directory: DirectoryNode) => Map<string, MemNode>): void {
  for (const { directory, name, node } of change.sets) {
    if (node === undefined) tableOf(directory).delete(name);
    else tableOf(directory).set(name, node);
  }
}

function removeNode(tables: Map<DirectoryNode, Map<string, MemNode>>, node: MemNode): void {
  for (const table of tables.values()) {
    for (const [name, other] of table) if (other === node) table.delete(name);
  }
}

function survivingChanges(changes: readonly NameChange[], random: Random, policy: NameSurvival): readonly NameChange[] {
  if (policy === 'drop-all' || changes.length === 0) return [];
  if (policy === 'keep-all') return changes;
  if (policy === 'arbitrary') {
    const probability = random.pick([0.1, 0.5, 0.9]);
    return changes.filter(() => random.chance(probability));
  }
  const moments = new Map<DirectoryNode, number>();
  const momentOf = (directory: DirectoryNode): number => {
    let moment = moments.get(directory);
    if (moment === undefined) moments.set(directory, (moment = anyMoment(random, changes.length)));
    return moment;
  };
  return changes.filter((change, index) => {
    if (change.sets.every((set) => index < momentOf(set.directory))) return true;
    // What follows in either directory of a lost rename is lost too.
    for (const { directory } of change.sets) moments.set(directory, Math.min(index, momentOf(directory)));
    return false;
  });
}

function survivingContent(file: FileNode, random: Random, policy: DataSurvival): SparseBytes {
  const changes = file.pending;
  if (changes.length === 0) return file.durable.clone();
  const chosen =
    policy === 'random' ? random.pick(['drop-all', 'keep-all', 'prefix', 'sectors', 'writes'] as const) : policy;
  // Reads of both are the same bytes; the clone spares applying the changes again.
  if (chosen === 'keep-all') return file.content.clone();
  const content = file.durable.clone();
  if (chosen === 'prefix') keepPrefix(content, changes, random);
  else if (chosen === 'sectors') keepSectors(content, changes, random);
  else if (chosen === 'writes') keepWrites(content, changes, random);
  return content;
}

/** How many of `count` changes came before the moment; the extremes are the interesting ones, so they are likelier. */
function anyMoment(random: Random, count: number): number {
  return random.pick([0, count, random.below(count + 1)]);
}

function keepPrefix(content: SparseBytes, changes: readonly DataChange[], random: Random): void {
  const moment = anyMoment(random, changes.length);
  for (let index = 0; index < moment; index++) applyData(content, changes[index]!);
  const torn = changes[moment];
  if (torn?.kind === 'write') tear(content, torn.bytes, torn.position, random);
}

function keepWrites(content: SparseBytes, changes: readonly DataChange[], random: Random): void {
  for (const change of changes) {
    const fate = random.pick(['kept', 'kept', 'dropped', 'torn']);
    if (fate === 'kept') applyData(content, change);
    else if (change.kind === 'write' && fate === 'torn') tear(content, change.bytes, change.position, random);
    else if (change.kind === 'write' && random.chance(0.5)) {
      content.resize(Math.max(content.size, change.position + change.bytes.length));
    }
  }
}

function keepSectors(content: SparseBytes, changes: readonly DataChange[], random: Random): void {
  const sizeMoment = anyMoment(random, changes.length);
  const moments = new Map<number, number>();
  let size = content.size;
  changes.forEach((change, index) => {
    if (change.kind === 'truncate') {
      if (index < sizeMoment) content.resize((size = change.length));
      return;
    }
    const end = change.position + change.bytes.length;
    if (index < sizeMoment) size = Math.max(size, end);
    forEachSector(change.bytes, change.position, (sector, start, length) => {
      let moment = moments.get(sector);
      if (moment === undefined) moments.set(sector, (moment = anyMoment(random, changes.length)));
      if (index < moment) content.write(change.bytes, start, length, change.position + start);
    });
  });
  content.resize(size);
}

/** A write that was under way: its first bytes, or some of its sectors. */
function tear(content: SparseBytes, bytes: Uint8Array, position: number, random: Random): void {
  const end = Math.max(content.size, position + bytes.length);
  if (random.chance(0.5)) content.write(bytes, 0, random.below(bytes.length + 1), position);
  else {
    const probability = random.pick([0.2, 0.5, 0.8]);
    forEachSector(bytes, position, (_sector, start, length) => {
      if (random.chance(probability)) content.write(bytes, start, length, position + start);
    });
  }
  if (random.chance(0.5)) content.resize(end);
}

/** The pieces of a write by the disk's sectors: `start` counts within the written bytes. */
function forEachSector(
  bytes: Uint8Array,
  position: number,
  visit: (sector: number, start: number, length: number) => void,
): void {
  let start = 0;
  while (start < bytes.length) {
    const at = position + start;
    const length = Math.min(bytes.length - start, SECTOR_BYTES - (at % SECTOR_BYTES));
    visit(Math.floor(at / SECTOR_BYTES), start, length);
    start += length;
  }
}
