/**
 * Loading a checkpoint into an empty arena: the image of its pages, then the entries of spaces that were not written as pages, and among them the roots of
 * those whose pages are in files of their own.
 *
 * Must hold: only the end of the file proves that nothing of it is missing; until then nothing of it counts. Nobody reads the arena meanwhile.
 * Threads: the shard's thread, before it serves anybody.
 */
import type { ArenaWriter } from '../../shared/memory/arena.js';
import { loadImage } from '../btree/image.js';
import { publishTrees } from '../btree/meta.js';
import { OverflowWriter } from '../btree/overflow.js';
import { isRootChunk, loadPagedRoot, pagingOf } from '../btree/paged/paging.js';
import { EntriesReader, type EntriesSink } from '../checkpoint/entries.js';
import type { CheckpointReader } from '../checkpoint/reader.js';
import { EngineCode } from '../engine.js';
import { isLsmRootChunk, lsmSiteOf } from '../lsm/attach.js';
import type { ShardStoreOptions } from './options.js';
import type { SpaceDefinition } from './space.js';
import { SpaceTable } from './space-table.js';

/** @throws ERR_CORRUPT, ERR_MEMORY_FULL, ERR_IO */
export function loadCheckpoint(
  arena: ArenaWriter,
  reader: CheckpointReader,
  definitions: readonly SpaceDefinition[],
  options: ShardStoreOptions,
): SpaceTable {
  const { publishedSeq } = reader.header;
  loadImage(arena, () => reader.nextChunk());
  const spaces = new SpaceTable(arena, definitions);
  loadEntries(arena, spaces, options, () => nextEntries(arena, spaces, reader));
  publishTrees(arena, publishedSeq);
  for (const { engine } of spaces.all) engine.endGroup();
  // No log has what a copy of the store brought as entries.
  if (!options.readOnly && spaces.relieve(options.env.now(), true)) publishTrees(arena, publishedSeq);
  return spaces;
}

/** The next chunk that holds entries; roots of page files among them are taken on the way. */
function nextEntries(arena: ArenaWriter, spaces: SpaceTable, reader: CheckpointReader): Uint8Array | undefined {
  for (;;) {
    const chunk = reader.nextChunk();
    if (chunk === undefined) return chunk;
    if (isRootChunk(chunk)) loadPagedRoot(arena, chunk);
    else if (isLsmRootChunk(chunk)) {
      lsmSiteOf(arena)?.loadRoot(chunk, (spaceId) => {
        spaces.returnTo(spaceId, EngineCode.lsm);
      });
    } else return chunk;
  }
}

/** Fills the spaces of a checkpoint that were not written as pages. Those that are not defined any more are passed over. */
function loadEntries(
  arena: ArenaWriter,
  spaces: SpaceTable,
  { env, readOnly }: ShardStoreOptions,
  nextChunk: () => Uint8Array | undefined,
): void {
  const overflow = new OverflowWriter(arena);
  let value: { spaceId: number; key: Uint8Array; seq: number; expiresAt: number } | undefined;
  const sink: EntriesSink = {
    entry: (spaceId, chunk, keyAt, keyLength, valueAt, valueLength, seq, expiresAt) => {
      const engine = spaces.get(spaceId)?.engine;
      engine?.background?.noteLsn(0);
      // The index of what expires is in the image.
      engine?.put(chunk, keyAt, keyLength, chunk, valueAt, valueLength, seq, expiresAt);
    },
    begin: (spaceId, key, valueLength, seq, expiresAt) => {
      value = { spaceId, key, seq, expiresAt };
      overflow.begin(valueLength);
    },
    piece: (chunk, at, length) => {
      overflow.append(chunk, at, length);
    },
    end: () => {
      const { spaceId, key, seq, expiresAt } = value!;
      const chain = overflow.finish();
      const engine = spaces.get(spaceId)?.engine;
      engine?.background?.noteLsn(0);
      if (engine === undefined) OverflowWriter.discard(arena, chain);
      else engine.putOverflow(key, 0, key.length, chain, seq, expiresAt);
    },
  };
  const begin = (): void => {
    for (const { engine } of spaces.all) engine.beginGroup(0, false);
  };
  const end = (): void => {
    for (const { engine } of spaces.all) engine.endGroup();
  };
  begin();
  const before = arena.reserveMode;
  arena.reserveMode = true;
  try {
    const reader = new EntriesReader(sink);
    for (let chunk = nextChunk(); chunk !== undefined; chunk = nextChunk()) {
      reader.chunk(chunk);
      if (arena.freeUnits() > arena.totalUnits >>> 1) continue;
      if (pagingOf(arena)?.trees.size === 0 && !spaces.hasBackgrounds) continue;
      // Nobody reads yet; what may go to a file goes there.
      publishTrees(arena, 0);
      end();
      if (readOnly !== true && spaces.relieve(env.now(), true)) publishTrees(arena, 0);
      arena.reclaim();
      begin();
    }
    reader.finish();
  } finally {
    arena.reserveMode = before;
  }
}
