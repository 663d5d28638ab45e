import type { Env } from '../../../shared/env/env.js';
import type { BlobFileInfo, BlobReference, LsmIdentity } from '../types.js';

export declare class BlobReader {
  /** Nothing of the file is looked at before the first read. */
  static open(env: Env, path: string, identity: LsmIdentity, number: number): BlobReader;
  readonly path: string;
  /** Value bytes [from, from + length) of the record to into[at …); verified. Returns how many (less at the value's end). @throws ERR_CORRUPT, ERR_IO */
  read(reference: BlobReference, into: Uint8Array, at: number, from: number, length: number): number;
  /** From the footer. @throws ERR_CORRUPT, ERR_FORMAT_VERSION */
  readInfo(expectedBytes?: number): BlobFileInfo;
  close(): void;
}
