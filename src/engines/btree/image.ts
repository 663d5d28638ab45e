/** Images of pinned trees: signatures. */
import type { ArenaReader, ArenaWriter, UnitId } from '../../shared/memory/arena.js';

/** Any thread, while the meta unit is pinned. The chunk's memory is reused after emit returns. */
export declare function writeImage(arena: ArenaReader, metaUnit: UnitId, emit: (chunk: Uint8Array) => void): void;
/** Into an empty arena; publishes the result. Construct BTreeWriters afterwards. */
export declare function loadImage(arena: ArenaWriter, nextChunk: () => Uint8Array | undefined): void;
