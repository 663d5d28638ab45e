/**
 * What the user of a transaction holds: its reads and writes of one space, and, of the transaction itself, commit, rollback and savepoints.
 *
 * Calls may come from several asynchronous flows of the thread at once; each takes effect as a whole, at the time of the call or before its promise settles:
 * all but update(), which writes over what was put under its key since it was read.
 * A write is seen by every later read of the transaction. Nothing is seen by others before the commit.
 * Threads: the one that made it.
 */
import { describeType } from '../../shared/codec/key-scratch.js';
import { encodedBytesMax } from '../../shared/codec/value-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { hashBytes } from '../../shared/hash.js';
import { MAX_VALUE_BYTES } from '../../engines/operation.js';
import { Isolation } from '../../engines/txn/body.js';
import type { SpaceView } from '../client/space-view.js';
import { Counter } from '../metrics/board.js';
import { isTraced, traced, type OperationContext, type TracedOperation } from '../metrics/tracing.js';
import { decodeRaw } from '../pool/iterators.js';
import type { AnySpace } from '../pool/keyspace.js';
import { checkLimit, encodeRange, isEmptyRange, type EncodedRange, type RangeOptions } from '../pool/range.js';
import type { Entry } from '../pool/reads.js';
import type { RawValue } from '../pool/scan.js';
import { SpaceSource, spaceNotCreated } from '../pool/source.js';
import { Phase, type RangeRead, type TransactionCore } from './core.js';
import { callChange, isInsideUpdate } from './inside-update.js';
import { TransactionIterator, TransactionSyncIterator, type Footing, type OverlayPlan } from './iterator.js';
import { LockMode } from './locks.js';
import type { TransactionManager } from './manager.js';
import { isolationName, type IsolationName, type TransactionMode } from './options.js';
import type { KeyEntry, Write } from './working-set.js';

export interface TransactionPutOptions {
  /** The entry ceases to be so many milliseconds after this call. Default: never. */
  readonly ttlMs?: number | undefined;
  /** Only if the key is absent, as the transaction sees it; otherwise nothing happens and the promise resolves to false. */
  readonly ifAbsent?: boolean | undefined;
  /** Only if the entry, as the transaction sees it, has this version (0: is absent); what it has written itself has none. */
  readonly ifVersion?: number | undefined;
}

export interface TransactionDelOptions {
  readonly ifVersion?: number | undefined;
}

/** An operation of a batch, encoded. */
export interface BlindWrite {
  readonly key: Buffer;
  readonly hash: number;
  /** undefined: delete. */
  readonly value: string | Buffer | undefined;
  /** ms since the epoch; 0: never. */
  readonly expiresAt: number;
}

export interface TransactionRangeOptions<K> extends RangeOptions<K> {
  /** From the last key to the first. Default false. */
  readonly reverse?: boolean;
  /** At most so many entries; -1 or absent: all. */
  readonly limit?: number;
  /** Ends the iteration with its reason, also while its lock is waited for. The lock may be granted nevertheless, and is held to the end of the transaction then. */
  readonly signal?: AbortSignal | undefined;
}

/** Shared by all: a write in an optimistic transaction is made when the call returns. */
const written = Promise.resolve(true);
const notWritten = Promise.resolve(false);
const EXPIRES_AT_MAX = 2 ** 48 - 1;

/** What the read at hand has found. One per thread: a read fills it and its caller empties it at once. */
let foundRaw: RawValue = '';
let foundSeq = 0;
let foundExpiresAt = 0;

export abstract class TransactionReads<K, V> {
  /** @internal */
  readonly source: SpaceSource;
  readonly #manager: TransactionManager;

  /** @internal */
  constructor(manager: TransactionManager, source: SpaceSource) {
    this.#manager = manager;
    this.source = source;
  }

  /** @internal */
  abstract get core(): TransactionCore;
  /** The handle, which must not be collected while its parts are used. */
  protected abstract get owner(): object;

  // ---- keys -------------------------------------------------------------------------------------------------------------------------------

  /** Encodes the key into the manager's scratch. */
  #encode(key: K): number {
    return this.source.keyEncoding.encode(key, this.#manager.scratch);
  }

  /** The entry of the key in the scratch, made if there is none. */
  #entryOf(core: TransactionCore, hash: number, length: number): KeyEntry {
    const { source } = this;
    const { bytes } = this.#manager.scratch;
    return (
      core.set.find(source.spaceId, hash, bytes, length) ??
      core.set.add(source, core.shardOf(source, hash), hash, bytes, length)
    );
  }

  /** The entry of the key, made if there is none. */
  #entryFor(core: TransactionCore, key: K): KeyEntry {
    const { set } = core;
    const { source } = this;
    if (typeof key === 'string' && set.isCompared) {
      const known = set.findText(source, key);
      if (known !== undefined) return known;
      const { room } = set;
      const length = source.keyEncoding.encode(key, room);
      const shard = source.views.length === 1 ? 0 : core.shardOf(source, hashBytes(room.bytes, 0, length));
      return set.addText(source, key, shard, length);
    }
    const length = this.#encode(key);
    return this.#entryOf(core, hashBytes(this.#manager.scratch.bytes, 0, length), length);
  }

  /** For calls that cannot wait for a space to be created. */
  #begin(core: TransactionCore): void {
    core.assertActive();
    this.source.assertUsable();
    if (this.source.pending !== undefined) throw spaceNotCreated(this.source.name);
    core.open();
  }

  // ---- reads ------------------------------------------------------------------------------------------------------------------------------

  /**
   * The value as the transaction sees it, its own writes included, or undefined. Takes no lock, in no mode: the commit finds out whether it still holds.
   * @throws ERR_CONFLICT, ERR_TRANSACTION_CLOSED, ERR_INVALID_ARG, ERR_KEY_TOO_LARGE, ERR_SPACE_DROPPED, ERR_DECODE, ERR_CORRUPT
   */
  getSync(key: K): V | undefined {
    const { core, source } = this;
    this.#begin(core);
    const { set } = core;
    if (typeof key === 'string' && core.canFloat) {
      if (set.canNote(source)) {
        const raw = this.#noteSync(core, key);
        if (raw !== CHANGED) return raw === undefined ? undefined : (decodeRaw(raw, source.valueEncoding) as V);
      } else if (set.isCompared) {
        const own = set.findText(source, key)?.write;
        if (own !== undefined) return this.#ownValue(own);
      }
    }
    return this.#getHashed(core, key);
  }

  #getHashed(core: TransactionCore, key: K): V | undefined {
    const { source } = this;
    const { set } = core;
    const length = this.#encode(key);
    const { bytes } = this.#manager.scratch;
    const hash = hashBytes(bytes, 0, length);
    const entry = set.find(source.spaceId, hash, bytes, length);
    if (entry?.write !== undefined) return this.#ownValue(entry.write);
    if (!this.#findSync(core, entry, hash, length, true)) return undefined;
    return decodeRaw(takeRaw(), source.valueEncoding) as V;
  }

  /** The short way of a read: nothing was written, and nothing has changed since the first read. CHANGED: something has, and nothing is noted. */
  #noteSync(core: TransactionCore, key: string): RawValue | undefined | typeof CHANGED {
    const { source } = this;
    const { set } = core;
    try {
      const { room } = set;
      const length = source.keyEncoding.encode(key, room);
      const { bytes } = room;
      const { views } = source;
      let hash = 0;
      let shard = 0;
      if (views.length > 1) {
        hash = hashBytes(bytes, 0, length);
        shard = core.shardOf(source, hash);
      }
      const view = views[shard]!;
      let raw: RawValue | undefined;
      let seq = 0;
      if (core.findNewest(view, shard, hash, bytes, length)) {
        const { reader } = view;
        try {
          seq = reader.seq;
          raw = source.isText ? reader.valueUtf8() : reader.copyValue();
        } finally {
          view.release();
        }
      }
      if (!core.hold()) return CHANGED;
      set.note(source, key, shard, length, seq);
      return raw;
    } catch (error) {
      throw failed(core, error);
    }
  }

  #ownValue(write: Write): V | undefined {
    if (!write.isPut || isExpired(write)) return undefined;
    return this.source.valueEncoding.decode(write.value, 0, write.length) as V;
  }

  /** Of the key in the scratch, which was not written: true when found*, are filled. @throws ERR_CONFLICT */
  #findSync(
    core: TransactionCore,
    known: KeyEntry | undefined,
    hash: number,
    length: number,
    wantsValue: boolean,
  ): boolean {
    const { source } = this;
    const { bytes } = this.#manager.scratch;
    const shard = core.shardOf(source, hash);
    const view = source.views[shard]!;
    if (core.isolation === Isolation.ReadCommitted)
      return this.#take(view, core.find(view, shard, hash, bytes, length), wantsValue);
    try {
      if (core.mustAnchor) core.anchorSync();
      const entry = known ?? core.set.add(source, shard, hash, bytes, length);
      for (;;) {
        const isFound = this.#take(view, core.find(view, shard, hash, bytes, length), wantsValue);
        if (core.settle(entry, foundSeq)) return isFound;
        core.anchorSync();
      }
    } catch (error) {
      throw failed(core, error);
    }
  }

  #take(view: SpaceView, isFound: boolean, wantsValue: boolean): boolean {
    foundSeq = 0;
    if (!isFound) return false;
    const { reader } = view;
    try {
      foundSeq = reader.seq;
      foundExpiresAt = reader.expiresAt;
      if (wantsValue) foundRaw = this.source.isText ? reader.valueUtf8() : reader.copyValue();
    } finally {
      view.release();
    }
    return true;
  }

  /**
   * As getSync(), but the event loop runs while something is waited for: a file, a snapshot, and in pessimistic mode, at serializable, a shared lock on the
   * key, present or not. @throws as getSync; ERR_DEADLOCK, ERR_LOCK_TIMEOUT
   */
  get(key: K): Promise<V | undefined> {
    return this.#read(key, LockMode.Shared, true, (isFound, own) => {
      if (own !== undefined) return this.#ownValue(own);
      return isFound ? (decodeRaw(takeRaw(), this.source.valueEncoding) as V) : undefined;
    });
  }

  /**
   * As get(), and from now to the commit nobody else changes the key: in pessimistic mode an update lock keeps others out, in optimistic mode the commit of a
   * transaction that writes fails with ERR_CONFLICT if somebody has, at every isolation (and so does a second getForUpdate() of the key, or an update(), unless
   * the transaction reads at a snapshot).
   */
  getForUpdate(key: K): Promise<V | undefined> {
    return this.#read(key, LockMode.Update, true, (isFound, own) => {
      if (own !== undefined) return this.#ownValue(own);
      return isFound ? (decodeRaw(takeRaw(), this.source.valueEncoding) as V) : undefined;
    });
  }

  /** Whether the key is there. @see getSync */
  hasSync(key: K): boolean {
    const { core, source } = this;
    this.#begin(core);
    const length = this.#encode(key);
    const { bytes } = this.#manager.scratch;
    const hash = hashBytes(bytes, 0, length);
    const entry = core.set.find(source.spaceId, hash, bytes, length);
    if (entry?.write !== undefined) return entry.write.isPut && !isExpired(entry.write);
    return this.#findSync(core, entry, hash, length, false);
  }

  /** @see get */
  has(key: K): Promise<boolean> {
    return this.#read(key, LockMode.Shared, false, (isFound, own) =>
      own === undefined ? isFound : own.isPut && !isExpired(own),
    );
  }

  /** The entry with its version (0: the transaction has written it itself) and, if it expires, when. @see getSync */
  getEntrySync(key: K): Entry<K, V> | undefined {
    const { core, source } = this;
    this.#begin(core);
    const length = this.#encode(key);
    const { bytes } = this.#manager.scratch;
    const hash = hashBytes(bytes, 0, length);
    const known = core.set.find(source.spaceId, hash, bytes, length);
    if (known?.write !== undefined) return this.#entry(key, false, known.write);
    return this.#entry(key, this.#findSync(core, known, hash, length, true), undefined);
  }

  /** @see getEntrySync, get */
  getEntry(key: K): Promise<Entry<K, V> | undefined> {
    return this.#read(key, LockMode.Shared, true, (isFound, own) => this.#entry(key, isFound, own));
  }

  #entry(key: K, isFound: boolean, own: Write | undefined): Entry<K, V> | undefined {
    let value: V;
    let version = 0;
    let expiresAt: number;
    if (own !== undefined) {
      if (!own.isPut || isExpired(own)) return undefined;
      value = this.source.valueEncoding.decode(own.value, 0, own.length) as V;
      expiresAt = own.expiresAt;
    } else {
      if (!isFound) return undefined;
      version = foundSeq;
      expiresAt = foundExpiresAt;
      value = decodeRaw(takeRaw(), this.source.valueEncoding) as V;
    }
    return expiresAt === 0 ? { key, value, version } : { key, value, version, expiresAt };
  }

  /** Values in the order of the keys, undefined where absent. @see getSync */
  getManySync(keys: readonly K[]): (V | undefined)[] {
    if (!Array.isArray(keys)) throw invalidArgument('getMany takes an array of keys');
    return keys.map((key) => this.getSync(key as K));
  }

  /** @see get */
  getMany(keys: readonly K[]): Promise<(V | undefined)[]> {
    if (!Array.isArray(keys)) return Promise.reject(invalidArgument('getMany takes an array of keys'));
    return Promise.all(keys.map((key) => this.get(key as K)));
  }

  /** `give` is called with what was found, and found* filled, or with what the transaction has written. */
  #read<T>(
    key: K,
    lock: number,
    wantsValue: boolean,
    give: (isFound: boolean, own: Write | undefined) => T,
  ): Promise<T> {
    try {
      const { core, source } = this;
      if (source.pending !== undefined) {
        core.assertActive();
        return source.whenReady(() => this.#read(key, lock, wantsValue, give));
      }
      this.#begin(core);
      const length = this.#encode(key);
      const { bytes } = this.#manager.scratch;
      const hash = hashBytes(bytes, 0, length);
      const known = core.set.find(source.spaceId, hash, bytes, length);
      const isGuarded = lock === LockMode.Update;
      if (core.isPessimistic && (isGuarded || core.isolation === Isolation.Serializable)) {
        return this.#readLocked(this.#entryOf(core, hash, length), lock, wantsValue, give);
      }
      // What it has written itself does not keep others from changing the key, and may be taken back.
      if (isGuarded) {
        return this.#readSlowly(this.#entryOf(core, hash, length), true, wantsValue, give);
      }
      if (known?.write !== undefined) return Promise.resolve(give(false, known.write));
      const shard = core.shardOf(source, hash);
      const view = source.views[shard]!;
      const mustWait = core.mustAnchor || core.mustWaitFor(shard, hash);
      const outcome = mustWait ? undefined : core.tryFind(view, shard, hash, bytes, length);
      if (typeof outcome !== 'boolean') {
        return this.#readSlowly(this.#entryOf(core, hash, length), false, wantsValue, give);
      }
      const isFound = this.#take(view, outcome, wantsValue);
      if (core.isolation === Isolation.ReadCommitted) return Promise.resolve(give(isFound, undefined));
      const entry = known ?? core.set.add(source, shard, hash, bytes, length);
      if (core.settle(entry, foundSeq)) return Promise.resolve(give(isFound, undefined));
      return this.#readSlowly(entry, false, wantsValue, give);
    } catch (error) {
      return Promise.reject(failed(this.core, error));
    }
  }

  async #readLocked<T>(
    entry: KeyEntry,
    lock: number,
    wantsValue: boolean,
    give: (isFound: boolean, own: Write | undefined) => T,
  ): Promise<T> {
    await this.core.locks.lockKey(entry, lock);
    return this.#readSlowly(entry, lock === LockMode.Update, wantsValue, give);
  }

  /** With the event loop running where something must be waited for. */
  async #readSlowly<T>(
    entry: KeyEntry,
    isGuarded: boolean,
    wantsValue: boolean,
    give: (isFound: boolean, own: Write | undefined) => T,
  ): Promise<T> {
    const { core } = this;
    core.isShared = true;
    try {
      const { shard, hash, key, keyLength, source } = entry;
      const view = source.views[shard]!;
      if (core.mustAnchor) await core.anchor();
      for (;;) {
        core.assertAlive();
        source.assertUsable();
        if (entry.write !== undefined && !isGuarded) return give(false, entry.write);
        const warm = core.warm(source, view, shard, hash, key, keyLength);
        if (warm !== undefined) {
          await warm;
          core.assertAlive();
        }
        const isFound = this.#take(view, core.find(view, shard, hash, key, keyLength), wantsValue);
        if (isGuarded) {
          core.guard(entry, foundSeq);
          if (core.isolation === Isolation.ReadCommitted || core.settle(entry, foundSeq)) {
            return give(entry.write === undefined && isFound, entry.write);
          }
        } else if (core.settle(entry, foundSeq)) return give(isFound, entry.write);
        await core.anchor();
      }
    } catch (error) {
      throw failed(core, error);
    }
  }

  // ---- writes -----------------------------------------------------------------------------------------------------------------------------

  /**
   * Sets the value, for this transaction now, for all others with the commit. The value is encoded before put() returns. The promise need not be
   * awaited: in pessimistic mode it settles when the key is locked, and the commit tells what went wrong. With a condition, in pessimistic mode, the write is
   * made when the promise settles. Resolves false if a condition did not hold.
   * @throws ERR_TRANSACTION_READ_ONLY, ERR_TRANSACTION_TOO_LARGE, ERR_TRANSACTION_CLOSED, ERR_INVALID_ARG, ERR_KEY_TOO_LARGE, ERR_VALUE_TOO_LARGE,
   *   ERR_CONFLICT, ERR_DEADLOCK, ERR_LOCK_TIMEOUT
   */
  put(key: K, value: V, options?: TransactionPutOptions): Promise<boolean> {
    try {
      const { core, source } = this;
      core.assertWritable();
      let expiresAt = 0;
      let ifVersion = ANY_VERSION;
      if (options !== undefined) {
        if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
        if (options.ttlMs !== undefined) expiresAt = expiresAfter(options.ttlMs);
        ifVersion = conditionOf(options.ifAbsent, options.ifVersion);
      }
      const encoded = source.valueEncoding.encode(value);
      if (source.pending !== undefined) {
        const own = typeof encoded === 'string' ? encoded : Buffer.from(encoded);
        return core.track(this.#writeWhenReady(core, key, own, expiresAt, ifVersion));
      }
      this.#begin(core);
      return this.#write(core, key, encoded, expiresAt, ifVersion);
    } catch (error) {
      return refused(this.core, error);
    }
  }

  /** Removes the key, present or not. @see put */
  del(key: K, options?: TransactionDelOptions): Promise<boolean> {
    try {
      const { core, source } = this;
      core.assertWritable();
      let ifVersion = ANY_VERSION;
      if (options !== undefined) {
        if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
        ifVersion = conditionOf(undefined, options.ifVersion);
      }
      if (source.pending !== undefined) {
        return core.track(this.#writeWhenReady(core, key, undefined, 0, ifVersion));
      }
      this.#begin(core);
      return this.#write(core, key, undefined, 0, ifVersion);
    } catch (error) {
      return refused(this.core, error);
    }
  }

  /** put() or del() in an optimistic transaction at read-committed, of what a batch has encoded. @internal */
  writeBlind({ key, hash, value, expiresAt }: BlindWrite): void {
    const { core, source } = this;
    core.assertWritable();
    this.#begin(core);
    const entry =
      core.set.find(source.spaceId, hash, key, key.length) ??
      core.set.add(source, core.shardOf(source, hash), hash, key, key.length);
    source.views[0]!.meter.counts[value === undefined ? Counter.Deletes : Counter.Puts]!++;
    this.#set(core, entry, value, expiresAt);
  }

  #writeWhenReady(
    core: TransactionCore,
    key: K,
    encoded: string | Uint8Array | undefined,
    expiresAt: number,
    ifVersion: number,
  ): Promise<boolean> {
    return this.source.whenReady(async () => {
      core.assertAlive();
      core.open();
      return await this.#write(core, key, encoded, expiresAt, ifVersion);
    });
  }

  /** undefined as the value: delete. */
  #write(
    core: TransactionCore,
    key: K,
    encoded: string | Uint8Array | undefined,
    expiresAt: number,
    ifVersion: number,
  ): Promise<boolean> {
    const entry = this.#entryFor(core, key);
    const { meter } = this.source.views[0]!;
    meter.counts[encoded === undefined ? Counter.Deletes : Counter.Puts]!++;
    if (!core.isPessimistic) {
      if (ifVersion !== ANY_VERSION && !this.#holdsSync(core, entry, ifVersion)) return notWritten;
      core.noteBlind(entry);
      this.#set(core, entry, encoded, expiresAt);
      return written;
    }
    const lock = core.locks.lockKey(entry, LockMode.Exclusive);
    if (ifVersion !== ANY_VERSION) {
      const own = encoded === undefined || typeof encoded === 'string' ? encoded : Buffer.from(encoded);
      return core.track(this.#writeIf(core, entry, lock, own, expiresAt, ifVersion));
    }
    this.#set(core, entry, encoded, expiresAt);
    return lock === undefined ? written : core.track(lock.then(alwaysTrue));
  }

  #set(core: TransactionCore, entry: KeyEntry, encoded: string | Uint8Array | undefined, expiresAt: number): void {
    const { set } = core;
    if (encoded === undefined) set.setDel(entry);
    else {
      const room = encodedBytesMax(encoded);
      if (room > MAX_VALUE_BYTES) checkValue(encoded);
      set.setPut(entry, encoded, expiresAt);
    }
    const { bytesMax } = this.#manager.defaults;
    if (set.heldBytes(entry.shard) > bytesMax) {
      throw failed(core, tooLarge(bytesMax));
    }
  }

  /** Whether the key, as the transaction sees it, has that version; if so, the commit looks again. */
  #holdsSync(core: TransactionCore, entry: KeyEntry, ifVersion: number): boolean {
    if (entry.write !== undefined) return ownVersion(entry.write) === ifVersion;
    try {
      const view = entry.source.views[entry.shard]!;
      if (core.mustAnchor) core.anchorSync();
      for (;;) {
        const { shard, hash, key, keyLength } = entry;
        this.#take(view, core.find(view, shard, hash, key, keyLength), false);
        const seq = foundSeq;
        if (core.isolation === Isolation.ReadCommitted || core.settle(entry, seq)) {
          if (seq !== ifVersion) return false;
          core.guard(entry, seq);
          return true;
        }
        core.anchorSync();
      }
    } catch (error) {
      throw failed(core, error);
    }
  }

  async #writeIf(
    core: TransactionCore,
    entry: KeyEntry,
    lock: Promise<void> | undefined,
    encoded: string | Uint8Array | undefined,
    expiresAt: number,
    ifVersion: number,
  ): Promise<boolean> {
    await lock;
    core.assertAlive();
    const { source, shard, hash, key, keyLength } = entry;
    await core.warm(source, source.views[shard]!, shard, hash, key, keyLength);
    core.assertAlive();
    if (!this.#holdsSync(core, entry, ifVersion)) return false;
    this.#set(core, entry, encoded, expiresAt);
    return true;
  }

  /**
   * Read-modify-write: `change` gets the value (undefined if absent) and returns the new one (undefined: delete). Updates of one transaction run one after another,
   * whichever flow calls them, so `change` must not call update() itself, nor commit(): that is refused with ERR_INVALID_ARG, which is the end of the transaction. (What a function
   * that is not `async` leaves to callbacks is not told from other flows, and waits.) What the transaction puts under the key while `change` runs is written over.
   * Resolves with what was written. An entry that expires keeps its time.
   * @throws what `change` throws, which is the end of the transaction; as get, put
   */
  update(key: K, change: (value: V | undefined) => V | undefined | Promise<V | undefined>): Promise<V | undefined> {
    try {
      if (typeof change !== 'function') throw invalidArgument('update takes a function');
      const { core } = this;
      core.assertWritable();
      if (isInsideUpdate(core)) {
        throw invalidArgument('change must not call update() of the same transaction: they would wait for each other');
      }
      const before = core.lastUpdate;
      const run = before === undefined ? this.#update(key, change) : before.then(() => this.#update(key, change));
      core.lastUpdate = run.catch(() => undefined);
      return core.track(run);
    } catch (error) {
      return refused(this.core, error);
    }
  }

  async #update(
    key: K,
    change: (value: V | undefined) => V | undefined | Promise<V | undefined>,
  ): Promise<V | undefined> {
    const { core, source } = this;
    if (source.pending !== undefined) await source.pending;
    core.assertAlive();
    core.open();
    const length = this.#encode(key);
    const hash = hashBytes(this.#manager.scratch.bytes, 0, length);
    const entry = this.#entryOf(core, hash, length);
    if (core.isPessimistic) await core.locks.lockKey(entry, LockMode.Exclusive);
    const found = await this.#readSlowly(entry, entry.write === undefined, true, (isFound, own) =>
      this.#entry(key, isFound, own),
    );
    const value = await callChange(core, change, found?.value);
    core.assertAlive();
    if (value === undefined) this.#set(core, entry, undefined, 0);
    else this.#set(core, entry, source.valueEncoding.encode(value), found?.expiresAt ?? 0);
    return value;
  }

  // ---- ranges -----------------------------------------------------------------------------------------------------------------------------

  /**
   * Nobody else puts or removes a key in the range, or changes one, until the transaction has ended: in pessimistic mode by a lock, in optimistic mode
   * the commit fails with ERR_CONFLICT if somebody has. @throws as get
   */
  async lockRange(range: RangeOptions<K> = {}): Promise<void> {
    const { core, source } = this;
    core.assertActive();
    if (source.pending !== undefined) await source.pending;
    this.#begin(core);
    const encoded = encodeRange(range, source.keyEncoding);
    if (isEmptyRange(encoded)) return;
    if (core.isPessimistic) {
      core.isShared = true;
      await core.locks.lockRange(source, encoded.low, encoded.high, LockMode.Exclusive);
      core.assertAlive();
      return;
    }
    try {
      await core.anchor();
    } catch (error) {
      throw failed(core, error);
    }
    core.addRange(source, encoded.low, encoded.high);
  }

  #plan<T>(
    options: TransactionRangeOptions<K> | undefined,
    wantKeys: boolean,
    wantValues: boolean,
    entry: (key: unknown, value: unknown) => T,
  ): OverlayPlan<T> {
    const { core, source } = this;
    this.#begin(core);
    const range: EncodedRange =
      options === undefined ? { low: undefined, high: undefined } : encodeRange(options, source.keyEncoding);
    if (options !== undefined && 'snapshot' in options)
      throw invalidArgument('a transaction reads no snapshot but its own');
    const signal = options?.signal;
    if (signal !== undefined && !(signal instanceof AbortSignal)) {
      throw invalidArgument('signal must be an AbortSignal');
    }
    return {
      core,
      source,
      range,
      reverse: options?.reverse ?? false,
      limit: isEmptyRange(range) ? 0 : checkLimit(options?.limit),
      wantKeys,
      wantValues,
      signal,
      entry,
      owner: this.owner,
    };
  }

  /** Of an iteration at the anchor. */
  #footingAtAnchor({ core, source, range, reverse }: OverlayPlan<unknown>): Footing {
    let read: RangeRead | undefined;
    if (core.isolation === Isolation.Serializable) {
      read = core.addRange(source, range.low, range.high);
      read.isEmpty = true;
      if (reverse) read.low = read.high;
      else read.high = read.low;
    }
    return { atSeq: core.snapshotAt, atMs: core.readMs, read, slot: -1 };
  }

  async #footing(plan: OverlayPlan<unknown>): Promise<Footing> {
    const { core, source, range } = plan;
    core.isShared = true;
    try {
      const isLocked = core.isPessimistic && core.isolation === Isolation.Serializable;
      if (isLocked) {
        await unlessAborted(core.locks.lockRange(source, range.low, range.high, LockMode.Shared), plan.signal);
      }
      core.assertAlive();
      const hasOwn = core.isolation === Isolation.ReadCommitted || (isLocked && core.snapshotAt < 0);
      if (!hasOwn) {
        await core.anchor();
        return this.#footingAtAnchor(plan);
      }
      // One state, which with the lock is the newest one until the transaction ends.
      const held = await core.control.openSnapshot(core.client.client);
      const { slot, sequence } = held;
      try {
        core.assertAlive();
        core.checkFloatingAt(sequence);
      } catch (error) {
        core.control.closeSnapshot(slot, core.client.client);
        throw error;
      }
      core.ownSlot(slot);
      return { atSeq: sequence, atMs: core.readMs === 0 ? Date.now() : core.readMs, read: undefined, slot };
    } catch (error) {
      throw failed(core, error);
    }
  }

  #footingSync(plan: OverlayPlan<unknown>): Footing {
    const { core } = plan;
    try {
      if (core.isolation === Isolation.ReadCommitted) {
        const { slot, sequence } = core.control.openSnapshotSync(core.client.client);
        core.ownSlot(slot);
        return { atSeq: sequence, atMs: Date.now(), read: undefined, slot };
      }
      core.anchorSync();
      return this.#footingAtAnchor(plan);
    } catch (error) {
      throw failed(core, error);
    }
  }

  #iterator<T>(
    options: TransactionRangeOptions<K> | undefined,
    wantKeys: boolean,
    wantValues: boolean,
    entry: (key: unknown, value: unknown) => T,
  ): TransactionIterator<T> {
    const plan = this.#plan(options, wantKeys, wantValues, entry);
    return new TransactionIterator(plan, () => this.#footing(plan));
  }

  /**
   * Entries in key order, as the transaction sees them: one state, with its own writes up to the first next(). Pessimistic, at serializable: the range is
   * locked (shared) when it begins; otherwise, at serializable, the commit looks whether what was given out is still all there is.
   */
  iterator(options?: TransactionRangeOptions<K>): TransactionIterator<[K, V]> {
    return this.#iterator(options, true, true, (key, value): [K, V] => [key as K, value as V]);
  }

  /** Keys in order. */
  keys(options?: TransactionRangeOptions<K>): TransactionIterator<K> {
    return this.#iterator(options, true, false, (key) => key as K);
  }

  /** Values in key order. */
  values(options?: TransactionRangeOptions<K>): TransactionIterator<V> {
    return this.#iterator(options, false, true, (_, value) => value as V);
  }

  /** As iterator(), in this thread, without a promise and without a lock. */
  iterateSync(options?: TransactionRangeOptions<K>): TransactionSyncIterator<[K, V]> {
    const plan = this.#plan(options, true, true, (key, value): [K, V] => [key as K, value as V]);
    return new TransactionSyncIterator(plan, () => this.#footingSync(plan));
  }

  keysSync(options?: TransactionRangeOptions<K>): TransactionSyncIterator<K> {
    const plan = this.#plan(options, true, false, (key) => key as K);
    return new TransactionSyncIterator(plan, () => this.#footingSync(plan));
  }

  [Symbol.asyncIterator](): TransactionIterator<[K, V]> {
    return this.iterator();
  }
}

/** What a transaction sees and writes of one space: tx.space(). */
export class TransactionSpace<K = string, V = string> extends TransactionReads<K, V> {
  readonly #transaction: Transaction<unknown, unknown>;

  /** @internal */
  constructor(transaction: Transaction<unknown, unknown>, source: SpaceSource) {
    super(transaction.core.manager, source);
    this.#transaction = transaction;
  }

  /** @internal */
  get core(): TransactionCore {
    return this.#transaction.core;
  }

  protected get owner(): object {
    return this.#transaction;
  }
}

export class Transaction<K = string, V = string> extends TransactionReads<K, V> implements AsyncDisposable {
  readonly #core: TransactionCore;
  #parts: Map<SpaceSource, TransactionSpace<unknown, unknown>> | undefined;

  /** @internal Made by transaction() and begin(). */
  constructor(core: TransactionCore, source: SpaceSource) {
    super(core.manager, source);
    this.#core = core;
  }

  /** @internal */
  get core(): TransactionCore {
    return this.#core;
  }

  protected get owner(): object {
    return this;
  }

  /** As db.transactions() lists it, and as deadlocks name it. */
  get id(): number {
    return this.#core.id;
  }

  get isolation(): IsolationName {
    return isolationName(this.#core.isolation);
  }

  get mode(): TransactionMode {
    return this.#core.isPessimistic ? 'pessimistic' : 'optimistic';
  }

  get priority(): number {
    return this.#core.settings.priority;
  }

  get readOnly(): boolean {
    return this.#core.settings.readOnly;
  }

  /** active; closing: it is being committed; ended: committed, rolled back or failed. */
  get state(): 'active' | 'closing' | 'ended' {
    const { phase, failure } = this.#core;
    if (phase === Phase.Ended || failure !== undefined) return 'ended';
    return phase === Phase.Active ? 'active' : 'closing';
  }

  /**
   * The same transaction on another space: one of the pool, or a name the store knows.
   * @throws ERR_SPACE_NOT_FOUND, ERR_SPACE_DROPPED, ERR_INVALID_ARG, ERR_TRANSACTION_CLOSED
   */
  space<SK = string, SV = string>(space: AnySpace | string): TransactionSpace<SK, SV> {
    this.#core.assertActive();
    const source = this.#sourceOf(space);
    this.#parts ??= new Map();
    let part = this.#parts.get(source);
    if (part === undefined) {
      part = new TransactionSpace(this, source);
      this.#parts.set(source, part);
    }
    return part as unknown as TransactionSpace<SK, SV>;
  }

  #sourceOf(space: unknown): SpaceSource {
    const { pool } = this.#core.manager;
    if (typeof space === 'string') return pool.space(space, { createIfMissing: false }).source;
    const source = (space as Partial<AnySpace> | null | undefined)?.source;
    if (!(source instanceof SpaceSource) || source.client !== this.#core.client) {
      throw invalidArgument('space must be a space of this pool, or the name of one');
    }
    return source;
  }

  // ---- savepoints -------------------------------------------------------------------------------------------------------------------------

  /** Remembers what has been written so far. Returns the name, which is made up if none is given; of two with one name the later one counts. */
  savepoint(name?: string): string {
    const core = this.#core;
    core.assertActive();
    if (name !== undefined && typeof name !== 'string')
      throw invalidArgument('the name of a savepoint must be a string');
    // Those that are made up later are others.
    const number = Number(/^savepoint-(\d{1,15})$/.exec(name ?? '')?.[1]);
    if (number > core.savepoints) core.savepoints = number;
    const chosen = name ?? `savepoint-${++core.savepoints}`;
    core.set.savepoint(chosen);
    return chosen;
  }

  /** Takes back what was written since; the savepoint stays. What was read and locked since stays read and locked. @throws ERR_SAVEPOINT_NOT_FOUND */
  rollbackTo(name: string): void {
    this.#core.assertActive();
    if (!this.#core.set.rollbackTo(name)) throw noSavepoint(name);
  }

  /** Forgets the savepoint and those made after it; what was written stays. @throws ERR_SAVEPOINT_NOT_FOUND */
  release(name: string): void {
    this.#core.assertActive();
    if (!this.#core.set.releaseSavepoint(name)) throw noSavepoint(name);
  }

  // ---- the end ----------------------------------------------------------------------------------------------------------------------------

  /**
   * Resolves when everything written is as durable as asked and visible to all; rejects when nothing of it is. Waits for writes that were called before.
   * Not for the function of db.transaction(), whose return commits.
   * @throws ERR_CONFLICT, ERR_DEADLOCK, ERR_LOCK_TIMEOUT, ERR_TRANSACTION_TIMEOUT, ERR_TRANSACTION_TOO_LARGE, ERR_TRANSACTION_CLOSED, ERR_MEMORY_FULL,
   *   ERR_DISK_FULL, ERR_READ_ONLY; ERR_SHARD_RESTARTED (outcome unknown), ERR_IO (outcome unknown); AbortError
   */
  commit(): Promise<void> {
    const { manager } = this.#core;
    if (!isTraced()) return manager.commitBegun(this.#core, this);
    return traced(this.#contextOf('commit'), () => manager.commitBegun(this.#core, this));
  }

  /** Nothing of it stays. Harmless when it has ended. @throws ERR_TRANSACTION_CLOSED: it is being committed; ERR_INVALID_ARG: that of db.transaction(), which throws instead */
  rollback(): Promise<void> {
    const { manager, phase } = this.#core;
    if (phase === Phase.Ended || !isTraced()) return manager.rollbackBegun(this.#core, this);
    return traced(this.#contextOf('rollback'), () => manager.rollbackBegun(this.#core, this));
  }

  #contextOf(operation: TracedOperation): OperationContext {
    return { operation, space: this.source.name, transaction: this.id };
  }

  /** Rolls back what is still open. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.rollback();
  }
}

const ANY_VERSION = -1;
/** In place of a value. */
const CHANGED = null;

function alwaysTrue(): boolean {
  return true;
}

/** A write that could not be made. The commit tells of it, so nobody need look at the promise, unless the transaction had ended without a failure. */
function refused(core: TransactionCore, error: unknown): Promise<never> {
  const rejected = Promise.reject(error);
  if (core.phase !== Phase.Active && core.failure === undefined) return rejected;
  core.fail(error as Error);
  rejected.catch(() => undefined);
  return rejected;
}

/** What becomes of the promise, or the reason of the signal if that comes first. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => {
      reject(signal.reason as Error);
    };
    signal.addEventListener('abort', abort, { once: true });
    const stopListening = (): void => {
      signal.removeEventListener('abort', abort);
    };
    promise.then(resolve, reject).then(stopListening, stopListening);
  });
}

function takeRaw(): RawValue {
  const raw = foundRaw;
  foundRaw = '';
  return raw;
}

function isExpired(write: Write): boolean {
  return write.expiresAt !== 0 && write.expiresAt <= Date.now();
}

/** What has been written by the transaction itself has no version yet, and equals none but that of absence. */
function ownVersion(write: Write): number {
  return write.isPut && !isExpired(write) ? NaN : 0;
}

/** A conflict, or a limit, is the end of the transaction: what it holds goes at once. */
function failed(core: TransactionCore, error: unknown): Error {
  if (error instanceof ConcordError && FATAL.has(error.code)) core.fail(error);
  return error as Error;
}

const FATAL = new Set(['ERR_CONFLICT', 'ERR_DEADLOCK', 'ERR_TRANSACTION_TOO_LARGE', 'ERR_SPACE_DROPPED', 'ERR_CLOSED']);

function conditionOf(ifAbsent: unknown, ifVersion: unknown): number {
  if (ifAbsent !== undefined && typeof ifAbsent !== 'boolean') throw invalidArgument('ifAbsent must be true or false');
  if (ifVersion === undefined) return ifAbsent === true ? 0 : ANY_VERSION;
  if (ifAbsent === true) throw invalidArgument('ifAbsent and ifVersion exclude each other');
  if (typeof ifVersion !== 'number' || !Number.isSafeInteger(ifVersion) || ifVersion < 0) {
    throw invalidArgument(`ifVersion must be a version number, got ${describeType(ifVersion)}`);
  }
  return ifVersion;
}

/** When an entry put now ceases to be: never before its time. @throws ERR_INVALID_ARG */
function expiresAfter(ttlMs: unknown): number {
  const expiresAt = typeof ttlMs === 'number' && ttlMs > 0 ? Math.ceil(Date.now() + ttlMs) : NaN;
  if (!(expiresAt <= EXPIRES_AT_MAX)) {
    throw invalidArgument(`ttlMs must be a positive number of milliseconds below 2^48, got ${String(ttlMs)}`);
  }
  return expiresAt;
}

/** Longer than a value may be, or only as a bound for text. */
function checkValue(encoded: string | Uint8Array): void {
  const valueBytes = typeof encoded === 'string' ? Buffer.byteLength(encoded) : encoded.length;
  if (valueBytes <= MAX_VALUE_BYTES) return;
  throw new ConcordError(
    'ERR_VALUE_TOO_LARGE',
    `a value of ${valueBytes} bytes is longer than the limit of ${MAX_VALUE_BYTES}`,
    { valueBytes, limitBytes: MAX_VALUE_BYTES },
  );
}

export function tooLarge(limitBytes: number): ConcordError {
  return new ConcordError(
    'ERR_TRANSACTION_TOO_LARGE',
    `a transaction holds at most ${limitBytes} bytes per shard, see the option transactionBytesMax`,
    { limitBytes },
  );
}

function noSavepoint(name: unknown): ConcordError {
  const named = typeof name === 'string' ? name : String(name);
  return new ConcordError('ERR_SAVEPOINT_NOT_FOUND', `the transaction has no savepoint ${named}`, { name: named });
}
