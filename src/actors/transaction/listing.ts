/**
 * What db.transactions() tells: the open transactions of all threads, from the board, and the locks they hold and await, from the shards.
 * Threads: any client.
 */
import { resolveKeyEncoding } from '../../shared/codec/key-encoding.js';
import type { LockDescription, LockHolder } from '../../engines/txn/locks/description.js';
import type { LockModeName } from '../../engines/txn/locks/mode.js';
import type { PoolCore } from '../pool/core.js';
import { ListedState, listedTransactions } from './board.js';
import { isolationName, type IsolationName, type TransactionMode } from './options.js';

export interface LockInfo {
  readonly shard: number;
  /** Name of the space; empty: the pool's own; undefined: it is gone. */
  readonly space: string | undefined;
  readonly mode: LockModeName;
  /** As the space's encoding gives it, bytes if it does not; of a range its bounds, not there where it is open. */
  readonly key?: unknown;
  readonly gte?: unknown;
  readonly lt?: unknown;
}

export interface AwaitedLockInfo extends LockInfo {
  readonly sinceMs: number;
  /** Ids of the transactions that are in its way. */
  readonly waitsFor: readonly number[];
}

export interface TransactionInfo {
  readonly id: number;
  /** Number of the thread: its client slot. */
  readonly client: number;
  /** committing: what it has written was sent. prepared: its thread is gone, or its listing is full, and a shard holds its locks until the outcome is known. */
  readonly state: 'active' | 'committing' | 'prepared';
  readonly isolation: IsolationName | undefined;
  readonly mode: TransactionMode | undefined;
  readonly priority: number;
  readonly ageMs: number | undefined;
  /** Locks it holds, of which `held` names some. */
  readonly heldCount: number;
  readonly held: readonly LockInfo[];
  readonly awaited: readonly AwaitedLockInfo[];
}

/** Named of each transaction in each shard. */
const LOCKS_NAMED_MAX = 100;

function lockInfo(core: PoolCore, shard: number, { space, key, low, high, mode }: LockDescription): LockInfo {
  const record = core.registry.withId(space);
  const decoded = (bytes: Uint8Array): unknown => {
    const own = Buffer.from(bytes);
    if (record === undefined) return own;
    try {
      return resolveKeyEncoding(record.keyEncoding).decode(own, 0, own.length);
    } catch {
      // A bound of a range need not be a key.
      return own;
    }
  };
  return {
    shard,
    space: record?.name,
    mode,
    ...(key === undefined ? {} : { key: decoded(key) }),
    ...(low === undefined ? {} : { gte: decoded(low) }),
    ...(high === undefined ? {} : { lt: decoded(high) }),
  };
}

interface Gathered {
  holder: LockHolder | undefined;
  heldCount: number;
  readonly held: LockInfo[];
  readonly awaited: AwaitedLockInfo[];
}

/** Oldest first. Of this moment, more or less: shards answer one after another. */
export async function listTransactions(core: PoolCore): Promise<TransactionInfo[]> {
  const byShard = await core.gate.lockHolders(LOCKS_NAMED_MAX);
  const nowMs = Date.now();
  const gathered = new Map<number, Gathered>();
  for (const [shard, holders] of byShard.entries()) {
    for (const holder of holders) {
      let found = gathered.get(holder.txn);
      if (found === undefined) {
        found = { holder, heldCount: 0, held: [], awaited: [] };
        gathered.set(holder.txn, found);
      }
      found.heldCount += holder.heldCount;
      for (const held of holder.held) found.held.push(lockInfo(core, shard, held));
      for (const wait of holder.awaited) {
        const sinceMs = Math.max(0, nowMs - wait.sinceMs);
        found.awaited.push({ ...lockInfo(core, shard, wait), sinceMs, waitsFor: [...wait.waitsFor] });
      }
    }
  }
  const infos: TransactionInfo[] = [];
  for (const listed of listedTransactions(core.settings.transactionBoard)) {
    const { heldCount = 0, held = [], awaited = [] } = gathered.get(listed.id) ?? {};
    gathered.delete(listed.id);
    infos.push({
      id: listed.id,
      client: listed.client,
      state: listed.state === ListedState.Committing ? 'committing' : 'active',
      isolation: isolationName(listed.isolation),
      mode: listed.isPessimistic ? 'pessimistic' : 'optimistic',
      priority: listed.priority,
      ageMs: Math.max(0, nowMs - listed.beganAt),
      heldCount,
      held,
      awaited,
    });
  }
  for (const [id, { holder, heldCount, held, awaited }] of gathered) {
    // What has ended meanwhile, or was never listed.
    if (holder?.isPrepared !== true && awaited.length === 0 && heldCount === 0) continue;
    infos.push({
      id,
      client: holder!.client,
      state: holder!.isPrepared ? 'prepared' : 'active',
      isolation: undefined,
      mode: undefined,
      priority: holder!.priority,
      ageMs: undefined,
      heldCount,
      held,
      awaited,
    });
  }
  return infos.sort((a, b) => a.id - b.id);
}
