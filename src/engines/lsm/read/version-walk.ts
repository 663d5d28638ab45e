/**
 * All versions of all keys, oldest first within a key: what EngineWriter.visitVersions() shows.
 *
 * A range tombstone shows as a tombstone of its number in every key that it covers and that has an older version. Versions that nothing needs any more
 * are shown as long as no compaction has dropped them.
 * Threads: the shard thread, between groups; nothing is published while visit() runs.
 */
import type { ArenaReader, UnitId } from '../../../shared/memory/arena.js';
import { KEY_BYTES_MAX } from '../../btree/page.js';
import type { VersionVisit } from '../../engine.js';
import { EntryFlag } from '../table/entry.js';
import { copyBlob, referenceAt } from './blob-values.js';
import { MemtableVersions } from './memtable-versions.js';
import { RunWalk } from './run-walk.js';
import { LsmView, compareKeys } from './view.js';

const NO_VALUE = new Uint8Array(0);

interface FoundVersion {
  readonly seq: number;
  readonly expiresAt: number;
  readonly isTombstone: boolean;
  readonly value: Uint8Array;
}

export class VersionWalk extends LsmView {
  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, slot);
  }

  /**
   * Versions of about `budget` keys and versions, from the position (undefined: the start) on. Returns where to go on, undefined at the end.
   * @throws ERR_CORRUPT, ERR_IO
   */
  visit(
    metaUnit: UnitId,
    position: Uint8Array | undefined,
    budget: number,
    visit: VersionVisit,
  ): Uint8Array | undefined {
    if (!this.enter(metaUnit)) return undefined;
    // Newest first.
    const memtables = this.memtables.map((descriptor) => new MemtableVersions(this.arena, descriptor));
    const runs = this.runs.map(({ root }) => new RunWalk(this.arena, this.files, this.counters, root));
    for (const memtable of memtables) memtable.seek(position);
    for (const run of runs) run.seek(position);
    const key = new Uint8Array(KEY_BYTES_MAX);
    let visited = 0;
    for (;;) {
      const keyLength = smallestKey(memtables, runs, key);
      if (keyLength < 0) return undefined;
      if (visited >= budget) return key.slice(0, keyLength);
      const versions = this.#versionsOf(memtables, runs, key, keyLength);
      for (const { value, seq, expiresAt, isTombstone } of versions) {
        visit(key, keyLength, value, value.length, seq, expiresAt, isTombstone);
      }
      visited += versions.length;
    }
  }

  /** Of the key, which the sources that have it stand on; they go on to the next one. Oldest first. */
  #versionsOf(
    memtables: readonly MemtableVersions[],
    runs: readonly RunWalk[],
    key: Uint8Array,
    keyLength: number,
  ): FoundVersion[] {
    const found: FoundVersion[] = [];
    const addresses: number[] = [];
    for (const memtable of memtables) {
      if (!memtable.valid || compareKeys(memtable.key, memtable.keyBytes, key, keyLength) !== 0) continue;
      addresses.length = 0;
      memtable.addVersions(addresses);
      for (const address of addresses) {
        memtable.show(address);
        const { seq, expiresAt, isTombstone } = memtable;
        found.push({ seq, expiresAt, isTombstone, value: isTombstone ? NO_VALUE : memtable.copyValue() });
      }
      memtable.next();
    }
    for (const run of runs) {
      const { block } = run;
      while (block.valid && compareKeys(block.key, block.keyLength, key, keyLength) === 0) {
        found.push(this.#fromBlock(run));
        run.next();
      }
    }
    const oldest = found.at(-1)!.seq;
    for (const { seq, low, high } of this.tombstones) {
      if (seq <= oldest || found.some((version) => version.seq === seq)) continue;
      if (low !== undefined && compareKeys(key, keyLength, low, low.length) < 0) continue;
      if (high !== undefined && compareKeys(key, keyLength, high, high.length) >= 0) continue;
      found.push({ seq, expiresAt: 0, isTombstone: true, value: NO_VALUE });
    }
    return found.sort((one, other) => one.seq - other.seq);
  }

  #fromBlock({ block, table }: RunWalk): FoundVersion {
    const { seq, flags, expiresAt, bytes, valueStart, valueLength } = block;
    if ((flags & EntryFlag.tombstone) !== 0) return { seq, expiresAt: 0, isTombstone: true, value: NO_VALUE };
    if ((flags & EntryFlag.blob) === 0) {
      return { seq, expiresAt, isTombstone: false, value: bytes.slice(valueStart, valueStart + valueLength) };
    }
    const reference = referenceAt(bytes, valueStart, valueStart + valueLength, table.path);
    const value = copyBlob(this.files, this.counters, this.tree, reference);
    return { seq, expiresAt, isTombstone: false, value };
  }
}

/** To `into`; returns its length, -1 if all sources are at their end. */
function smallestKey(memtables: readonly MemtableVersions[], runs: readonly RunWalk[], into: Uint8Array): number {
  let length = -1;
  for (const { valid, key, keyBytes } of memtables) {
    if (valid && (length < 0 || compareKeys(key, keyBytes, into, length) < 0)) length = copy(key, keyBytes, into);
  }
  for (const { block } of runs) {
    if (block.valid && (length < 0 || compareKeys(block.key, block.keyLength, into, length) < 0)) {
      length = copy(block.key, block.keyLength, into);
    }
  }
  return length;
}

function copy(key: Uint8Array, length: number, into: Uint8Array): number {
  for (let index = 0; index < length; index++) into[index] = key[index]!;
  return length;
}
