/** A fault for the checker to find: the shard threads of a pool that gets this file as one of engineModules see no range in what transactions ask for. */
import { isMainThread } from 'node:worker_threads';
import { TransactionBody } from '../../../../dist/engines/txn/body.js';

if (!isMainThread) TransactionBody.prototype.nextRange = () => false;
