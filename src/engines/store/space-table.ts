/**
 * The spaces of one shard: which engine holds which, what a logged operation does to them, the index of entries that expire, and the move of a
 * space from one engine to another.
 *
 *   record ──▶ space ──▶ engine.put / del / removeRange
 *                │            └──▶ what it replaced expires? its line leaves the index;  it expires itself? a line goes in
 *                └── is being moved, and the copy has passed this key? ──▶ the same on the new engine
 *
 * Moving. The new engine is filled slice by slice, between groups, from the old one's newest state, in the old one's own order. An operation on a
 * key the copy has passed is applied to both; on one it has not, to the old engine only, and the copy will meet its result. So the two agree on
 * everything passed at any time, without a log to catch up from, and a store in memory can do it too. At the end one publication exchanges them.
 * A writer that dies leaves a half filled engine under a name nobody looks for; its successor drops it and begins again.
 *
 * The index is a B+Tree of its own: expiresAt u48 · space u32 · seq u48 · hash of the key u64 (big-endian) → key. What a transaction over several
 * shards writes has one number, so a number alone does not tell lines apart; lines of stores that are older than that have no hash. It is derived:
 * a line whose entry is gone or has another version means nothing and is dropped when its time comes.
 *
 * Reserved room. What is prepared (prepared.ts) is admitted when it is prepared and applied later: until then every ask counts it besides, as a group
 * of its own. Threads: the shard's thread only.
 */
import { assert } from '../../shared/assert.js';
import { ConcordError } from '../../shared/errors.js';
import type { ArenaReader, ArenaWriter, UnitId } from '../../shared/memory/arena.js';
import { markMetaPage } from '../btree/walk.js';
import { TreeTable, treeCount, treeCounts } from '../btree/meta.js';
import { OverflowWriter, walkChain, type OverflowChain } from '../btree/overflow.js';
import { SEGMENT_UNIT_SHIFT } from '../../shared/memory/arena.js';
import '../built-in.js';
import {
  BUILDING_SPACE_ID,
  DEFAULT_SPACE_ID,
  EXPIRY_SPACE_ID,
  FREE_TAG,
  engineCodeOfTag,
  engineNamed,
  engineOfCode,
  newSweep,
  rowTag,
  spaceIdOfTag,
  type Engine,
  type EngineBackground,
  type EngineCursor,
  type EngineReader,
  type EngineWriter,
  type SweepState,
} from '../engine.js';
import { hashBytes } from '../../shared/hash.js';
import { SHARD_READER_SLOT } from '../reader-slots.js';
import type { SpaceDefinition, SwitchProgress } from './space.js';

export { JOB_READER_SLOT, SHARD_READER_SLOT } from '../reader-slots.js';

const INDEX_KEY_BYTES = 24;
/** Of older stores: without the hash. */
const INDEX_KEY_BYTES_BEFORE = 16;
const SECOND_HASH_SEED = 0x6c696e65;
/** Spaces that are moved at a time: each takes another row of the meta page, which has room for all spaces and about a hundred more. */
const BUILDINGS_MAX = 32;
/** Asked for at once, beside twice what was asked: operations of so many bytes. */
const GRANTED_OPERATIONS = 16;
const GRANTED_BYTES = 256;
const NO_SNAPSHOTS = new Float64Array(0);
/** Bytes that one line of the index takes beside the key. */
const INDEX_LINE_BYTES = INDEX_KEY_BYTES;

interface Building {
  readonly engine: EngineWriter;
  /** The copy has passed all that comes before; undefined: nothing yet. */
  position: Uint8Array | undefined;
  /** The copy has passed everything; the exchange may have to wait. */
  isComplete: boolean;
  /** The new engine was told to put what is copied into its files. */
  isStoring: boolean;
  copied: number;
}

export interface Space {
  readonly id: number;
  definition: SpaceDefinition;
  engine: EngineWriter;
  cursor: EngineCursor | undefined;
  reader: EngineReader | undefined;
  building: Building | undefined;
  /** Of the engine: see Engine.expiresByItself. */
  expiresByItself: boolean;
  /** Operations up to this number are in the engine already: a replay passes them over. */
  passesUpTo: number;
  /** Group in which the engine was touched last. */
  group: number;
  /** Of the group that is being put together: what must be admitted. */
  askedGroup: number;
  askedOperations: number;
  askedBytes: number;
  /** Key and value of the largest operation; Infinity: not told. */
  askedLargest: number;
  /** Of all that is prepared: what must stay admitted. The largest is one of those since nothing was. */
  reservedTransactions: number;
  reservedOperations: number;
  reservedBytes: number;
  reservedLargest: number;
  reservedExpiring: number;
}

/** What the operations of a transaction ask of one space. */
export interface RoomNeeds {
  readonly spaceId: number;
  operations: number;
  bytes: number;
  /** Key and value of the largest operation. */
  largestBytes: number;
  /** Puts of entries that expire. */
  expiring: number;
}

/** An entry whose time has come. */
export interface ExpiredEntry {
  readonly spaceId: number;
  readonly key: Buffer;
}

/** Reports every page reachable from a meta page, whatever engines its rows have: the walk for ArenaWriter.adopt. */
export function markRows(arena: ArenaReader, metaUnit: UnitId, mark: (unit: UnitId, units: number) => void): void {
  markMetaPage(arena, metaUnit, mark);
  const count = treeCount(arena, metaUnit);
  for (let row = 0; row < count; row++) {
    const { tag } = treeCounts(arena, metaUnit, row);
    if (tag !== FREE_TAG) engineOfCode(engineCodeOfTag(tag)).mark(arena, metaUnit, row, mark);
  }
}

export class SpaceTable {
  readonly #arena: ArenaWriter;
  readonly #spaces = new Map<number, Space>();
  #default: Space;
  #index: EngineWriter | undefined;
  #indexCursor: EngineCursor | undefined;
  readonly #indexKey = new Uint8Array(INDEX_KEY_BYTES);
  #group = 1;
  #publishedSeq = 0;
  #isAtomic = false;
  readonly #touched: Space[] = [];
  #indexTouched = false;
  #snapshots: Float64Array = NO_SNAPSHOTS;
  #snapshotCount = 0;
  /** Engines that work behind the groups, those that are being filled among them. */
  #backgrounds: EngineBackground[] = [];
  /** First frame of the log that has something of the group at hand; Infinity: it is of no interest, what is done is no operation. */
  lsn = Infinity;

  // What the group that is being put together has asked for.
  readonly #asked: Space[] = [];
  #askedGroup = 1;
  #askedExpiring = 0;
  #askedOperations = 0;
  /** Spaces that something prepared writes to. */
  readonly #reserved = new Set<Space>();
  #reservedUnitsGroup = 0;
  #reservedUnitsKnown = 0;
  /** What is sure of a group of one space, beside what is prepared. */
  readonly #granted = { group: 0, operations: 0, bytes: 0, largest: 0, expiring: 0, deletesOnly: false };

  /**
   * Opens what the arena's rows hold. Spaces without a row begin empty; rows of spaces that are not defined any more, and engines that were being
   * filled, give their memory back.
   */
  constructor(arena: ArenaWriter, definitions: readonly SpaceDefinition[]) {
    this.#arena = arena;
    const table = TreeTable.of(arena);
    const wanted = new Map(definitions.map((definition) => [definition.id, definition]));
    for (let row = 0; row < table.count; row++) {
      const { tag } = table.row(row);
      if (tag === FREE_TAG) continue;
      const id = spaceIdOfTag(tag);
      const definition = wanted.get(id);
      const engine = engineOfCode(engineCodeOfTag(tag));
      const writer = engine.openWriter(arena, row, id, definition?.tuning ?? {});
      if (id === EXPIRY_SPACE_ID) this.#index = writer;
      else if (definition === undefined || this.#spaces.has(id)) writer.destroy();
      else this.#spaces.set(id, newSpace(definition, writer));
    }
    for (const definition of definitions) if (!this.#spaces.has(definition.id)) this.open(definition);
    const defaultSpace = this.#spaces.get(DEFAULT_SPACE_ID);
    assert(defaultSpace !== undefined, 'every shard has the default space');
    this.#default = defaultSpace;
    this.#listBackgrounds();
  }

  get defaultEngine(): EngineWriter {
    return this.#default.engine;
  }

  get(spaceId: number): Space | undefined {
    return spaceId === DEFAULT_SPACE_ID ? this.#default : this.#spaces.get(spaceId);
  }

  /** @throws ERR_SPACE_DROPPED */
  require(spaceId: number): Space {
    const space = this.get(spaceId);
    if (space === undefined)
      throw new ConcordError('ERR_SPACE_DROPPED', `space ${spaceId} was dropped`, { space: spaceId });
    return space;
  }

  get all(): IterableIterator<Space> {
    return this.#spaces.values();
  }

  // ---- definitions ----------------------------------------------------------------------------------------------------------------------

  /** Harmless when it is open. The caller publishes. */
  open(definition: SpaceDefinition): void {
    if (this.#spaces.has(definition.id)) return;
    const engine = engineNamed(definition.engine);
    const row = TreeTable.of(this.#arena).freeRow();
    this.#spaces.set(
      definition.id,
      newSpace(definition, engine.openWriter(this.#arena, row, definition.id, definition.tuning)),
    );
    this.#listBackgrounds();
  }

  /**
   * What a checkpoint has of the space is in another engine than its definition says: it was on its way from there. That engine has it again, and the
   * move is begun anew (unfinishedSwitches). While the space is being loaded: the present engine is empty.
   */
  returnTo(spaceId: number, code: number): void {
    const space = this.#spaces.get(spaceId);
    if (space === undefined || space.engine.code === code) return;
    space.engine.destroy();
    const row = TreeTable.of(this.#arena).freeRow();
    space.engine = engineOfCode(code).openWriter(this.#arena, row, spaceId, space.definition.tuning);
    space.expiresByItself = hasOwnExpiry(space.engine);
    this.#listBackgrounds();
  }

  /** Its lines in the index stay until their time comes. The caller publishes. */
  drop(spaceId: number): void {
    assert(spaceId !== DEFAULT_SPACE_ID, 'the default space stays');
    const space = this.#spaces.get(spaceId);
    if (space === undefined) return;
    this.#spaces.delete(spaceId);
    this.#reserved.delete(space);
    space.building?.engine.destroy();
    space.engine.destroy();
    this.#listBackgrounds();
  }

  // ---- admission ------------------------------------------------------------------------------------------------------------------------

  /** Forgets what was asked for: a new group begins. */
  beginAsking(): void {
    this.#asked.length = 0;
    this.#askedGroup++;
    this.#askedExpiring = 0;
    this.#askedOperations = 0;
  }

  /**
   * Whether the group with so many more operations of one space can surely be applied; `expiring` of them put entries that expire. Counts them in
   * if so.
   */
  ask(
    space: Space,
    operations: number,
    bytes: number,
    expiring: number,
    deletesOnly: boolean,
    largestBytes: number,
  ): boolean {
    if (space.askedGroup !== this.#askedGroup) {
      space.askedGroup = this.#askedGroup;
      space.askedOperations = 0;
      space.askedBytes = 0;
      space.askedLargest = 0;
      this.#asked.push(space);
    }
    const largestBefore = space.askedLargest;
    space.askedLargest = Math.max(largestBefore, largestBytes);
    space.askedOperations += operations;
    space.askedBytes += bytes;
    this.#askedExpiring += expiring;
    this.#askedOperations += operations;
    if (this.#admitsAsked(deletesOnly)) return true;
    space.askedOperations -= operations;
    space.askedBytes -= bytes;
    space.askedLargest = largestBefore;
    this.#askedExpiring -= expiring;
    this.#askedOperations -= operations;
    return false;
  }

  /** Whether any one space could take a group that is of spaces not looked at. Deletes and puts alike draw on the reserve. */
  admitsAny(operations: number, bytes: number): boolean {
    for (const { engine } of this.#spaces.values()) if (!engine.admits(operations, bytes, true)) return false;
    return true;
  }

  /**
   * Where the group is of one space, twice as much as it asks is asked for first, so that the answer is good for the next ones: they are many, and it
   * takes longer to find than the rest of what is done with a request before it is applied.
   */
  #admitsAsked(deletesOnly: boolean): boolean {
    const asked = this.#asked;
    if (asked.length > 1) return this.#admitsTimes(1, 0, deletesOnly);
    const first = asked[0]!;
    const operations = this.#askedOperations;
    const expiring = this.#askedExpiring;
    const granted = this.#granted;
    if (
      granted.group === this.#askedGroup &&
      operations <= granted.operations &&
      first.askedBytes <= granted.bytes &&
      first.askedLargest <= granted.largest &&
      expiring <= granted.expiring &&
      (deletesOnly || !granted.deletesOnly)
    ) {
      return true;
    }
    if (!this.#admitsTimes(2, GRANTED_OPERATIONS, deletesOnly)) return this.#admitsTimes(1, 0, deletesOnly);
    granted.group = this.#askedGroup;
    granted.operations = 2 * operations + GRANTED_OPERATIONS;
    granted.bytes = 2 * first.askedBytes + GRANTED_OPERATIONS * GRANTED_BYTES;
    granted.largest = first.askedLargest;
    granted.expiring = 2 * expiring;
    granted.deletesOnly = deletesOnly;
    return true;
  }

  /**
   * `times` as much as is asked for, and so many operations more. Beside what is prepared: a group before the one that applies that, which finds a tree
   * that has grown.
   */
  #admitsTimes(times: number, more: number, deletesOnly: boolean): boolean {
    const operations = times * this.#askedOperations + more;
    const indexOperations = this.#indexOperationsOf(operations, times * this.#askedExpiring);
    const isAlone = this.#asked.length === 1 && indexOperations === 0 && this.#reserved.size === 0;
    let units = this.#reservedUnitsNow();
    for (const space of this.#asked) {
      const { engine, building, reservedOperations, reservedBytes } = space;
      const count = times * space.askedOperations + more;
      const bytes = times * space.askedBytes + more * GRANTED_BYTES;
      const largest = Math.max(space.askedLargest, space.reservedLargest);
      if (!engine.admits(count + reservedOperations, bytes + reservedBytes, deletesOnly, largest)) return false;
      if (isAlone && building === undefined) return true;
      units += engine.unitsNeeded(count, bytes, space.askedLargest);
      if (building !== undefined) units += building.engine.unitsNeeded(count, bytes, space.askedLargest);
    }
    if (indexOperations > 0) units += this.#indexUnits(indexOperations);
    if (units <= this.#arena.freeUnits(deletesOnly)) return true;
    this.#arena.reclaim();
    return units <= this.#arena.freeUnits(deletesOnly);
  }

  #indexUnits(operations: number): number {
    return this.#requireIndex().unitsNeeded(operations, operations * (INDEX_LINE_BYTES + 64));
  }

  /** The same for all asks of a group: nothing changes meanwhile. */
  #reservedUnitsNow(): number {
    if (this.#reservedUnitsGroup !== this.#askedGroup) {
      this.#reservedUnitsGroup = this.#askedGroup;
      this.#reservedUnitsKnown = this.#reservedUnits();
    }
    return this.#reservedUnitsKnown;
  }

  /** What applying all that is prepared may take. */
  #reservedUnits(): number {
    let units = 0;
    let operations = 0;
    let expiring = 0;
    for (const { engine, building, reservedOperations, reservedBytes, reservedLargest, reservedExpiring } of this
      .#reserved) {
      units += engine.unitsNeeded(reservedOperations, reservedBytes, reservedLargest);
      if (building !== undefined) {
        units += building.engine.unitsNeeded(reservedOperations, reservedBytes, reservedLargest);
      }
      operations += reservedOperations;
      expiring += reservedExpiring;
    }
    const indexOperations = this.#indexOperationsOf(operations, expiring);
    return indexOperations === 0 ? units : units + this.#indexUnits(indexOperations);
  }

  /** Keeps the (admitted) room from other groups until release() is told the same. Spaces that are gone need none. */
  reserve(needs: readonly RoomNeeds[]): void {
    for (const { spaceId, operations, bytes, largestBytes, expiring } of needs) {
      const space = this.get(spaceId);
      if (space === undefined) continue;
      this.#reserved.add(space);
      space.reservedTransactions++;
      space.reservedOperations += operations;
      space.reservedBytes += bytes;
      space.reservedLargest = Math.max(space.reservedLargest, largestBytes);
      space.reservedExpiring += expiring;
    }
  }

  release(needs: readonly RoomNeeds[]): void {
    for (const { spaceId, operations, bytes, expiring } of needs) {
      const space = this.get(spaceId);
      if (space === undefined) continue;
      space.reservedOperations -= operations;
      space.reservedBytes -= bytes;
      space.reservedExpiring -= expiring;
      if (--space.reservedTransactions > 0) continue;
      space.reservedLargest = 0;
      this.#reserved.delete(space);
    }
  }

  /** Work that asks nobody, and can do without, leaves that room too. @throws ERR_MEMORY_FULL */
  #leaveReserved(): void {
    if (this.#reserved.size === 0) return;
    const units = this.#reservedUnits();
    if (units <= this.#arena.freeUnits(false)) return;
    throw new ConcordError('ERR_MEMORY_FULL', `${units} units are kept for transactions that are prepared`, { units });
  }

  /** Lines that may come and go: two for an entry that expires, and one for each that may replace such an entry. */
  #indexOperationsOf(operations: number, expiring: number): number {
    const index = this.#index;
    const mayReplace = index !== undefined && index.counts().cells > 0;
    return expiring * 2 + (mayReplace ? operations : 0);
  }

  // ---- operations -----------------------------------------------------------------------------------------------------------------------

  /** The open snapshots of the groups to come, ascending; kept, not copied. `extra`: one more that only engines without pages need. */
  setSnapshots(sorted: Float64Array, count: number): void {
    this.#snapshots = sorted;
    this.#snapshotCount = count;
  }

  beginGroup(publishedSeq: number, isAtomic: boolean): void {
    this.#group++;
    this.#publishedSeq = publishedSeq;
    this.#isAtomic = isAtomic;
  }

  /** After the publication. */
  endGroup(): void {
    for (const space of this.#touched) {
      space.engine.endGroup();
      space.building?.engine.endGroup();
    }
    this.#touched.length = 0;
    if (this.#indexTouched) this.#index!.endGroup();
    this.#indexTouched = false;
  }

  #touch(space: Space): void {
    space.group = this.#group;
    this.#touched.push(space);
    space.engine.setSnapshots(this.#snapshots, this.#snapshotCount);
    space.engine.beginGroup(this.#publishedSeq, this.#isAtomic);
    space.engine.background?.noteLsn(this.lsn);
    const building = space.building?.engine;
    if (building === undefined) return;
    building.setSnapshots(this.#snapshots, this.#snapshotCount);
    building.beginGroup(this.#publishedSeq, false);
    building.background?.noteLsn(this.lsn);
  }

  /** Something of the group stands in an earlier frame of the log: spaces it has touched need that one too. */
  noteLsn(lsn: number): void {
    for (const { engine, building } of this.#touched) {
      engine.background?.noteLsn(lsn);
      building?.engine.background?.noteLsn(lsn);
    }
  }

  put(
    spaceId: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    expiresAt: number,
  ): void {
    const space = this.get(spaceId);
    if (space === undefined || seq <= space.passesUpTo) return;
    if (space.group !== this.#group) this.#touch(space);
    const { engine } = space;
    engine.put(key, keyStart, keyLength, value, valueStart, valueLength, seq, expiresAt);
    if (engine.replacedSeq !== 0) this.#unlist(space, key, keyStart, keyLength, seq);
    if (expiresAt !== 0 && mustList(space)) this.#list(spaceId, key, keyStart, keyLength, seq, expiresAt);
    if (hasPassed(space, key, keyStart, keyLength)) {
      space.building!.engine.put(key, keyStart, keyLength, value, valueStart, valueLength, seq, expiresAt);
    }
  }

  /** The engine owns the chain from then on; it is freed if the space is gone. */
  putOverflow(
    spaceId: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    chain: OverflowChain,
    seq: number,
    expiresAt: number,
  ): void {
    const space = this.get(spaceId);
    if (space === undefined || seq <= space.passesUpTo) {
      OverflowWriter.discard(this.#arena, chain);
      return;
    }
    if (space.group !== this.#group) this.#touch(space);
    const { engine } = space;
    const copy = hasPassed(space, key, keyStart, keyLength) ? copyChain(this.#arena, chain) : undefined;
    engine.putOverflow(key, keyStart, keyLength, chain, seq, expiresAt);
    if (engine.replacedSeq !== 0) this.#unlist(space, key, keyStart, keyLength, seq);
    if (expiresAt !== 0 && mustList(space)) this.#list(spaceId, key, keyStart, keyLength, seq, expiresAt);
    if (copy !== undefined) space.building!.engine.putOverflow(key, keyStart, keyLength, copy, seq, expiresAt);
  }

  del(spaceId: number, key: Uint8Array, keyStart: number, keyLength: number, seq: number): void {
    const space = this.get(spaceId);
    if (space === undefined || seq <= space.passesUpTo) return;
    if (space.group !== this.#group) this.#touch(space);
    const { engine } = space;
    engine.del(key, keyStart, keyLength, seq);
    if (engine.replacedSeq !== 0) this.#unlist(space, key, keyStart, keyLength, seq);
    if (hasPassed(space, key, keyStart, keyLength)) space.building!.engine.del(key, keyStart, keyLength, seq);
  }

  /** [low, high), undefined: open. What is left of the range in the index goes when its time comes. */
  removeRange(spaceId: number, low: Uint8Array | undefined, high: Uint8Array | undefined, seq: number): void {
    const space = this.get(spaceId);
    if (space === undefined || seq <= space.passesUpTo) return;
    if (space.group !== this.#group) this.#touch(space);
    space.engine.removeRange(low, true, high, false, Infinity, seq);
    // The copy holds nothing but what it has passed.
    space.building?.engine.removeRange(low, true, high, false, Infinity, seq);
  }

  // ---- expiry ---------------------------------------------------------------------------------------------------------------------------

  #requireIndex(): EngineWriter {
    if (this.#index === undefined) {
      const row = TreeTable.of(this.#arena).freeRow();
      this.#index = engineNamed('btree').openWriter(this.#arena, row, EXPIRY_SPACE_ID, {});
    }
    return this.#index;
  }

  #touchedIndex(): EngineWriter {
    const index = this.#requireIndex();
    if (!this.#indexTouched) {
      this.#indexTouched = true;
      index.setSnapshots(NO_SNAPSHOTS, 0);
      index.beginGroup(this.#publishedSeq, true);
    }
    return index;
  }

  #list(spaceId: number, key: Uint8Array, keyStart: number, keyLength: number, seq: number, expiresAt: number): void {
    const index = this.#touchedIndex();
    writeIndexKey(this.#indexKey, expiresAt, spaceId, seq, key, keyStart, keyLength);
    index.put(this.#indexKey, 0, INDEX_KEY_BYTES, key, keyStart, keyLength, seq, 0);
  }

  /** The line of what the engine has just replaced. */
  #unlist({ id, engine }: Space, key: Uint8Array, keyStart: number, keyLength: number, seq: number): void {
    const index = this.#touchedIndex();
    writeIndexKey(this.#indexKey, engine.replacedExpiresAt, id, engine.replacedSeq, key, keyStart, keyLength);
    if (index.del(this.#indexKey, 0, INDEX_KEY_BYTES, seq)) return;
    index.del(this.#indexKey, 0, INDEX_KEY_BYTES_BEFORE, seq);
  }

  /** Entries that are listed to expire. */
  get expiringEntries(): number {
    return this.#index?.counts().liveEntries ?? 0;
  }

  /** Time of the first line, Infinity if there is none. */
  nextExpiry(): number {
    const cursor = this.#seekIndex();
    if (cursor === undefined || !cursor.valid) return Infinity;
    cursor.copyKey(this.#indexKey, 0);
    return readBigEndian(this.#indexKey, 0, 6);
  }

  #seekIndex(): EngineCursor | undefined {
    const index = this.#index;
    if (index === undefined || index.counts().cells === 0) return undefined;
    this.#indexCursor ??= engineOfCode(index.code).openCursor(
      this.#arena,
      index.row,
      EXPIRY_SPACE_ID,
      SHARD_READER_SLOT,
    );
    this.#indexCursor.seek(this.#arena.published(), undefined, 0, Infinity, false, 1);
    return this.#indexCursor;
  }

  /**
   * Looks at up to `linesMax` lines that are due at `nowMs`: entries to delete go to `expired`; lines that mean nothing any more are removed at once
   * (the caller publishes), as far as there is room to do so. Returns the number of those removed. Between groups only.
   */
  collectExpired(nowMs: number, linesMax: number, expired: ExpiredEntry[]): number {
    const cursor = this.#seekIndex();
    if (cursor === undefined) return 0;
    const stale: Uint8Array[] = [];
    for (let lines = 0; cursor.valid && lines < linesMax; lines++, cursor.next()) {
      const line = new Uint8Array(cursor.keyLength);
      cursor.copyKey(line, 0);
      if (readBigEndian(line, 0, 6) > nowMs) break;
      const spaceId = readBigEndian(line, 6, 4);
      const key = cursor.copyValue();
      const space = this.get(spaceId);
      // What expires by itself needs no delete, unless it is on its way to an engine where nothing does.
      if (space === undefined || !mustList(space)) stale.push(line);
      else {
        try {
          const version = space.engine.versionOf(key, 0, key.length, 0);
          if (version === readBigEndian(line, 10, 6)) expired.push({ spaceId, key });
          else stale.push(line);
        } catch (error) {
          // A page or block that cannot be read, or has no room: the entry is absent for readers, and is looked for again later.
          const readsFiles = space.engine.background !== undefined || space.engine.counts().isPaged === true;
          if (!(error instanceof ConcordError) || !readsFiles) throw error;
        }
      }
    }
    cursor.release();
    if (stale.length === 0) return 0;
    this.beginGroup(this.#publishedSeq, false);
    const index = this.#touchedIndex();
    let removed = 0;
    try {
      for (const line of stale) {
        index.del(line, 0, line.length, this.#publishedSeq);
        removed++;
      }
    } catch (error) {
      // The reserve is used up. What was removed gives room once it is published.
      if (!(error instanceof ConcordError) || error.code !== 'ERR_MEMORY_FULL') throw error;
    }
    return removed;
  }

  // ---- engines exchanged ------------------------------------------------------------------------------------------------------------------

  /**
   * Begins to move the space, if its engine is not the one that is defined for it. True if there is something to do; while too many spaces are being
   * moved it is not begun yet (no `building`), and the caller asks again.
   */
  beginSwitch(definition: SpaceDefinition): boolean {
    const space = this.require(definition.id);
    const engine = engineNamed(definition.engine);
    space.definition = definition;
    if (space.building !== undefined && space.building.engine.code !== engine.code) this.cancelSwitch(space);
    if (space.engine.code === engine.code) {
      if (space.building !== undefined) this.cancelSwitch(space);
      return false;
    }
    if (space.building === undefined && this.#buildings() < BUILDINGS_MAX) {
      const building = this.#openBuilding(engine, definition);
      space.building = { engine: building, position: undefined, isComplete: false, isStoring: false, copied: 0 };
      this.#listBackgrounds();
    }
    return true;
  }

  #buildings(): number {
    let count = 0;
    for (const { building } of this.#spaces.values()) if (building !== undefined) count++;
    return count;
  }

  #openBuilding(engine: Engine, definition: SpaceDefinition): EngineWriter {
    const row = TreeTable.of(this.#arena).freeRow();
    return engine.openWriter(this.#arena, row, BUILDING_SPACE_ID, definition.tuning);
  }

  /** The caller publishes. */
  cancelSwitch(space: Space): void {
    space.building?.engine.destroy();
    space.building = undefined;
    this.#listBackgrounds();
  }

  /** Spaces whose engine is not the one that is defined for them. */
  get unfinishedSwitches(): Space[] {
    return [...this.#spaces.values()].filter(
      (space) => space.engine.code !== engineNamed(space.definition.engine).code,
    );
  }

  /**
   * Copies about `budget` versions of a space that is being moved. Between groups; the caller publishes. True when all is copied: finishSwitch() may
   * follow. @throws ERR_MEMORY_FULL: cancelSwitch()
   */
  switchSlice(space: Space, publishedSeq: number, budget: number): boolean {
    const building = space.building!;
    const { engine } = building;
    if (building.isComplete) {
      if (!building.isStoring && !isStored(engine)) engine.background?.flush(() => undefined);
      building.isStoring = true;
      return isStored(engine);
    }
    this.#leaveReserved();
    this.beginGroup(publishedSeq, false);
    this.lsn = Infinity;
    this.#touch(space);
    // What is copied stands in no frame of the log as the new engine's: it must be in its files before it takes the space.
    engine.background?.noteLsn(0);
    const isListed = space.expiresByItself;
    const next = space.engine.visitVersions(
      building.position,
      budget,
      (key, keyLength, value, valueLength, seq, expiresAt, isTombstone) => {
        building.copied++;
        if (isTombstone) engine.del(key, 0, keyLength, seq);
        else {
          engine.put(key, 0, keyLength, value, 0, valueLength, seq, expiresAt);
          if (isListed && expiresAt !== 0) this.#list(space.id, key, 0, keyLength, seq, expiresAt);
        }
      },
    );
    building.position = next;
    building.isComplete = next === undefined;
    return building.isComplete && isStored(engine);
  }

  /** The new engine takes the space: visible with the next publication, which the caller makes. Returns the old one, to be destroyed behind it. */
  finishSwitch(space: Space): EngineWriter {
    const { engine } = space.building!;
    const old = space.engine;
    engine.tag = rowTag(space.id, engine.code);
    space.engine = engine;
    space.building = undefined;
    space.cursor = undefined;
    space.reader = undefined;
    space.expiresByItself = hasOwnExpiry(engine);
    this.#listBackgrounds();
    old.tag = rowTag(BUILDING_SPACE_ID, old.code);
    return old;
  }

  progress(spaceId: number): SwitchProgress | undefined {
    const space = this.#spaces.get(spaceId);
    if (space?.building === undefined) return undefined;
    return { copied: space.building.copied, total: Math.max(space.building.copied, space.engine.counts().cells) };
  }

  // ---- all of them ------------------------------------------------------------------------------------------------------------------------

  /** A cursor on the space's published state, for the shard itself. */
  cursorOf(space: Space): EngineCursor {
    space.cursor ??= engineOfCode(space.engine.code).openCursor(
      this.#arena,
      space.engine.row,
      space.id,
      SHARD_READER_SLOT,
    );
    return space.cursor;
  }

  /** Finds single keys in the space's published state, for the shard itself. */
  readerOf(space: Space): EngineReader {
    space.reader ??= engineOfCode(space.engine.code).openReader(
      this.#arena,
      space.engine.row,
      space.id,
      SHARD_READER_SLOT,
    );
    return space.reader;
  }

  isOrdered(space: Space): boolean {
    return engineOfCode(space.engine.code).isOrdered;
  }

  // ---- engines that work behind the groups ------------------------------------------------------------------------------------------------

  #listBackgrounds(): void {
    const backgrounds: EngineBackground[] = [];
    for (const { engine, building } of this.#spaces.values()) {
      if (engine.background !== undefined) backgrounds.push(engine.background);
      if (building?.engine.background !== undefined) backgrounds.push(building.engine.background);
    }
    this.#backgrounds = backgrounds;
  }

  get hasBackgrounds(): boolean {
    return this.#backgrounds.length > 0;
  }

  /** See EngineBackground.hasWork. */
  get hasWork(): boolean {
    for (const background of this.#backgrounds) if (background.hasWork) return true;
    return false;
  }

  get workDueAtMs(): number {
    let dueAtMs = Infinity;
    for (const background of this.#backgrounds) dueAtMs = Math.min(dueAtMs, background.workDueAtMs);
    return dueAtMs;
  }

  /** Between groups. True: the caller publishes. @throws as EngineBackground.work() */
  work(nowMs: number): boolean {
    let hasChanged = false;
    for (const background of this.#backgrounds) {
      background.setSnapshots(this.#snapshots, this.#snapshotCount);
      if (background.work(nowMs)) hasChanged = true;
    }
    return hasChanged;
  }

  /**
   * Writes memory to files at once, where that is all that can give room: no jobs run yet. mustAll: what stands in no log, too. True: the caller
   * publishes. @throws ERR_IO, ERR_DISK_FULL, ERR_MEMORY_FULL
   */
  relieve(nowMs: number, mustAll: boolean): boolean {
    let hasChanged = false;
    // What is being filled is no space's yet.
    for (const { engine } of this.#spaces.values()) {
      const { background } = engine;
      if (background === undefined) continue;
      if (mustAll ? background.neededFromLsn !== 0 : background.flow().state !== 'stopped') continue;
      background.setSnapshots(this.#snapshots, this.#snapshotCount);
      if (background.relieve(nowMs)) hasChanged = true;
    }
    return hasChanged;
  }

  /** Writes all memory of engines with files to those, where no jobs run yet. True: the caller publishes. @throws as relieve() */
  relieveAll(nowMs: number): boolean {
    let hasChanged = false;
    for (const { engine } of this.#spaces.values()) {
      const { background } = engine;
      if (background === undefined) continue;
      background.setSnapshots(this.#snapshots, this.#snapshotCount);
      if (background.relieve(nowMs)) hasChanged = true;
    }
    return hasChanged;
  }

  /** First frame of the log that engines with files of their own need for what is in memory; Infinity: none. */
  get neededFromLsn(): number {
    let needed = Infinity;
    for (const { engine } of this.#spaces.values()) {
      if (engine.background !== undefined) needed = Math.min(needed, engine.background.neededFromLsn);
    }
    return needed;
  }

  /** Those whose checkpoint is not their entries. */
  get backgroundSpaces(): Space[] {
    return [...this.#spaces.values()].filter(({ engine }) => engine.background !== undefined);
  }

  /** Of all operations that are in files. */
  get storedSeqMax(): number {
    let largest = 0;
    for (const background of this.#backgrounds) largest = Math.max(largest, background.largestSeq);
    return largest;
  }

  /** A replay begins: what each engine has already is passed over. base: what the checkpoint, or the published state, has of all others. */
  beginReplay(base: number, isAdopted: boolean): void {
    for (const space of this.#spaces.values()) {
      const { background } = space.engine;
      space.passesUpTo = background === undefined || isAdopted ? base : background.storedSeq;
    }
  }

  endReplay(): void {
    for (const space of this.#spaces.values()) space.passesUpTo = 0;
    this.lsn = Infinity;
  }

  // ---- whole contents ---------------------------------------------------------------------------------------------------------------------

  /** One slice of a sweep over all engines. Between groups; the caller publishes. */
  sweep(state: TableSweep, publishedSeq: number, budget: number): void {
    if (state.pending === undefined) state.pending = [...this.#spaces.keys()];
    const space = this.get(state.pending[0] ?? DEFAULT_SPACE_ID);
    if (state.pending.length > 0 && space !== undefined) {
      this.beginGroup(publishedSeq, false);
      this.lsn = Infinity;
      this.#touch(space);
      const before = state.current.removedCells;
      space.engine.sweep(state.current, budget);
      state.removedCells += state.current.removedCells - before;
      if (!state.current.done) return;
    }
    state.pending.shift();
    state.current = newSweep();
    state.done = state.pending.length === 0;
  }

  check(): string[] {
    const problems: string[] = [];
    for (const { id, engine } of this.#spaces.values()) {
      for (const problem of engine.check())
        problems.push(id === DEFAULT_SPACE_ID ? problem : `space ${id}: ${problem}`);
    }
    for (const problem of this.#index?.check() ?? []) problems.push(`expiry index: ${problem}`);
    return problems;
  }
}

/** A sweep of all spaces. */
export interface TableSweep {
  /** Spaces to come, the current one first; undefined before the first slice. */
  pending: number[] | undefined;
  current: SweepState;
  removedCells: number;
  done: boolean;
}

export function newTableSweep(): TableSweep {
  return { pending: undefined, current: newSweep(), removedCells: 0, done: false };
}

function newSpace(definition: SpaceDefinition, engine: EngineWriter): Space {
  return {
    id: definition.id,
    definition,
    engine,
    cursor: undefined,
    reader: undefined,
    building: undefined,
    expiresByItself: hasOwnExpiry(engine),
    passesUpTo: 0,
    group: 0,
    askedGroup: 0,
    askedOperations: 0,
    askedBytes: 0,
    askedLargest: 0,
    reservedTransactions: 0,
    reservedOperations: 0,
    reservedBytes: 0,
    reservedLargest: 0,
    reservedExpiring: 0,
  };
}

/** In memory nothing is compacted, so nothing goes by itself. */
function hasOwnExpiry({ code, background }: EngineWriter): boolean {
  return background !== undefined && engineOfCode(code).expiresByItself === true;
}

/** An engine that is being filled may need the line, where the present one does not. */
function mustList({ expiresByItself, building }: Space): boolean {
  return !expiresByItself || (building !== undefined && !hasOwnExpiry(building.engine));
}

/** Nothing of what was copied is in memory only. */
function isStored({ background }: EngineWriter): boolean {
  return background === undefined || background.neededFromLsn > 0;
}

function hasPassed(space: Space, key: Uint8Array, keyStart: number, keyLength: number): boolean {
  const { building } = space;
  if (building === undefined) return false;
  if (building.isComplete) return true;
  if (building.position === undefined) return false;
  return space.engine.isBefore(key, keyStart, keyLength, building.position);
}

function copyChain(arena: ArenaWriter, chain: OverflowChain): OverflowChain {
  const writer = new OverflowWriter(arena);
  writer.begin(chain.totalBytes);
  walkChain(arena, chain.firstUnit, chain.totalBytes, (unit, _pageClass, payloadAt, payloadBytes) => {
    writer.append(arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!, payloadAt, payloadBytes);
  });
  return writer.finish();
}

/** A line of the index. */
export function indexKey(expiresAt: number, spaceId: number, seq: number, key: Uint8Array): Buffer {
  const line = Buffer.allocUnsafe(INDEX_KEY_BYTES);
  writeIndexKey(line, expiresAt, spaceId, seq, key, 0, key.length);
  return line;
}

function writeIndexKey(
  into: Uint8Array,
  expiresAt: number,
  spaceId: number,
  seq: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
): void {
  writeBigEndian(into, 0, 6, expiresAt);
  writeBigEndian(into, 6, 4, spaceId);
  writeBigEndian(into, 10, 6, seq);
  writeBigEndian(into, 16, 4, hashBytes(key, keyStart, keyLength) >>> 0);
  writeBigEndian(into, 20, 4, hashBytes(key, keyStart, keyLength, SECOND_HASH_SEED) >>> 0);
}

function writeBigEndian(into: Uint8Array, at: number, bytes: number, value: number): void {
  for (let index = at + bytes - 1; index >= at; index--) {
    into[index] = value % 256;
    value = Math.floor(value / 256);
  }
}

function readBigEndian(from: Uint8Array, at: number, bytes: number): number {
  let value = 0;
  for (let index = at; index < at + bytes; index++) value = value * 256 + from[index]!;
  return value;
}
