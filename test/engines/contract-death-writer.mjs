/**
 * A writer that is killed at any moment: applies groups that follow from a seed alone, so that what was published tells what must be there. Group g of
 * the seed always is the same operations and takes the same numbers. workerData: { layout, name, seed, fromGroup, fromSeq, progress }.
 */
import { workerData } from 'node:worker_threads';
import '../../dist/engines/built-in.js';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import { engineNamed } from '../../dist/engines/engine.js';
import { markRows } from '../../dist/engines/store/space-table.js';
import { ArenaWriter } from '../../dist/shared/memory/arena.js';
import { groupOf } from './contract-death-groups.mjs';

const { layout, name, seed, fromGroup, fromSeq, progress } = workerData;
const arena = ArenaWriter.adopt(layout, markRows);
const writer = engineNamed(name).openWriter(arena, 0, 0, {});
const words = new Int32Array(progress);
let seq = fromSeq;
const none = new Float64Array(0);
for (let group = fromGroup; ; group++) {
  writer.setSnapshots(none, 0);
  writer.beginGroup(seq, true);
  for (const { kind, key, value, expiresAt } of groupOf(seed, group)) {
    seq++;
    if (kind === 'put') writer.put(key, 0, key.length, value, 0, value.length, seq, expiresAt);
    else writer.del(key, 0, key.length, seq);
  }
  publishTrees(arena, seq);
  writer.endGroup();
  Atomics.store(words, 0, group + 1);
  Atomics.notify(words, 0);
}
