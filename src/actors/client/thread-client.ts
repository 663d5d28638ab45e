/**
 * What one thread needs to use a pool: its client slot, a link and the memory of each shard, views of the spaces it reads, and the pump that
 * publishes requests and settles completions.
 *
 * Publishing: the first call goes out at the end of its microtask. While calls are in flight the pump comes round with every turn of the event loop, so
 * further calls wait for it, or until some have gathered (ShardLink): what one turn brings goes to the shard together. Each publication costs both sides cache
 * lines, and each group the shard makes of one costs it a write, maybe a sync, and every reader the lines of a new root. What goes to the coordinator follows from
 * answers of shards: it goes out with the turn that has settled these.
 *
 * Waiting for completions: while calls are in flight the pump looks at the completion counters from setImmediate, which lets other I/O of
 * the thread run, for as long as a disk sync takes; then it parks on the client's doorbell. A parked thread costs nothing and is woken in 50–100 µs.
 * Where threads outnumber cores it parks at once.
 *
 * Threads: one instance per thread.
 */
import { availableParallelism } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { ConcordError } from '../../shared/errors.js';
import { ArenaReader, type ArenaLayout } from '../../shared/memory/arena.js';
import { ColdPages } from '../../engines/btree/paged/cold-pages.js';
import { forgetReads } from '../../engines/cells/read-events.js';
import { LsmFiles } from '../../engines/lsm/read/files.js';
import type { Doorbell } from '../../shared/memory/park.js';
import { ControlBlock, PoolState, ShardState } from '../control-block.js';
import { ThreadMeters } from '../metrics/meters.js';
import { ShardLink } from './shard-link.js';
import { SpaceView } from './space-view.js';

/** How long completions are polled before the thread parks, when every thread can have a core. Covers a disk sync. */
const SPIN_MS = 0.6;
/** The same when threads outnumber cores. */
const SPIN_CROWDED_MS = 0.02;
/** The main thread is mostly the one that hears of a dead shard or client, and it hears nothing while it waits for their latch. */
const MAIN_LATCH_WAIT_MS_MAX = 1000;
/** A parked client looks at the state of its shards at least this often. */
const PARK_MS_MAX = 1000;

/** Structured-cloneable: what a thread is given to attach. */
export interface ClientSetup {
  readonly client: number;
  readonly control: SharedArrayBuffer;
  readonly arenas: readonly ArenaLayout[];
  readonly rings: readonly { readonly requests: SharedArrayBuffer; readonly responses: SharedArrayBuffer }[];
  /** Of a store without a directory, by shard: what change feeds read. Otherwise none. */
  readonly feedRings?: readonly SharedArrayBuffer[];
  /** To the coordinator; a store that has none takes no transactions over several shards. */
  readonly coordinator?: { readonly requests: SharedArrayBuffer; readonly responses: SharedArrayBuffer } | undefined;
}

/** One actor that this thread sends requests to. */
export interface ActorLine {
  readonly link: ShardLink;
  readonly doorbell: Doorbell;
}

export interface ShardLine extends ActorLine {
  readonly arena: ArenaReader;
}

export class ThreadClient {
  readonly client: number;
  readonly control: ControlBlock;
  readonly shards: readonly ShardLine[];
  readonly coordinator: ActorLine | undefined;
  /** Of a store without a directory, by shard: what change feeds read. */
  readonly feedRings: readonly SharedArrayBuffer[];
  /** The shards', then the coordinator's. */
  readonly #lines: readonly ActorLine[];
  readonly meters: ThreadMeters;
  /** On the board: calls to each shard that are not settled. */
  readonly #pendingWords: Int32Array;
  readonly #views = new Map<number, readonly SpaceView[]>();
  readonly #doorbell: Doorbell;
  #publishQueued = false;
  #pumping = false;
  #parked = false;
  #lastProgress = 0;
  #idleWaiters: (() => void)[] = [];

  constructor(setup: ClientSetup) {
    this.client = setup.client;
    this.control = new ControlBlock(setup.control);
    this.#doorbell = this.control.clientDoorbell(setup.client);
    this.meters = new ThreadMeters(this.control.board, setup.client);
    this.#pendingWords = this.control.board.pendingOf(setup.client);
    const onSubmit = (): void => {
      this.#submitted();
    };
    this.shards = setup.arenas.map((layout, shard) => {
      const { requests, responses } = setup.rings[shard]!;
      const arena = new ArenaReader(layout);
      if (isMainThread) arena.latchWaitMsMax = MAIN_LATCH_WAIT_MS_MAX;
      const doorbell = this.control.shardDoorbell(shard);
      const onPublish = (): void => {
        doorbell.unpark();
      };
      return {
        arena,
        link: new ShardLink(shard, setup.client, requests, responses, onSubmit, onPublish),
        doorbell,
      };
    });
    this.feedRings = setup.feedRings ?? [];
    this.coordinator = this.#coordinatorLine(setup, onSubmit);
    this.#lines = this.coordinator === undefined ? this.shards : [...this.shards, this.coordinator];
  }

  #coordinatorLine({ client, coordinator }: ClientSetup, onSubmit: () => void): ActorLine | undefined {
    if (coordinator === undefined) return undefined;
    const doorbell = this.control.coordinatorDoorbell;
    const onPublish = (): void => {
      doorbell.unpark();
    };
    const { requests, responses } = coordinator;
    return { link: new ShardLink(COORDINATOR, client, requests, responses, onSubmit, onPublish, Infinity), doorbell };
  }

  /** The space as this thread reads it, by shard. */
  viewsOf(spaceId: number): readonly SpaceView[] {
    let views = this.#views.get(spaceId);
    if (views === undefined) {
      views = this.shards.map((line) => new SpaceView(line, spaceId, this.client, this.meters));
      this.#views.set(spaceId, views);
    }
    return views;
  }

  /** The space is gone. */
  forgetViews(spaceId: number): void {
    this.#views.delete(spaceId);
    this.meters.forget(spaceId);
    for (const { arena } of this.shards) forgetReads(arena, spaceId);
    // Those of a space that is gone would keep their place on the disk.
    this.#closeFiles();
  }

  /** What is read later opens them again. */
  #closeFiles(): void {
    for (const { arena } of this.shards) {
      LsmFiles.known(arena)?.close();
      ColdPages.known(arena)?.close();
    }
  }

  /** The pool is closed in this thread; what is in flight is still settled. */
  get closed(): boolean {
    return this.control.detached;
  }

  close(): void {
    this.control.detached = true;
  }

  /** Calls that are not settled. */
  get pending(): number {
    let pending = 0;
    for (const { link } of this.#lines) pending += link.pending;
    return pending;
  }

  /** @throws ERR_CLOSED, ERR_SHARD_FAILED */
  assertWritable(shard: number): void {
    if (this.closed || this.control.poolState !== PoolState.Open)
      throw new ConcordError('ERR_CLOSED', 'the store is closed');
    const state = this.control.shardState(shard);
    if (state === ShardState.Failed) {
      throw new ConcordError('ERR_SHARD_FAILED', `shard ${shard} failed repeatedly and stays down; reopen the store`, {
        shard,
      });
    }
  }

  /** @throws ERR_CLOSED, ERR_SHARD_FAILED, ERR_READ_ONLY */
  requireCoordinator(): ShardLink {
    if (this.closed || this.control.poolState !== PoolState.Open)
      throw new ConcordError('ERR_CLOSED', 'the store is closed');
    if (this.coordinator === undefined) throw new ConcordError('ERR_READ_ONLY', 'the store is open to read only');
    if (this.control.coordinatorState === ShardState.Failed) throw coordinatorFailed();
    return this.coordinator.link;
  }

  #submitted(): void {
    if (this.#publishQueued) return;
    this.#publishQueued = true;
    if (this.#pumping && !this.#parked) return;
    queueMicrotask(this.#publish);
  }

  readonly #publish = (): void => {
    this.#publishQueued = false;
    for (const { link, doorbell } of this.#lines) {
      link.publish();
      const { pending } = link;
      if (link.shard !== COORDINATOR) this.#pendingWords[link.shard] = pending;
      if (link.takeNews()) doorbell.unpark();
    }
    if (this.#parked) return;
    if (!this.#pumping) {
      this.#pumping = true;
      this.#lastProgress = performance.now();
      setImmediate(this.#pump);
    }
  };

  readonly #pump = (): void => {
    if (this.#publishQueued) this.#publish();
    let settled = 0;
    let pending = 0;
    for (const { link, doorbell } of this.#lines) {
      if (link.pending === 0) continue;
      settled += link.settle();
      // What the shards' votes have just led to goes out before their callers go on: together, for each frame of decisions has its price.
      if (link.shard === COORDINATOR) link.publish();
      const left = link.pending;
      if (link.shard !== COORDINATOR) this.#pendingWords[link.shard] = left;
      pending += left;
      // Refilled from the wait queue, outside of any submit; or it waited for room for its answers.
      if (link.takeNews()) doorbell.unpark();
    }
    // Who was answered may have sent more at once, also to a shard that was passed over.
    if (pending === 0 && !this.#publishQueued) {
      this.#pumping = false;
      this.#wakeIdle();
      return;
    }
    const now = performance.now();
    if (settled > 0) this.#lastProgress = now;
    const spinMs = this.control.clients + this.control.shards > CORES ? SPIN_CROWDED_MS : SPIN_MS;
    if (now - this.#lastProgress < spinMs || this.#publishQueued) {
      setImmediate(this.#pump);
      return;
    }
    void this.#park();
  };

  async #park(): Promise<void> {
    this.#doorbell.raise();
    if (this.#lines.some(({ link }) => link.pending > 0 && link.hasAnswers)) {
      this.#doorbell.lower();
      setImmediate(this.#pump);
      return;
    }
    this.#parked = true;
    // Calls in flight keep the process alive, which a pending waitAsync does not.
    const keepAlive = setTimeout(() => undefined, PARK_MS_MAX * 2);
    try {
      await this.#doorbell.parkAsync(PARK_MS_MAX);
    } finally {
      clearTimeout(keepAlive);
      this.#parked = false;
    }
    this.#rejectLost();
    this.#lastProgress = performance.now();
    this.#pump();
  }

  /** Calls to a shard that failed for good will not be answered. */
  #rejectLost(): void {
    const isClosed = this.control.poolState === PoolState.Closed;
    for (const { link } of this.#lines) {
      const { shard } = link;
      if (link.pending === 0) continue;
      if (isClosed) link.rejectAll(new ConcordError('ERR_CLOSED', 'the store was closed'));
      else if (shard === COORDINATOR) {
        if (this.control.coordinatorState === ShardState.Failed) link.rejectAll(coordinatorFailed());
      } else if (this.control.shardState(shard) === ShardState.Failed) {
        link.rejectAll(
          new ConcordError('ERR_SHARD_FAILED', `shard ${shard} failed repeatedly and stays down`, { shard }),
        );
      }
    }
  }

  /** Resolves when every call made so far is settled. */
  whenIdle(): Promise<void> {
    if (this.pending === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  #wakeIdle(): void {
    for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }

  /** The pool is gone: rejects what is still open. */
  abandon(error: Error): void {
    this.close();
    for (const { link } of this.#lines) link.rejectAll(error);
    this.meters.detach();
    this.#wakeIdle();
    this.#closeFiles();
  }
}

function coordinatorFailed(): ConcordError {
  return new ConcordError('ERR_SHARD_FAILED', 'the coordinator failed repeatedly and stays down; reopen the store');
}

/** In the place of a shard's number. */
const COORDINATOR = -1;
const CORES = availableParallelism();
