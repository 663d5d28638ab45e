/**
 * A snapshot: one state of the whole store, over all shards, for as long as it is open. While it is, versions it can see are kept in
 * memory; close it. Threads: the one that made it.
 */
import type { KeyEncoding } from '../../shared/codec/key-encoding.js';
import type { ValueEncoding } from '../../shared/codec/value-encoding.js';
import type { ThreadClient } from '../client/thread-client.js';
import { Reads, closed } from './reads.js';

const abandoned = new FinalizationRegistry<{ client: ThreadClient; slot: number }>(({ client, slot }) => {
  client.control.closeSnapshot(slot, client.client);
});

export class Snapshot<K = string, V = string> extends Reads<K, V> {
  /** Sequence number: the snapshot sees every version up to it and none above. */
  readonly sequence: number;
  readonly #slot: number;
  #isClosed = false;

  /** Made by {@link ConcordPool.snapshot}. */
  constructor(
    client: ThreadClient,
    keyEncoding: KeyEncoding,
    valueEncoding: ValueEncoding,
    held: { slot: number; sequence: number },
  ) {
    super(client, keyEncoding, valueEncoding);
    this.sequence = held.sequence;
    this.#slot = held.slot;
    abandoned.register(this, { client, slot: held.slot }, this);
  }

  protected get readSeq(): number {
    return this.sequence;
  }

  /** @internal @throws ERR_CLOSED */
  assertOpen(): void {
    if (this.#isClosed) throw closed('snapshot');
    if (this.client.closed || !this.client.control.isOpen) throw closed('store');
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
