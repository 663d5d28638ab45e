/**
 * Transactions over several shards, as one of these shards has them: from their Prepare record to their Resolve record.
 *
 *   prepare ──logged──▶ prepared ──resolve (number N)──logged──▶ applied with N, published with the group      (number 0: given up)
 *
 *   log    … [ Prepare 7 ] …………………………………………… [ a b c · Resolve 7 → N ] …        N is above all published before, below the group's own numbers
 *             └── kept from being cut ──────────────┘
 *
 * Must hold: what is prepared can be applied whatever else is written meanwhile (its room is reserved, see space-table.ts; its Resolve record has its
 * place in any frame, see ShardStore.fits()). Within a group resolves come before all other operations, in life and in a replay. A group that fails
 * leaves no trace of what was to be prepared in it, and what was to be resolved stays prepared.
 *
 * A replay knows what was applied by its number, as for any operation: N is in no group published before, and below the last number of its own. So what is
 * covered is forgotten, and what a thread has applied that found no log to take the record (ShardStore.commitUnlogged()) is passed over.
 *
 * Whoever keeps the decisions (the coordinator) may forget one only when the Resolve records of it are durable: until then a power loss brings the
 * transaction back as prepared. That is decisionsNeededFrom. Threads: the shard's thread only.
 */
import { assert } from '../../shared/assert.js';
import { ConcordError } from '../../shared/errors.js';
import { IdMap } from '../../shared/id-map.js';
import {
  OPERATION_HEADER_BYTES,
  OperationKind,
  PREPARE_KEY_BYTES,
  RESOLVE_KEY_BYTES,
  checkOperation,
  operationKeyAt,
  readKeyLength,
  readOperationExpiry,
  readOperationSpace,
  readPrepareKey,
  readResolveNumber,
  readTransactionId,
  readValueLength,
  writeNumber,
  writeOperationHeader,
  type PrepareKey,
} from '../operation.js';
import { GroupOrder } from './group-order.js';
import type { PrepareJournal } from './prepare-journal.js';
import type { RoomNeeds, SpaceTable } from './space-table.js';

/** Transactions that may be prepared in a shard at a time. */
export const PREPARED_MAX = 1024;
export const RESOLVE_RECORD_BYTES = OPERATION_HEADER_BYTES + RESOLVE_KEY_BYTES;
/** More writes are told apart by a set. */
const COMPARED_WRITES_MAX = 16;

const UNRESOLVED = -1;

export class PreparedTransaction implements Readonly<PrepareKey> {
  readonly id: number;
  readonly maskLow: number;
  readonly maskHigh: number;
  readonly client: number;
  /** Its operation records. */
  readonly writes: Buffer;
  readonly operations: number;
  readonly needs: readonly RoomNeeds[];
  /** When the first of what it puts expires, ms since the epoch; Infinity: nothing does. */
  readonly nextExpiry: number;
  /** Frame of the Prepare record: the log is not cut beyond. 0: none yet, it is to be prepared by the open group. */
  firstLsn: number;
  /** With what number the open group resolves it; 0: it is given up. */
  number = UNRESOLVED;

  constructor(
    key: PrepareKey,
    writes: Buffer,
    operations: number,
    needs: readonly RoomNeeds[],
    nextExpiry: number,
    firstLsn: number,
  ) {
    this.id = key.id;
    this.maskLow = key.maskLow;
    this.maskHigh = key.maskHigh;
    this.client = key.client;
    this.writes = writes;
    this.operations = operations;
    this.needs = needs;
    this.nextExpiry = nextExpiry;
    this.firstLsn = firstLsn;
  }
}

export class PreparedTransactions {
  readonly #spaces: SpaceTable;
  /** Of a store that has no log to keep them. */
  readonly #journal: PrepareJournal | undefined;
  readonly #byId = new IdMap<PreparedTransaction>();
  readonly #order = new GroupOrder();
  #recordAt = new Int32Array(64);

  // Of the open group.
  readonly #prepares: PreparedTransaction[] = [];
  readonly #resolves: PreparedTransaction[] = [];
  /** Of the group that is being committed: room to be given back behind the publication. */
  readonly #settled: PreparedTransaction[] = [];
  /** Lowest numbers of groups whose Resolve records may not be durable, oldest first, and their frames. */
  readonly #unsynced: { readonly number: number; readonly lsn: number }[] = [];
  /** Lowest number that was applied without a record. */
  #unlogged = Infinity;

  /** With a journal: what a predecessor has left in it is prepared. */
  constructor(spaces: SpaceTable, journal?: PrepareJournal) {
    this.#spaces = spaces;
    this.#journal = journal;
    for (const { key, writes } of journal?.entries() ?? []) this.#byId.set(key.id, preparedOf(key, writes, 1));
  }

  /** Those that are only to be prepared, by the open group, count too; likewise below. */
  get size(): number {
    return this.#byId.size;
  }

  has(id: number): boolean {
    return this.#byId.has(id);
  }

  get(id: number): PreparedTransaction | undefined {
    return this.#byId.get(id);
  }

  /** Without those that are only to be prepared. */
  get all(): PreparedTransaction[] {
    return this.#byId.values().filter(({ firstLsn }) => firstLsn !== 0);
  }

  /** First frame of the log that a recovery needs for them; Infinity: none. Between groups. */
  get neededFromLsn(): number {
    let needed = Infinity;
    for (const { firstLsn } of this.#byId.values()) needed = Math.min(needed, firstLsn);
    return needed;
  }

  /** The lowest number whose decision must not be forgotten yet, for the sake of this shard; Infinity: none of those that are applied. */
  decisionsNeededFrom(syncedLsn: number): number {
    const unsynced = this.#unsynced;
    let synced = 0;
    while (synced < unsynced.length && unsynced[synced]!.lsn <= syncedLsn) synced++;
    if (synced > 0) unsynced.splice(0, synced);
    return Math.min(this.#unlogged, unsynced[0]?.number ?? Infinity);
  }

  // ---- the open group -------------------------------------------------------------------------------------------------------------------

  /** Whether one more may be prepared. */
  get hasRoom(): boolean {
    return this.#byId.size < PREPARED_MAX;
  }

  /** Prepare and Resolve records of the group. */
  get controls(): number {
    return this.#prepares.length + this.#resolves.length;
  }

  /** Of these: Resolve records. */
  get resolves(): number {
    return this.#resolves.length;
  }

  /** Resolve records that may have to go into the group. */
  get resolveBytes(): number {
    return this.#byId.size * RESOLVE_RECORD_BYTES;
  }

  /** The lowest number of the group's commits; Infinity: it has none. */
  get lowestNumber(): number {
    let lowest = Infinity;
    for (const { number } of this.#resolves) if (number !== 0 && number < lowest) lowest = number;
    return lowest;
  }

  /** @throws ERR_CORRUPT, ERR_INTERNAL; ERR_CONFLICT: too much is prepared. Nothing is changed */
  prepare(key: PrepareKey, writes: Buffer): void {
    if (this.has(key.id)) throw new ConcordError('ERR_INTERNAL', `transaction ${key.id} is prepared already`);
    const prepared = preparedOf(key, writes, 0);
    if (this.#journal?.add(key, writes) === false) {
      throw new ConcordError('ERR_CONFLICT', 'too many bytes of other transactions wait for their outcome', {
        bytes: writes.length,
      });
    }
    this.#byId.set(key.id, prepared);
    this.#prepares.push(prepared);
  }

  /** Harmless when it was told already. */
  resolve(prepared: PreparedTransaction, number: number): void {
    if (prepared.number !== UNRESOLVED) return;
    prepared.number = number;
    this.#resolves.push(prepared);
  }

  /** Writes the Resolve records, one behind the other. Returns where they end. */
  writeResolves(bytes: Buffer, at: number): number {
    for (const { id, number } of this.#resolves) {
      writeOperationHeader(bytes, at, OperationKind.Resolve, 0, RESOLVE_KEY_BYTES, 0);
      writeNumber(bytes, at + OPERATION_HEADER_BYTES, id);
      writeNumber(bytes, at + OPERATION_HEADER_BYTES + 8, number);
      at += RESOLVE_RECORD_BYTES;
    }
    return at;
  }

  /** The group is not to be. What was given up is given up by the next one; commits are told again by whoever decides them. */
  discard(): void {
    this.#forgetPrepares();
    let kept = 0;
    for (const resolve of this.#resolves) {
      if (resolve.number === 0 && resolve.firstLsn !== 0) this.#resolves[kept++] = resolve;
      else resolve.number = UNRESOLVED;
    }
    this.#resolves.length = kept;
  }

  #forgetPrepares(): void {
    for (const { id } of this.#prepares) {
      this.#byId.delete(id);
      this.#journal?.remove(id);
    }
    this.#prepares.length = 0;
  }

  /** The group's frame is in the log. */
  logged(lsn: number): void {
    for (const prepare of this.#prepares) {
      prepare.firstLsn = lsn;
      this.#spaces.reserve(prepare.needs);
    }
    this.#prepares.length = 0;
    const number = this.lowestNumber;
    if (number !== Infinity) this.#unsynced.push({ number, lsn });
  }

  /** Applies the group's commits, before anything else of it. Numbers up to `publishedSeq` are in the spaces already. */
  apply(publishedSeq: number): void {
    for (const prepared of this.#resolves) {
      const isKnown = this.#byId.delete(prepared.id);
      assert(isKnown, 'what is resolved is prepared');
      this.#settled.push(prepared);
      if (prepared.number > publishedSeq) this.applyWrites(prepared, prepared.number);
    }
    this.#resolves.length = 0;
  }

  /** The group is published. */
  published(): void {
    if (this.#settled.length === 0) return;
    for (const { id, needs } of this.#settled) {
      this.#spaces.release(needs);
      this.#journal?.remove(id);
    }
    this.#settled.length = 0;
  }

  /** The group's commits are to be applied though no log takes their records. */
  noteUnlogged(): void {
    this.#forgetPrepares();
    this.#unlogged = Math.min(this.#unlogged, this.lowestNumber);
  }

  /** All writes with one number. What is gone, or has them, passes them over. */
  applyWrites({ writes, operations, firstLsn }: PreparedTransaction, number: number): void {
    const spaces = this.#spaces;
    if (this.#recordAt.length < operations) this.#recordAt = new Int32Array(operations);
    const recordAt = this.#recordAt;
    let records = 0;
    for (let at = 0; at < writes.length; at += checkOperation(writes, at, writes.length)) recordAt[records++] = at;
    const { order } = this.#order.sort(writes, recordAt, records, 0) ? this.#order : NO_ORDER;
    for (let i = 0; i < records; i++) {
      const at = recordAt[order === undefined ? i : order[i]!]!;
      const spaceId = readOperationSpace(writes, at);
      const keyStart = operationKeyAt(writes, at);
      const keyLength = readKeyLength(writes, at);
      if (writes[at] === OperationKind.Delete) spaces.del(spaceId, writes, keyStart, keyLength, number);
      else {
        const valueStart = keyStart + keyLength;
        const valueLength = readValueLength(writes, at);
        const expiresAt = readOperationExpiry(writes, at);
        spaces.put(spaceId, writes, keyStart, keyLength, writes, valueStart, valueLength, number, expiresAt);
      }
    }
    // Engines with files of their own need the log from where the writes stand.
    spaces.noteLsn(firstLsn);
    if (this.#recordAt.length > 4096) this.#recordAt = new Int32Array(64);
  }

  // ---- a replay -------------------------------------------------------------------------------------------------------------------------

  /** A (checked) Prepare record of the log. @throws ERR_CORRUPT */
  replayPrepare(bytes: Uint8Array, at: number, lsn: number): void {
    const key = readPrepareKey(bytes, at);
    if (this.#byId.has(key.id))
      throw new ConcordError('ERR_CORRUPT', `transaction ${key.id} is prepared twice in the log`, { lsn });
    const start = at + OPERATION_HEADER_BYTES + PREPARE_KEY_BYTES;
    this.#byId.set(key.id, preparedOf(key, copyOf(bytes, start, start + readValueLength(bytes, at)), lsn));
  }

  /** Of a (checked) Resolve record: what is to be applied, and with what number, or forgotten. */
  replayResolve(bytes: Uint8Array, at: number): { prepared: PreparedTransaction | undefined; number: number } {
    const id = readTransactionId(bytes, at);
    const prepared = this.#byId.get(id);
    this.#byId.delete(id);
    return { prepared, number: readResolveNumber(bytes, at) };
  }

  /** What was prepared before frames that are lost: nobody knows whether it was resolved in them. Returns their ids. */
  forgetBefore(lsn: number): number[] {
    const ids: number[] = [];
    for (const { id, firstLsn } of this.#byId.values()) if (firstLsn < lsn) ids.push(id);
    for (const id of ids) this.#byId.delete(id);
    return ids;
  }

  /** Those that are left are prepared. */
  endReplay(): void {
    for (const { needs } of this.#byId.values()) this.#spaces.reserve(needs);
  }
}

const NO_ORDER: { readonly order: Int32Array | undefined } = { order: undefined };

/** Bytes of a Prepare record. */
export function prepareRecordBytes(writeBytes: number): number {
  return OPERATION_HEADER_BYTES + PREPARE_KEY_BYTES + writeBytes;
}

/** Short ones have their memory in common: it stays until the last of some dozens is resolved. */
export function copyOf(bytes: Uint8Array, start: number, end: number): Buffer {
  const copy = Buffer.allocUnsafe(end - start);
  copy.set(bytes.subarray(start, end));
  return copy;
}

/** `writes`: checked records; kept. @throws ERR_CORRUPT when a key is written twice: both would have one number */
function preparedOf(key: PrepareKey, writes: Buffer, firstLsn: number): PreparedTransaction {
  const needs: RoomNeeds[] = [];
  const places: number[] = [];
  let nextExpiry = Infinity;
  for (let at = 0; at < writes.length;) {
    const size = checkOperation(writes, at, writes.length);
    const spaceId = readOperationSpace(writes, at);
    let need = needs.find((other) => other.spaceId === spaceId);
    if (need === undefined) {
      need = { spaceId, operations: 0, bytes: 0, largestBytes: 0, expiring: 0 };
      needs.push(need);
    }
    need.operations++;
    need.bytes += size;
    need.largestBytes = Math.max(need.largestBytes, readKeyLength(writes, at) + readValueLength(writes, at));
    const expiresAt = readOperationExpiry(writes, at);
    if (expiresAt !== 0) {
      need.expiring++;
      nextExpiry = Math.min(nextExpiry, expiresAt);
    }
    places.push(at);
    at += size;
  }
  if (places.length > COMPARED_WRITES_MAX ? hasTwiceOfMany(writes, places) : hasTwice(writes, places))
    throw new ConcordError('ERR_CORRUPT', `transaction ${key.id} writes a key twice`);
  return new PreparedTransaction(key, writes, places.length, needs, nextExpiry, firstLsn);
}

function hasTwice(writes: Buffer, places: readonly number[]): boolean {
  for (let i = 1; i < places.length; i++) {
    const at = places[i]!;
    const keyStart = operationKeyAt(writes, at);
    const keyEnd = keyStart + readKeyLength(writes, at);
    const spaceId = readOperationSpace(writes, at);
    for (let j = 0; j < i; j++) {
      const other = places[j]!;
      const otherStart = operationKeyAt(writes, other);
      const otherEnd = otherStart + readKeyLength(writes, other);
      if (otherEnd - otherStart !== keyEnd - keyStart || readOperationSpace(writes, other) !== spaceId) continue;
      if (writes.compare(writes, otherStart, otherEnd, keyStart, keyEnd) === 0) return true;
    }
  }
  return false;
}

function hasTwiceOfMany(writes: Buffer, places: readonly number[]): boolean {
  const seen = new Set<string>();
  for (const at of places) {
    const keyStart = operationKeyAt(writes, at);
    seen.add(
      `${readOperationSpace(writes, at)} ${writes.toString('latin1', keyStart, keyStart + readKeyLength(writes, at))}`,
    );
  }
  return seen.size < places.length;
}
