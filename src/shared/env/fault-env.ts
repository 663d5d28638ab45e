/**
 * Another Env with failures put in by rules: a disk that fills up, a sync that fails, a file that may not be read.
 *
 *   const env = new FaultEnv(new MemEnv());
 *   const rule = env.addRule({ operation: 'sync', path: /wal/, after: 3, times: 1, error: 'EIO' });   // the fourth sync of a log fails
 *   env.fillDisk(); … env.freeDisk();                                                               // no space, then space again
 *
 * A call that meets a rule fails before it reaches the inner Env, except that a write with `shortWriteBytes` first writes so many bytes. The
 * first rule, in the order they were added, that matches and is due decides. As on the real file system, a failed sync poisons the
 * handle: later writes, truncations and syncs of it throw ERR_IO.
 *
 * Threads: one, like the Env it wraps.
 */
import { ConcordError, invalidArgument } from '../errors.js';
import type { Env, EnvFile, OpenMode } from './env.js';
import { systemError } from './system-error.js';
import type { SystemErrorCode } from './system-error.js';

/** `create` is open(…, 'create'); `open` stands for every mode. */
export type FaultOperation =
  | 'open'
  | 'create'
  | 'read'
  | 'write'
  | 'sync'
  | 'size'
  | 'truncate'
  | 'close'
  | 'exists'
  | 'list'
  | 'makeDirectory'
  | 'rename'
  | 'remove'
  | 'syncDirectory';

export interface FaultRule {
  readonly operation: FaultOperation | readonly FaultOperation[];
  /** Default: every path. A rename matches by either of its paths. */
  readonly path?: RegExp;
  /** So many matching calls pass first. Default 0. */
  readonly after?: number;
  /** Then so many fail, and later ones pass again. Default: all. */
  readonly times?: number;
  readonly error: SystemErrorCode;
  /** Of a failing write, so many bytes are written first. Default 0. */
  readonly shortWriteBytes?: number;
}

/** A rule at work. */
export interface ActiveRule {
  /** How many calls it has failed. */
  readonly firedCount: number;
  remove(): void;
}

class RuleState implements ActiveRule {
  firedCount = 0;
  private passedCount = 0;
  private readonly operations: ReadonlySet<FaultOperation>;

  constructor(
    readonly rule: FaultRule,
    private readonly rules: Set<RuleState>,
  ) {
    this.operations = new Set(typeof rule.operation === 'string' ? [rule.operation] : rule.operation);
  }

  remove(): void {
    this.rules.delete(this);
  }

  /** Counts the call if it matches; true if it must fail. */
  claims(operation: FaultOperation, path: string, otherPath: string | undefined): boolean {
    const isOperation = this.operations.has(operation) || (operation === 'create' && this.operations.has('open'));
    if (!isOperation) return false;
    if (!matches(this.rule.path, path) && (otherPath === undefined || !matches(this.rule.path, otherPath)))
      return false;
    if (this.passedCount < (this.rule.after ?? 0)) {
      this.passedCount++;
      return false;
    }
    if (this.firedCount >= (this.rule.times ?? Infinity)) return false;
    this.firedCount++;
    return true;
  }
}

export class FaultEnv implements Env {
  private readonly rules = new Set<RuleState>();
  private readonly counts = new Map<FaultOperation, number>();
  private fullDisk: ActiveRule | undefined;

  constructor(
    private readonly inner: Env,
    rules: readonly FaultRule[] = [],
  ) {
    for (const rule of rules) this.addRule(rule);
  }

  addRule(rule: FaultRule): ActiveRule {
    for (const field of ['after', 'times', 'shortWriteBytes'] as const) {
      const value = rule[field];
      if (value !== undefined && !(value >= 0)) throw invalidArgument(`${field} must be at least 0, got ${value}`);
    }
    const state = new RuleState(rule, this.rules);
    this.rules.add(state);
    return state;
  }

  removeAllRules(): void {
    this.rules.clear();
    this.fullDisk = undefined;
  }

  /** From now on whatever needs space fails with ENOSPC; `path` limits it. Removing, reading and syncing still work. */
  fillDisk(path?: RegExp): void {
    this.freeDisk();
    this.fullDisk = this.addRule({
      operation: ['write', 'truncate', 'create', 'makeDirectory'],
      error: 'ENOSPC',
      ...(path === undefined ? {} : { path }),
    });
  }

  freeDisk(): void {
    this.fullDisk?.remove();
    this.fullDisk = undefined;
  }

  /** Calls so far, failed ones included. `open` counts every mode. */
  count(operation: FaultOperation): number {
    const own = this.counts.get(operation) ?? 0;
    return operation === 'open' ? own + (this.counts.get('create') ?? 0) : own;
  }

  open(path: string, mode: OpenMode): EnvFile {
    this.check(mode === 'create' ? 'create' : 'open', path);
    return new FaultFile(this, this.inner.open(path, mode));
  }

  exists(path: string): boolean {
    this.check('exists', path);
    return this.inner.exists(path);
  }

  list(directory: string): string[] {
    this.check('list', directory);
    return this.inner.list(directory);
  }

  makeDirectory(path: string): void {
    this.check('makeDirectory', path);
    this.inner.makeDirectory(path);
  }

  rename(from: string, to: string): void {
    this.check('rename', from, to);
    this.inner.rename(from, to);
  }

  remove(path: string): void {
    this.check('remove', path);
    this.inner.remove(path);
  }

  removeDirectory(path: string): void {
    this.check('remove', path);
    this.inner.removeDirectory?.(path);
  }

  syncDirectory(path: string): void {
    this.check('syncDirectory', path);
    this.inner.syncDirectory(path);
  }

  now(): number {
    return this.inner.now();
  }

  randomBytes(length: number): Uint8Array {
    return this.inner.randomBytes(length);
  }

  /** @internal Counts the call and throws what the rules say. */
  check(operation: FaultOperation, path: string, otherPath?: string): void {
    const rule = this.dueRule(operation, path, otherPath);
    if (rule !== undefined) throw systemError(rule.error, operation, path);
  }

  /** @internal Counts the call and returns the rule that fails it. */
  dueRule(operation: FaultOperation, path: string, otherPath?: string): FaultRule | undefined {
    this.counts.set(operation, (this.counts.get(operation) ?? 0) + 1);
    for (const state of this.rules) if (state.claims(operation, path, otherPath)) return state.rule;
    return undefined;
  }
}

class FaultFile implements EnvFile {
  private poison: ConcordError | undefined;

  constructor(
    private readonly env: FaultEnv,
    private readonly inner: EnvFile,
  ) {}

  get path(): string {
    return this.inner.path;
  }

  read(into: Uint8Array, start: number, length: number, position: number): number {
    this.env.check('read', this.path);
    return this.inner.read(into, start, length, position);
  }

  /** Meets the rules for reads. */
  async readAsync(into: Uint8Array, start: number, length: number, position: number): Promise<number> {
    this.env.check('read', this.path);
    const { inner } = this;
    return inner.readAsync === undefined
      ? inner.read(into, start, length, position)
      : inner.readAsync(into, start, length, position);
  }

  write(from: Uint8Array, start: number, length: number, position: number): void {
    this.mustBeTrusted('write');
    const rule = this.env.dueRule('write', this.path);
    if (rule === undefined) {
      this.inner.write(from, start, length, position);
      return;
    }
    const written = Math.min(length, rule.shortWriteBytes ?? 0);
    if (written > 0) this.inner.write(from, start, written, position);
    throw systemError(rule.error, 'write', this.path);
  }

  sync(): void {
    this.mustBeTrusted('sync');
    try {
      this.env.check('sync', this.path);
      this.inner.sync();
    } catch (error) {
      this.distrustAfter(error);
      throw error;
    }
  }

  /** Meets the rules for syncs, when it is called. */
  async syncAsync(): Promise<void> {
    this.mustBeTrusted('sync');
    const { inner } = this;
    try {
      this.env.check('sync', this.path);
      if (inner.syncAsync === undefined) inner.sync();
      else await inner.syncAsync();
    } catch (error) {
      this.distrustAfter(error);
      throw error;
    }
  }

  size(): number {
    this.env.check('size', this.path);
    return this.inner.size();
  }

  truncate(length: number): void {
    this.mustBeTrusted('truncate');
    this.env.check('truncate', this.path);
    this.inner.truncate(length);
  }

  close(): void {
    // Whatever close answers, the file is closed.
    try {
      this.env.check('close', this.path);
    } finally {
      this.inner.close();
    }
  }

  private distrustAfter(error: unknown): void {
    // Use after close is the caller's bug and says nothing about the data.
    if (error instanceof ConcordError && error.code !== 'ERR_INTERNAL') this.poison = error;
  }

  private mustBeTrusted(doing: string): void {
    if (this.poison === undefined) return;
    throw new ConcordError(
      'ERR_IO',
      `${doing} ${this.path}: an earlier sync failed, the file's content is unknown`,
      { file: this.path, poisoned: true },
      { cause: this.poison },
    );
  }
}

function matches(pattern: RegExp | undefined, path: string): boolean {
  if (pattern === undefined) return true;
  // A sticky or global pattern would remember where it stopped.
  pattern.lastIndex = 0;
  return pattern.test(path);
}
