/**
 * What reads and writes of a space go by in one thread: its id, how keys and values are encoded, its views, and whether it may be used.
 * The pool's own space is there from the start; a named one may still have to be created (space.ts). Threads: the one that owns the client.
 */
import type { KeyEncoding, KeyScratch } from '../../shared/codec/key-encoding.js';
import type { ValueEncoding } from '../../shared/codec/value-encoding.js';
import { hashBytes, slotOf } from '../../shared/hash.js';
import { SPACE_ID_MAX } from '../../engines/engine.js';
import type { SpaceView } from '../client/space-view.js';
import type { ThreadClient } from '../client/thread-client.js';
import type { PoolCore } from './core.js';

/** No space has this id: a space that is being created is read as one without entries. */
export const NO_SPACE_ID = SPACE_ID_MAX;

export class SpaceSource {
  readonly core: PoolCore;
  readonly client: ThreadClient;
  /** Of the space; empty: the pool's own. */
  readonly name: string = '';
  spaceId: number;
  keyEncoding: KeyEncoding;
  valueEncoding: ValueEncoding;
  /** Values are stored as text, which readers make into strings themselves. */
  isText: boolean;
  views: readonly SpaceView[];
  #only: SpaceView | undefined;
  readonly #slots: Uint8Array;

  constructor(core: PoolCore, spaceId: number, keyEncoding: KeyEncoding, valueEncoding: ValueEncoding) {
    const { client } = core;
    this.core = core;
    this.client = client;
    this.spaceId = spaceId;
    this.keyEncoding = keyEncoding;
    this.valueEncoding = valueEncoding;
    this.isText = valueEncoding.form === 'text';
    this.views = client.viewsOf(spaceId);
    this.#only = this.views.length === 1 ? this.views[0] : undefined;
    this.#slots = client.control.slots;
  }

  /** @throws ERR_CLOSED, ERR_SPACE_DROPPED, why it could not be created */
  assertUsable(): void {
    this.core.assertOpen();
  }

  /** Settles when the space exists; undefined when it does. */
  get pending(): Promise<void> | undefined {
    return undefined;
  }

  /** Does the work when the space exists, in the order of the calls. */
  whenReady<T>(work: () => Promise<T>): Promise<T> {
    return work();
  }

  /** The space has turned out to be this one. */
  protected rebind(spaceId: number, keyEncoding: KeyEncoding, valueEncoding: ValueEncoding): void {
    this.spaceId = spaceId;
    this.keyEncoding = keyEncoding;
    this.valueEncoding = valueEncoding;
    this.isText = valueEncoding.form === 'text';
    this.views = this.client.viewsOf(spaceId);
    this.#only = this.views.length === 1 ? this.views[0] : undefined;
  }

  /** The view of the shard that owns the key, whose `length` bytes are in the scratch. */
  viewOf(scratch: KeyScratch, length: number): SpaceView {
    return this.#only ?? this.views[this.#slots[slotOf(hashBytes(scratch.bytes, 0, length))]!]!;
  }
}
