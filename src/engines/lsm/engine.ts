/** The LSM-Tree as an engine of the table in engines/engine.ts. Threads: openWriter the shard's thread, the rest any. */
import { SEGMENT_UNIT_SHIFT } from '../../shared/memory/arena.js';
import { rowWord } from '../btree/meta.js';
import { markNodePages } from '../cells/node.js';
import { EngineCode, type Engine } from '../engine.js';
import { markState, readState } from './memory/state-page.js';
import { LsmCursor } from './read/cursor.js';
import { LsmReader } from './read/reader.js';
import { LsmWriter } from './writer.js';

export const lsmEngine: Engine = {
  name: 'lsm',
  code: EngineCode.lsm,
  isOrdered: true,
  countsExactly: false,
  expiresByItself: true,
  removesRangeAtOnce: true,
  openWriter: (arena, row, spaceId, tuning) => new LsmWriter(arena, row, spaceId, tuning),
  openReader: (arena, row, spaceId, slot) => new LsmReader(arena, row, spaceId, slot),
  openCursor: (arena, row, spaceId, slot) => new LsmCursor(arena, row, spaceId, slot),
  mark: (arena, metaUnit, row, mark) => {
    // Nothing of older publications: memtables are changed in place, and long pins do not hold the rest (memory/page.ts).
    if (metaUnit !== arena.published()) return;
    const word = rowWord(arena, metaUnit, row);
    const state = word < 0 ? 0 : arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]![word]!;
    if (state === 0) return;
    markState(arena, state, mark);
    for (const descriptor of readState(arena, state).memtables) {
      markNodePages(arena, descriptor, EngineCode.memtable, mark);
    }
  },
};
