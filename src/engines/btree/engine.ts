/** The B+Tree as an engine of the table in engines/engine.ts. Threads: openWriter the shard's thread, the rest any. */
import { EngineCode, rowTag, type Engine } from '../engine.js';
import { BTreeCursor } from './cursor.js';
import { BTreeReader } from './reader.js';
import { markTree } from './walk.js';
import { BTreeWriter } from './writer.js';

export const btreeEngine: Engine = {
  name: 'btree',
  code: EngineCode.btree,
  isOrdered: true,
  openWriter: (arena, row, spaceId, { order, pageBytes, budgetBytes }) =>
    new BTreeWriter(arena, row, {
      tag: rowTag(spaceId, EngineCode.btree),
      ...(order === undefined ? {} : { order }),
      ...(pageBytes === undefined ? {} : { pageBytes }),
      ...(budgetBytes === undefined ? {} : { budgetBytes }),
    }),
  openReader: (arena, row, spaceId, slot) => new BTreeReader(arena, row, rowTag(spaceId, EngineCode.btree), slot),
  openCursor: (arena, row, spaceId, slot) => new BTreeCursor(arena, row, rowTag(spaceId, EngineCode.btree), slot),
  mark: markTree,
};
