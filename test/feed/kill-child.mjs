/**
 * One life of a store that is killed: writes, and sends its parent each change of the feed with its token. argv: directory, seed, token or 'beginning', and
 * 'last' for the life that writes nothing but marks on all shards, and ends by itself when these have come out of the feed, with what the store holds.
 */
import { ConcordPool } from '../../dist/index.js';
import { entriesOf, runLoad } from './load.mjs';

const [directory, seed, since, last] = process.argv.slice(2);
const db = await ConcordPool.open(directory, {
  shards: 3,
  memoryBytes: 32 << 20,
  segmentBytes: 1 << 20,
  checkpointLogBytes: 1 << 30,
  expiry: { intervalMs: 20 },
});
const feed = db.watch({ since, space: '*' });
/** Enough that every shard has some. */
const marks = new Set(Array.from({ length: 64 }, (_, index) => `mark${index}`));
let onLastMark;
const allMarks = new Promise((resolve) => (onLastMark = resolve));
const follow = async () => {
  for await (const change of feed) {
    const { type, key, value, space, shard, version, transaction, token, expiresAt, low, high } = change;
    if (marks.delete(key) && marks.size === 0) onLastMark();
    process.send({
      type,
      key,
      value,
      space,
      shard,
      version,
      transaction,
      token,
      expiresAt,
      low: low?.toString('latin1'),
      high: high?.toString('latin1'),
    });
  }
};
const following = follow();
if (last === undefined) {
  await runLoad(db, { seed: Number(seed), callers: 8, isOver: () => false });
} else {
  await Promise.all(Array.from(marks, (mark) => db.put(mark, '')));
  await allMarks;
  await feed.close();
  await following;
  process.send({ entries: [...(await entriesOf(db))] }, () => process.disconnect());
  await db.close();
}
