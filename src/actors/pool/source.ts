/**
 * What reads and writes of a space go by in one thread: its id, how keys and values are encoded, its views, and whether it may be used.
 * The pool's own space is there from the start; a named one may still have to be created (space.ts). Threads: the one that owns the client.
 */
import { isMainThread } from 'node:worker_threads';
import type { KeyEncoding, KeyScratch } from '../../shared/codec/key-encoding.js';
import type { ValueEncoding } from '../../shared/codec/value-encoding.js';
import { ConcordError } from '../../shared/errors.js';
import { hashBytes, slotOf } from '../../shared/hash.js';
import { SPACE_ID_MAX } from '../../engines/engine.js';
import type { SpaceView } from '../client/space-view.js';
import type { ThreadClient } from '../client/thread-client.js';
import type { PoolCore } from './core.js';

/** The main thread is mostly the one that replaces a dead shard: it must not wait for one for long. */
const MAIN_WAIT_MS_MAX = 1000;

/** No space has this id: a space that is being created is read as one without entries. */
export const NO_SPACE_ID = SPACE_ID_MAX;

/** Where there is no waiting for it. */
export function spaceNotCreated(space: string): ConcordError {
  return new ConcordError('ERR_SPACE_NOT_FOUND', `the space ${space} is being created: await its ready`, { space });
}

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

  /**
   * As viewOf(), for a read of the newest state: what is decided to change the key, and may show elsewhere already, is waited for.
   * @throws ERR_TIMEOUT
   */
  newestViewOf(scratch: KeyScratch, length: number): SpaceView {
    if (this.#only !== undefined) return this.#only;
    const { commits } = this.client.control;
    const hash = hashBytes(scratch.bytes, 0, length);
    const shard = this.#slots[slotOf(hash)]!;
    if (!commits.isEmpty && commits.mayBePrepared(shard, hash)) {
      commits.waitForShardSync(shard, isMainThread ? MAIN_WAIT_MS_MAX : Infinity);
    }
    return this.views[shard]!;
  }

  /** What newestViewOf() would wait for, to be awaited first; undefined: nothing. */
  whenNewest(scratch: KeyScratch, length: number): Promise<void> | undefined {
    const { commits } = this.client.control;
    if (this.#only !== undefined || commits.isEmpty) return undefined;
    const hash = hashBytes(scratch.bytes, 0, length);
    const shard = this.#slots[slotOf(hash)]!;
    return commits.mayBePrepared(shard, hash) ? commits.waitForShard(shard) : undefined;
  }

  /** The view of the shard that owns the key, whose `length` bytes are in the scratch. */
  viewOf(scratch: KeyScratch, length: number): SpaceView {
    return this.#only ?? this.viewOfHash(hashBytes(scratch.bytes, 0, length));
  }

  viewOfHash(hash: number): SpaceView {
    return this.#only ?? this.views[this.#slots[slotOf(hash)]!]!;
  }
}
