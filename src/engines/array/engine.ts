/**
 * The engine `array`: sorted addresses of nodes in shared memory, searched by halving, read under a reader–writer latch.
 *
 * For spaces whose memory counts, and small ones: 4 to 8 bytes of array and about 14 of header per entry. An insert moves half a block of addresses at
 * most, some hundred words, whatever the size of the space. Its readers wait for its writer for up to 32 changes, and for no one else.
 */
import { markNodeEngine } from '../cells/mark.js';
import { EngineCode, type Engine } from '../engine.js';
import { ArrayCursor, ArrayReader } from './reader.js';
import { ArrayWriter } from './writer.js';

export const arrayEngine: Engine = {
  name: 'array',
  code: EngineCode.array,
  isOrdered: true,
  openWriter: (arena, row, spaceId) => new ArrayWriter(arena, row, spaceId),
  openReader: (arena, row, spaceId, slot) => new ArrayReader(arena, row, spaceId, slot),
  openCursor: (arena, row, spaceId, slot) => new ArrayCursor(arena, row, spaceId, slot),
  mark: (arena, metaUnit, row, mark) => {
    markNodeEngine(arena, metaUnit, row, EngineCode.array, mark);
  },
};
