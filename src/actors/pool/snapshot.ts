/**
 * A snapshot: one state of the whole store, over all shards and spaces, for as long as it is open. While it is, versions it can see are kept in
 * memory; close it. What expires is judged by the time it was opened. Threads: the one that made it.
 */
import type { ThreadClient } from '../client/thread-client.js';
import { closed } from './core.js';
import { Reads } from './reads.js';
import type { SpaceSource } from './source.js';
import type { Space } from './space.js';

const abandoned = new FinalizationRegistry<{ client: ThreadClient; slot: number }>(({ client, slot }) => {
  client.control.closeSnapshot(slot, client.client);
});

/** What an option `snapshot` takes: a snapshot of the pool or of any of its spaces, whatever its types. */
export interface AnySnapshot {
  readonly sequence: number;
  readonly openedAt: number;
  close(): Promise<void>;
}

/** What a snapshot sees of one space. */
export class SnapshotReads<K = string, V = string> extends Reads<K, V> {
  readonly #snapshot: Snapshot<unknown, unknown>;

  /** @internal */
  constructor(snapshot: Snapshot<unknown, unknown>, source: SpaceSource) {
    super(source);
    this.#snapshot = snapshot;
  }

  protected get readSeq(): number {
    return this.#snapshot.sequence;
  }

  protected get readMs(): number {
    return this.#snapshot.openedAt;
  }

  protected assertOpen(): void {
    this.#snapshot.assertNotClosed();
    this.source.assertUsable();
  }
}

export class Snapshot<K = string, V = string> extends Reads<K, V> implements AnySnapshot {
  /** Sequence number: the snapshot sees every version up to it and none above. */
  readonly sequence: number;
  /** Time by which expiry is judged, ms since the epoch. */
  readonly openedAt = Date.now();
  readonly #slot: number;
  readonly #parts = new Map<SpaceSource, SnapshotReads<unknown, unknown>>();
  #isClosed = false;

  /** Made by snapshot() of a pool or a space. */
  constructor(source: SpaceSource, held: { slot: number; sequence: number }) {
    super(source);
    this.sequence = held.sequence;
    this.#slot = held.slot;
    abandoned.register(this, { client: this.client, slot: held.slot }, this);
  }

  protected get readSeq(): number {
    return this.sequence;
  }

  protected get readMs(): number {
    return this.openedAt;
  }

  protected assertOpen(): void {
    this.assertNotClosed();
    this.source.assertUsable();
  }

  /** @internal @throws ERR_CLOSED */
  assertNotClosed(): void {
    if (this.#isClosed) throw closed('snapshot');
  }

  /**
   * The same state of another space, for as long as this snapshot is open. A space that came later is empty.
   * @throws ERR_SPACE_NOT_FOUND, ERR_SPACE_DROPPED, ERR_CLOSED
   */
  space<SK = string, SV = string>(space: Space<SK, SV> | string): SnapshotReads<SK, SV> {
    this.assertNotClosed();
    const { source } = typeof space === 'string' ? this.source.core.space(space, { createIfMissing: false }) : space;
    source.assertUsable();
    return this.readsOf<SK, SV>(source);
  }

  /** @internal */
  readsOf<SK, SV>(source: SpaceSource): Reads<SK, SV> & SnapshotReads<SK, SV> {
    let reads = this.#parts.get(source);
    if (reads === undefined) {
      reads = new SnapshotReads(this, source);
      this.#parts.set(source, reads);
    }
    return reads as SnapshotReads<SK, SV>;
  }

  /** Lets go of the versions it held. Harmless when closed. */
  close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true;
      abandoned.unregister(this);
      this.client.control.closeSnapshot(this.#slot, this.client.client);
    }
    return Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
