/**
 * One life of a store that is killed: writes, and sends its parent each change of the feed with its token. argv: directory, seed, token or 'beginning', and
 * 'last' for the life that writes nothing and ends by itself, with what the store holds.
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
let told = 0;
const follow = async () => {
  for await (const change of feed) {
    const { type, key, value, space, shard, version, transaction, token, expiresAt, low, high } = change;
    told++;
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
  for (let before = -1; before !== told;) {
    before = told;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  await feed.close();
  await following;
  process.send({ entries: [...(await entriesOf(db))] }, () => process.disconnect());
  await db.close();
}
