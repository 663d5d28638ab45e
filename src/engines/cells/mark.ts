/** Engine.mark of engines with nodes. Threads: whoever adopts the arena. */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../shared/memory/arena.js';
import { rowWord } from '../btree/meta.js';
import { markNodePages } from './node.js';

/**
 * Reports every page of the engine in the row. Of older publications nothing: what they lead to is changed in place, so the same pages are the
 * published one's, or nobody's any more. Readers of those pin like all readers, and adoption waits for them.
 */
export function markNodeEngine(
  arena: ArenaReader,
  metaUnit: UnitId,
  row: number,
  code: number,
  mark: (unit: UnitId, units: number) => void,
): void {
  if (metaUnit !== arena.published()) return;
  const word = rowWord(arena, metaUnit, row);
  if (word >= 0) markNodePages(arena, arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]![word]!, code, mark);
}
