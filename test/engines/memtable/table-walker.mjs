/** Walks a frozen table in a thread of its own and tells every version it met, and what point reads by the descriptor say. */
import { parentPort, workerData } from 'node:worker_threads';
import { ArenaReader } from '../../../dist/shared/memory/arena.js';
import { TableReader } from '../../../dist/engines/memtable/reader.js';
import { TableWalk } from '../../../dist/engines/memtable/walk.js';

const { layout, descriptor, slot, keys, atSeq } = workerData;
const arena = new ArenaReader(layout);
const metaUnit = arena.pin(slot);
const versions = [];
for (const walk = new TableWalk(arena, descriptor); walk.next();) {
  const key = Buffer.alloc(walk.keyLength);
  walk.copyKey(key, 0);
  const shown = walk.isTombstone ? 'deleted' : walk.copyValue().toString();
  versions.push(`${key.toString()} ${walk.seq} ${walk.expiresAt} ${shown}`);
}
const reader = new TableReader(arena, slot).open(descriptor);
const found = keys.map((text) => {
  const key = Buffer.from(text);
  if (!reader.find(metaUnit, key, key.length, atSeq, 0)) return 'absent';
  return `${reader.seq} ${reader.isTombstone ? 'deleted' : reader.copyValue().toString()}`;
});
reader.release();
arena.unpin(slot);
parentPort.postMessage({ versions, found });
