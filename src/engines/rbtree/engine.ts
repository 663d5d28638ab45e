/**
 * The engine `rbtree`: a red–black tree of nodes in shared memory, read under a reader–writer latch.
 *
 * For ordered spaces of up to some million entries that are written entry by entry: 12 bytes of links and about 10 of header per entry, no page to copy
 * for a change. Its readers wait for its writer for up to 32 changes, and for no one else.
 */
import { markNodeEngine } from '../cells/mark.js';
import { EngineCode, type Engine } from '../engine.js';
import { RbTreeCursor, RbTreeReader } from './reader.js';
import { RbTreeWriter } from './writer.js';

export const rbtreeEngine: Engine = {
  name: 'rbtree',
  code: EngineCode.rbtree,
  isOrdered: true,
  openWriter: (arena, row, spaceId) => new RbTreeWriter(arena, row, spaceId),
  openReader: (arena, row, spaceId, slot) => new RbTreeReader(arena, row, spaceId, slot),
  openCursor: (arena, row, spaceId, slot) => new RbTreeCursor(arena, row, spaceId, slot),
  mark: (arena, metaUnit, row, mark) => {
    markNodeEngine(arena, metaUnit, row, EngineCode.rbtree, mark);
  },
};
