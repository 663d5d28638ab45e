/**
 * The hash table as an engine of the table in engines/engine.ts: fastest by single keys, no order of its own (see cursor.ts for walks).
 * Threads: openWriter the shard's thread, the rest any.
 */
import { EngineCode, type Engine } from '../engine.js';
import { markNodeEngine } from '../cells/mark.js';
import { HashCursor } from './cursor.js';
import { HashReader } from './reader.js';
import { HashWriter } from './writer.js';

export const hashEngine: Engine = {
  name: 'hash',
  code: EngineCode.hash,
  isOrdered: false,
  openWriter: (arena, row, spaceId) => new HashWriter(arena, row, spaceId),
  openReader: (arena, row, spaceId, slot) => new HashReader(arena, row, spaceId, slot),
  openCursor: (arena, row, spaceId, slot) => new HashCursor(arena, row, spaceId, slot),
  mark: (arena, metaUnit, row, mark) => {
    markNodeEngine(arena, metaUnit, row, EngineCode.hash, mark);
  },
};
