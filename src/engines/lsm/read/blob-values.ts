/**
 * Values that stand in blob files, for one thread's readers: from the reference in a table to bytes.
 *
 * Threads: any, one per reader or cursor, under a pin of a version whose tables refer to the file.
 */
import { ConcordError } from '../../../shared/errors.js';
import type { BlobReference } from '../types.js';
import type { BlobReader } from '../blob/blob-reader.js';
import { decodeBlobReference } from '../blob/format.js';
import { ColdReadError } from './cold.js';
import type { LsmFiles, LsmReadCounters } from './files.js';

/** Of a value: what one Buffer holds on every platform that Node runs on. */
const VALUE_BYTES_MAX = 2 ** 31 - 1;
/** No compression in use makes more of a record: what claims more is damage, and no memory is taken for it. */
const EXPANSION_MAX = 2 ** 17;
/** Values above it are asked about first. */
const ASKED_BYTES_MIN = 1 << 20;
const NO_BYTES = new Uint8Array(0);

/** @throws ERR_CORRUPT if these bytes are no reference, or one to a value that cannot be */
export function referenceAt(bytes: Uint8Array, at: number, end: number, table: string): BlobReference {
  const reference = decodeBlobReference(bytes, at, end);
  if (
    reference === undefined ||
    reference.valueBytes > VALUE_BYTES_MAX ||
    reference.valueBytes > reference.recordBytes * EXPANSION_MAX
  ) {
    throw new ConcordError('ERR_CORRUPT', `${table}: an entry refers to no possible value in a blob file`, {
      file: table,
    });
  }
  return reference;
}

/** The value's bytes [from, from + length) to into[at …); how many there were. @throws ERR_CORRUPT, ERR_IO */
export function readBlob(
  files: LsmFiles,
  counters: LsmReadCounters,
  tree: number,
  reference: BlobReference,
  into: Uint8Array,
  at: number,
  from: number,
  length: number,
): number {
  const wanted = Math.min(length, reference.valueBytes - from);
  if (wanted <= 0) return 0;
  const loaded = files.loaded(keyOf(tree, reference));
  if (loaded !== undefined) {
    into.set(loaded.subarray(from, from + wanted), at);
    return wanted;
  }
  counters.blobReads++;
  return files.blob(tree, reference.file).reader.read(reference, into, at, from, wanted);
}

/** @throws ERR_CORRUPT, ERR_IO */
export function copyBlob(files: LsmFiles, counters: LsmReadCounters, tree: number, reference: BlobReference): Buffer {
  const loaded = files.loaded(keyOf(tree, reference));
  if (loaded !== undefined) return Buffer.from(loaded);
  counters.blobReads++;
  return wholeValue(files.blob(tree, reference.file).reader, reference);
}

function wholeValue(reader: BlobReader, reference: BlobReference): Buffer {
  // Before much memory is taken for it, the record must say the same.
  if (reference.valueBytes > ASKED_BYTES_MIN) reader.read(reference, NO_BYTES, 0, 0, 0);
  const value = Buffer.allocUnsafe(reference.valueBytes);
  reader.read(reference, value, 0, 0, value.length);
  return value;
}

/** Throws ColdReadError unless the value was loaded already. */
export function mustBeLoaded(files: LsmFiles, counters: LsmReadCounters, tree: number, reference: BlobReference): void {
  const key = keyOf(tree, reference);
  if (reference.valueBytes === 0 || files.loaded(key) !== undefined) return;
  const file = files.blob(tree, reference.file);
  counters.coldReads++;
  throw ColdReadError.of(() =>
    files.load(key, async () => {
      if (file.isDropped) return undefined;
      files.hold(file);
      try {
        counters.blobReads++;
        await files.warm(file.reader.path, reference.offset, reference.recordBytes);
        return wholeValue(file.reader, reference);
      } finally {
        files.letGo(file);
      }
    }),
  );
}

function keyOf(tree: number, reference: BlobReference): string {
  return `${tree}/${reference.file}/${reference.offset}`;
}
