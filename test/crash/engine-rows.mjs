/**
 * Which engines hold which spaces in the shards of an open pool, as its memory says: more than the manifest's word. Threads: one that uses the pool.
 */
import { treeCount, treeCounts } from '../../dist/engines/btree/meta.js';
import {
  BUILDING_SPACE_ID,
  EXPIRY_SPACE_ID,
  FREE_TAG,
  engineCodeOfTag,
  engineNamed,
  engineOfCode,
  spaceIdOfTag,
} from '../../dist/engines/engine.js';

/** Per shard: [space id, engine] of each row that holds a space, or is being filled for one. */
export function engineRows(db) {
  const slot = db.client.client;
  return db.client.shards.map(({ arena }) => {
    const metaUnit = arena.pin(slot);
    try {
      const rows = [];
      for (let row = 0; row < treeCount(arena, metaUnit); row++) {
        const { tag } = treeCounts(arena, metaUnit, row);
        if (tag === FREE_TAG || spaceIdOfTag(tag) === EXPIRY_SPACE_ID) continue;
        rows.push([spaceIdOfTag(tag), engineOfCode(engineCodeOfTag(tag)).name]);
      }
      return rows;
    } finally {
      arena.unpin(slot);
    }
  });
}

/** What is not as the manifest has it: every space once in each shard, in its engine, nothing else, nothing half filled. For a pool at rest. */
export function strayRows(db) {
  const wanted = new Map(db.host.manifest.spaces.map(({ id, engine }) => [id, engineNamed(engine).name]));
  const problems = [];
  for (const [shard, rows] of engineRows(db).entries()) {
    const seen = new Set();
    for (const [id, engine] of rows) {
      const text = `shard ${shard}: space ${id === BUILDING_SPACE_ID ? 'half moved' : id} in ${engine}`;
      if (!wanted.has(id)) problems.push(`${text}, which the manifest does not know`);
      else if (seen.has(id)) problems.push(`${text} a second time`);
      else if (wanted.get(id) !== engine) problems.push(`${text}, the manifest says ${wanted.get(id)}`);
      seen.add(id);
    }
    for (const id of wanted.keys()) if (!seen.has(id)) problems.push(`shard ${shard}: space ${id} has no row`);
  }
  return problems;
}
