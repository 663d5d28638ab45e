import type { BlobReference } from '../types.js';

/** No encoded reference is longer. */
export declare const BLOB_REFERENCE_BYTES_MAX: 32;
/** Returns the offset behind it. */
export declare function encodeBlobReference(into: Uint8Array, at: number, reference: BlobReference): number;
/** Undefined: these bytes are none. */
export declare function decodeBlobReference(bytes: Uint8Array, at: number, end: number): BlobReference | undefined;
