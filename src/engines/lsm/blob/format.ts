export { BLOB_REFERENCE_BYTES_MAX, decodeBlobReference, encodeBlobReference } from './reference.js';
