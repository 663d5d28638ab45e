/** What a batch, or the writes of a transaction, ask of each space they touch. One instance per shard, used again. Threads: the shard's thread only. */
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

/** Writes to more spaces than this look them up by a map. */
const COMPARED_SPACES_MAX = 4;

class SpaceNeeds {
  space: Space;
  operations = 0;
  bytes = 0;
  /** Key and value of the largest operation. */
  largestBytes = 0;
  expiring = 0;
  nextExpiry = 0;

  constructor(space: Space) {
    this.space = space;
  }
}

export class BatchNeeds {
  readonly #store: ShardStore;
  /** Of the batch at hand. */
  readonly spaces: SpaceNeeds[] = [];
  readonly #bySpace = new Map<Space, SpaceNeeds>();
  readonly #first: SpaceNeeds;
  operations = 0;
  deletesOnly = true;

  constructor(store: ShardStore) {
    this.#store = store;
    this.#first = new SpaceNeeds(store.spaces.require(0));
  }

  /** Checks the records. @throws ERR_CORRUPT, ERR_SPACE_DROPPED */
  of(bytes: Buffer, start: number, end: number): this {
    this.spaces.length = 0;
    if (this.#bySpace.size > 0) this.#bySpace.clear();
    this.operations = 0;
    this.deletesOnly = true;
    for (let at = start; at < end;) {
      const size = checkOperation(bytes, at, end);
      const kind = bytes[at]!;
      if (kind !== OperationKind.Put && kind !== OperationKind.Delete) {
        throw new ConcordError('ERR_INTERNAL', `a batch cannot hold operations of kind ${kind}`);
      }
      if (kind === OperationKind.Put) this.deletesOnly = false;
      const needs = this.#needsOf(this.#store.spaces.require(readOperationSpace(bytes, at)));
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
    return this;
  }

  #needsOf(space: Space): SpaceNeeds {
    const { spaces } = this;
    for (let i = 0; i < spaces.length && i < COMPARED_SPACES_MAX; i++)
      if (spaces[i]!.space === space) return spaces[i]!;
    let needs = spaces.length > COMPARED_SPACES_MAX ? this.#bySpace.get(space) : undefined;
    if (needs !== undefined) return needs;
    if (spaces.length === 0) {
      // Mostly there is one.
      needs = this.#first;
      needs.space = space;
      needs.operations = 0;
      needs.bytes = 0;
      needs.largestBytes = 0;
      needs.expiring = 0;
      needs.nextExpiry = 0;
    } else needs = new SpaceNeeds(space);
    spaces.push(needs);
    if (spaces.length > COMPARED_SPACES_MAX) this.#bySpace.set(space, needs);
    return needs;
  }
}
