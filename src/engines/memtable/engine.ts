/** The memtable as an engine of the table in engines/engine.ts. Threads: openWriter the shard's thread, the rest any. */
import { markNodeEngine } from '../cells/mark.js';
import { EngineCode, type Engine } from '../engine.js';
import { MemtableCursor, MemtableReader } from './reader.js';
import { MemtableWriter } from './writer.js';

export const memtableEngine: Engine = {
  name: 'memtable',
  code: EngineCode.memtable,
  isOrdered: true,
  openWriter: (arena, row, spaceId, { memtableBytes }) => new MemtableWriter(arena, row, spaceId, { memtableBytes }),
  openReader: (arena, row, spaceId, slot) => new MemtableReader(arena, row, spaceId, slot),
  openCursor: (arena, row, spaceId, slot) => new MemtableCursor(arena, row, spaceId, slot),
  mark: (arena, metaUnit, row, mark) => {
    markNodeEngine(arena, metaUnit, row, EngineCode.memtable, mark);
  },
};
