/**
 * A fault for the checker to find: in a pool that gets this file as one of engineModules a shard's thread dies where it is about to apply what was decided,
 * once, and its successor finds nothing in the log of what had been prepared.
 */
import { isMainThread, workerData } from 'node:worker_threads';
import { PreparedTransactions } from '../../../../dist/engines/store/prepared.js';

const DIES_AT = 20;

if (!isMainThread && workerData?.adopt === false) {
  const { resolve } = PreparedTransactions.prototype;
  let commits = 0;
  PreparedTransactions.prototype.resolve = function (id, number) {
    if (number !== 0 && ++commits === DIES_AT) process.exit(1);
    resolve.call(this, id, number);
  };
}
if (!isMainThread && workerData?.adopt === true) PreparedTransactions.prototype.replayPrepare = () => undefined;
