/**
 * What the leaves of a tree in memory hold: live entries and tombstones. For a writer that takes a tree over: rows do not count tombstones, and a writer
 * that died may have changed published leaves after its last publication (BTreeWriter.overwritesInPlace).
 * Threads: the tree's writer. The tree is sound.
 */
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import {
  COUNT_HALFWORD,
  CellFlag,
  KEY_BYTES_MAX,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  cellLengthsAt,
  copyBytes,
  headsOffset,
  readVarint,
  skipVarint,
} from './page.js';
import { walkTree } from './walk.js';

export interface LiveCounts {
  liveEntries: number;
  liveKeyBytes: number;
  liveValueBytes: number;
  /** All that stand in leaves, whatever they hide. */
  tombstones: number;
  tombstoneKeyBytes: number;
}

/** `note` is told of each leaf how many tombstones stand in it. */
export function countLive(
  arena: ArenaReader,
  tree: { readonly rootUnit: UnitId; readonly height: number },
  note: (leaf: UnitId, tombstones: number) => void,
): LiveCounts {
  const counts = { liveEntries: 0, liveKeyBytes: 0, liveValueBytes: 0, tombstones: 0, tombstoneKeyBytes: 0 };
  // The versions of a key may go on in the next leaf: only the first of them counts.
  let lastKey = new Uint8Array(KEY_BYTES_MAX);
  let key = new Uint8Array(KEY_BYTES_MAX);
  let lastLength = -1;
  const countLeaf = (unit: UnitId): void => {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u8 = arena.u8[segment]!;
    const u16 = arena.u16[segment]!;
    const count = u16[(base >>> 1) + COUNT_HALFWORD]!;
    const prefixLength = u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    const offsets = ((base + headsOffset(prefixLength)) >>> 1) + 2 * count;
    let tombstones = 0;
    for (let index = 0; index < count; index++) {
      const cell = base + u16[offsets + index]!;
      const lengthsAt = cellLengthsAt(u8, cell);
      const suffixLengthAt = skipVarint(u8, lengthsAt);
      const suffixLength = readVarint(u8, suffixLengthAt);
      const keyLength = prefixLength + suffixLength;
      copyBytes(u8, base + PAGE_HEADER_BYTES, prefixLength, key, 0);
      copyBytes(u8, skipVarint(u8, suffixLengthAt), suffixLength, key, prefixLength);
      if ((u8[cell]! & CellFlag.Tombstone) !== 0) {
        tombstones++;
        counts.tombstoneKeyBytes += keyLength;
      } else if (!isSame(key, keyLength, lastKey, lastLength)) {
        counts.liveEntries++;
        counts.liveKeyBytes += keyLength;
        counts.liveValueBytes += readVarint(u8, lengthsAt);
      }
      [key, lastKey] = [lastKey, key];
      lastLength = keyLength;
    }
    counts.tombstones += tombstones;
    note(unit, tombstones);
  };
  walkTree(arena, tree.rootUnit, tree.height, false, {
    chain: () => undefined,
    page: (unit, level) => {
      if (level === 0) countLeaf(unit);
    },
  });
  return counts;
}

function isSame(a: Uint8Array, aLength: number, b: Uint8Array, bLength: number): boolean {
  if (aLength !== bLength) return false;
  for (let index = aLength - 1; index >= 0; index--) if (a[index] !== b[index]) return false;
  return true;
}
