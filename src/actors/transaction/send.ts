/**
 * What a transaction tells the shards when it commits: which have part in it, and the bodies of their requests.
 *
 *   nothing written                     nothing is sent; pessimistic ones release their locks
 *   one shard                           one request to it, and that is all
 *   writes in one shard or in several, reads elsewhere, too          see commit.ts
 *
 * Sent as reads, for the shard to look whether they still hold: at serializable all keys that were read, at repeatable-read all that are written (the first
 * committer wins), at every isolation guarded ones. So the body of a repeatable-read transaction is that of a serializable one that has read less.
 * Threads: the one that owns the client.
 */
import { Isolation, TransactionBodyWriter } from '../../engines/txn/body.js';
import type { Caller } from '../client/caller.js';
import { CommitRun, type CommitPart } from './commit.js';
import type { TransactionCore } from './core.js';
import { tooLarge } from './transaction.js';
import { NOT_READ, type KeyEntry } from './working-set.js';

/** Kept for later transactions. */
const WRITERS_KEPT = 64;
const spare: TransactionBodyWriter[] = [];

function isSentAsRead(core: TransactionCore, entry: KeyEntry): boolean {
  if (entry.seen === NOT_READ) return false;
  if (entry.isGuarded || core.isolation === Isolation.Serializable) return true;
  return core.isolation === Isolation.RepeatableRead && entry.write !== undefined;
}

/** Whether a shard has to hear of the commit. @throws ERR_CONFLICT: locks were lost */
export function mustSend(core: TransactionCore): boolean {
  return core.set.writes > 0 || (core.hasLocks && mustConfirm(core));
}

/** If mustSend(): the caller hears what becomes of it. With several shards the core has a commitRun then. @throws ERR_TRANSACTION_TOO_LARGE, ERR_CLOSED, ERR_SHARD_FAILED */
export function sendCommit(core: TransactionCore, caller: Caller): void {
  const { set, manager } = core;
  const { locks } = core.hasLocks ? core : { locks: undefined };
  const { shards } = core.control;
  let writersLow = 0;
  let writersHigh = 0;
  let low = 0;
  let high = 0;
  let isGuarded = false;
  for (let index = 0; index < set.count; index++) {
    const entry = set.entries[index]!;
    const { shard } = entry;
    const bit = 1 << (shard & 31);
    if (entry.write !== undefined) {
      core.noteBlindAtSnapshot(entry);
      if (shard < 32) writersLow |= bit;
      else writersHigh |= bit;
    } else if (!isSentAsRead(core, entry)) continue;
    if (shard < 32) low |= bit;
    else high |= bit;
    isGuarded ||= entry.isGuarded;
  }
  const hasRanges = core.ranges?.some(({ isEmpty }) => !isEmpty) === true;
  if (hasRanges || locks?.hasRanges === true) {
    low |= shards >= 32 ? -1 : (1 << shards) - 1;
    if (shards > 32) high |= shards === 64 ? -1 : (1 << (shards - 32)) - 1;
  }
  const level = core.settings.level ?? manager.pool.level;
  const isOne = (high === 0 && isSingle(low)) || (low === 0 && isSingle(high));
  if (isOne && set.writes > 0) {
    const shard = low === 0 ? 63 - Math.clz32(high) : 31 - Math.clz32(low);
    const writer = spare.pop() ?? new TransactionBodyWriter();
    try {
      build(core, writer, shard, writersLow, writersHigh, isGuarded, hasRanges, 0);
      if (!core.isPessimistic) writer.waitAs(core.settings.priority, core.age, waitMsOf(core));
      manager.port.commitOne(shard, writer, level, caller);
      core.committer = shard;
    } finally {
      // The port has copied it.
      keep(writer);
    }
    return;
  }
  const { restarts } = core.control;
  const parts: CommitPart<TransactionBodyWriter>[] = [];
  for (let shard = 0; shard < shards; shard++) {
    const bit = 1 << (shard & 31);
    if (((shard < 32 ? low : high) & bit) === 0) continue;
    const writer = spare.pop() ?? new TransactionBodyWriter();
    const writes = ((shard < 32 ? writersLow : writersHigh) & bit) !== 0;
    build(core, writer, shard, writersLow, writersHigh, isGuarded, hasRanges, writes ? 1 + restarts : 0);
    parts.push({ shard, body: writer, writes });
  }
  const hasReaders = parts.some(({ writes }) => !writes);
  const askedMs = performance.now();
  const run = new CommitRun(
    manager.port,
    core.id,
    parts,
    level,
    hasReaders ? 1 + restarts : 0,
    // Asked when all have voted.
    () => {
      manager.votesTook(performance.now() - askedMs);
      return !hasReaders || core.control.restarts === restarts;
    },
  );
  core.commitRun = run;
  run.run(caller);
  // That of a single writer goes out when the others have voted; otherwise the port has copied all: the next transaction has them.
  if (!run.needsBodies) keepBodies(run);
}

/** Nobody needs them any more. */
export function keepBodies({ parts }: CommitRun<TransactionBodyWriter>): void {
  for (const { body } of parts) keep(body);
}

/**
 * A transaction that has only read, under locks, has nothing to apply; but are these locks still there? One that was wounded hears of it with its next step,
 * and one whose shard was replaced does not hear at all.
 */
function mustConfirm(core: TransactionCore): boolean {
  core.locks.assertHeld();
  return core.manager.defaults.deadlock === 'wound-wait';
}

/** How long it waits for locks in its shard: as one lock may take, and no longer than the transaction. */
function waitMsOf({ settings, deadlineMs }: TransactionCore): number {
  return Math.max(1, Math.ceil(Math.min(settings.lockTimeoutMs, deadlineMs - performance.now())));
}

function isSingle(mask: number): boolean {
  return mask !== 0 && (mask & (mask - 1)) === 0;
}

function keep(writer: TransactionBodyWriter): void {
  if (spare.length >= WRITERS_KEPT) return;
  writer.reset();
  spare.push(writer);
}

function build(
  core: TransactionCore,
  writer: TransactionBodyWriter,
  shard: number,
  writersLow: number,
  writersHigh: number,
  isGuarded: boolean,
  hasRanges: boolean,
  voteEpoch: number,
): void {
  const { set } = core;
  const isBlind = core.isolation === Isolation.ReadCommitted && !isGuarded && !hasRanges;
  const isolation = isBlind ? Isolation.ReadCommitted : Isolation.Serializable;
  const snapshot = hasRanges ? core.snapshotAt : 0;
  const lockEpoch = core.hasLocks ? core.locks.epochOf(shard) : 0;
  const epoch = core.isPessimistic ? lockEpoch : voteEpoch;
  const readMs = core.readMs === 0 ? Date.now() : core.readMs;
  writer.begin(isolation, core.isPessimistic, core.id, snapshot, readMs, writersLow, writersHigh, epoch);
  const { entries, count } = set;
  if (set.reads > 0) {
    for (let index = 0; index < count; index++) {
      const entry = entries[index]!;
      if (entry.shard !== shard || !isSentAsRead(core, entry)) continue;
      writer.addRead(entry.spaceId, entry.key, entry.keyLength, entry.seen);
    }
  }
  if (hasRanges) {
    for (const { source, low, high, isEmpty } of core.ranges!) {
      if (!isEmpty) writer.addRange(source.spaceId, low, high);
    }
  }
  if (set.writes > 0) {
    for (let index = 0; index < count; index++) {
      const entry = entries[index]!;
      const { write } = entry;
      if (write === undefined || entry.shard !== shard) continue;
      if (write.isPut) {
        writer.addPut(entry.spaceId, entry.key, entry.keyLength, write.value, write.length, write.expiresAt);
      } else writer.addDel(entry.spaceId, entry.key, entry.keyLength);
    }
  }
  const { bytesMax } = core.manager.defaults;
  if (writer.size > bytesMax) throw tooLarge(bytesMax);
  writer.seal();
}
