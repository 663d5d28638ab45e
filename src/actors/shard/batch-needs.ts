/** What a batch, or the writes of a transaction, ask of each space they touch. Threads: the shard's thread only. */
import { ConcordError } from '../../shared/errors.js';
import {
  OperationKind,
  checkOperation,
  readKeyLength,
  readOperationExpiry,
  readOperationSpace,
  readValueLength,
} from '../../engines/operation.js';
import type { ShardStore } from '../../engines/store/shard-store.js';
import type { Space } from '../../engines/store/space-table.js';

export interface SpaceNeeds {
  operations: number;
  bytes: number;
  /** Key and value of the largest operation. */
  largestBytes: number;
  expiring: number;
  nextExpiry: number;
}

export class BatchNeeds {
  readonly spaces = new Map<Space, SpaceNeeds>();
  operations = 0;
  deletesOnly = true;

  /** Checks its records. @throws ERR_CORRUPT, ERR_SPACE_DROPPED */
  constructor(store: ShardStore, bytes: Buffer, start: number, end: number) {
    for (let at = start; at < end;) {
      const size = checkOperation(bytes, at, end);
      const kind = bytes[at]!;
      if (kind !== OperationKind.Put && kind !== OperationKind.Delete) {
        throw new ConcordError('ERR_INTERNAL', `a batch cannot hold operations of kind ${kind}`);
      }
      if (kind === OperationKind.Put) this.deletesOnly = false;
      const space = store.spaces.require(readOperationSpace(bytes, at));
      let needs = this.spaces.get(space);
      if (needs === undefined) {
        this.spaces.set(space, (needs = { operations: 0, bytes: 0, largestBytes: 0, expiring: 0, nextExpiry: 0 }));
      }
      needs.operations++;
      needs.bytes += size;
      needs.largestBytes = Math.max(needs.largestBytes, readKeyLength(bytes, at) + readValueLength(bytes, at));
      const expiresAt = readOperationExpiry(bytes, at);
      if (expiresAt !== 0) {
        needs.expiring++;
        needs.nextExpiry = needs.nextExpiry === 0 ? expiresAt : Math.min(needs.nextExpiry, expiresAt);
      }
      this.operations++;
      at += size;
    }
  }
}
