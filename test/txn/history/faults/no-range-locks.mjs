/** A fault for the checker to find: the shard threads of a pool that gets this file as one of engineModules grant every range at once, and lock none. */
import { isMainThread } from 'node:worker_threads';
import { LockTable } from '../../../../dist/engines/txn/locks/lock-table.js';

if (!isMainThread) LockTable.prototype.acquireRange = () => undefined;
