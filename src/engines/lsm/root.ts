/**
 * What a checkpoint says of a space in an LSM-Tree: not its entries, but which tree has them. The tree's own manifest is the truth about its files.
 *
 *   offset  size  field      chunk of a checkpoint, 24 bytes
 *        0     4  magic      "CKVL"
 *        4     4  spaceId    u32
 *        8     4  tree       u32: the directory is lsm-<tree>; 0: there is none yet, all of the space is in the log
 *       12     4  zero
 *       16     8  storedSeq  u48, two zero bytes: what the manifest says at least. A manifest that says less is an older one
 *
 * Golden bytes: test/golden/lsm-root.txt. Threads: any; pure functions.
 */
import { readU32LE, readU48LE, writeU32LE, writeU48LE } from '../../shared/codec/fixed.js';
import { ConcordError } from '../../shared/errors.js';

export interface LsmRoot {
  readonly spaceId: number;
  readonly tree: number;
  readonly storedSeq: number;
}

const LSM_ROOT_BYTES = 24;
const MAGIC = 0x4c564b43; // "CKVL"

export function lsmRootChunk(root: LsmRoot): Uint8Array {
  const bytes = new Uint8Array(LSM_ROOT_BYTES);
  writeU32LE(bytes, 0, MAGIC);
  writeU32LE(bytes, 4, root.spaceId);
  writeU32LE(bytes, 8, root.tree);
  writeU48LE(bytes, 16, root.storedSeq);
  return bytes;
}

export function isLsmRootChunk(chunk: Uint8Array): boolean {
  return chunk.length >= 4 && readU32LE(chunk, 0) === MAGIC;
}

/** @throws ERR_CORRUPT */
export function decodeLsmRoot(chunk: Uint8Array): LsmRoot {
  if (chunk.length !== LSM_ROOT_BYTES || !isLsmRootChunk(chunk)) throw corruptRoot(`${chunk.length} bytes`);
  const tree = readU32LE(chunk, 8);
  const storedSeq = readU48LE(chunk, 16);
  if ((tree === 0 && storedSeq !== 0) || readU32LE(chunk, 12) !== 0 || chunk[22] !== 0 || chunk[23] !== 0) {
    throw corruptRoot(`tree ${tree}, or bytes that must be zero`);
  }
  return { spaceId: readU32LE(chunk, 4), tree, storedSeq };
}

function corruptRoot(what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `root of an LSM-Tree in a checkpoint: ${what}`);
}
