/**
 * Spaces of a shard that are on their way to another engine, or are to go: a slice at a time, between groups.
 *
 *   switchEngine() ──▶ copied in slices, in turn ──▶ the new engine's files have all ──▶ no checkpoint reads the old one ──▶ exchanged
 *   drop()         ──▶ no checkpoint reads it ──▶ gone
 *
 * Must hold: what a predecessor had begun goes on. What cannot be copied stays where it was, whole. Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import type { ShardStore } from '../../engines/store/shard-store.js';
import type { Space } from '../../engines/store/space-table.js';
import type { SpaceDefinition } from '../../engines/store/space.js';
import { memoryFull } from './refusals.js';
import type { WriteGates } from './write-gates.js';

/** Versions that are copied between two groups. */
const SLICE_VERSIONS = 256;
/** What a moved space's new engine puts into its files is looked after so often. */
const STORING_LOOK_MS = 5;

/** Runs what changes memory and no key's value: see Shard. */
export type Unseen = <T>(work: () => T) => T;

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class SpaceMoves {
  readonly #shard: number;
  readonly #store: ShardStore;
  readonly #gates: WriteGates;
  readonly #unseen: Unseen;
  /** Who waits for each to arrive; the first one is copied next. */
  readonly #switches = new Map<number, Waiter[]>();
  readonly #drops: { spaceId: number; resolve: () => void }[] = [];
  /** Copying goes on then, on performance.now()'s clock: files of the new engine have to catch up. */
  dueMs = 0;
  #copiedBytes = 0;

  constructor(shard: number, store: ShardStore, gates: WriteGates, unseen: Unseen) {
    this.#shard = shard;
    this.#store = store;
    this.#gates = gates;
    this.#unseen = unseen;
    // A predecessor did not get to the end of these. Each is begun when its turn comes: one that has no room must not keep the shard from starting.
    for (const { id } of store.spaces.unfinishedSwitches) this.#switches.set(id, []);
  }

  get hasWork(): boolean {
    return this.#hasSwitchWork || this.#hasDrops;
  }

  /** One slice. True when there is more to do at once. */
  work(): boolean {
    if (this.#hasDrops) this.#dropSpaces();
    if (!this.#hasSwitchWork) return false;
    const [spaceId, waiters] = this.#switches.entries().next().value!;
    this.#switchSlice(spaceId, waiters);
    return this.#hasSwitchWork;
  }

  /** Resolves when its memory is given back, which waits for a checkpoint that is being written. */
  drop(spaceId: number): Promise<void> {
    this.#endSwitch(spaceId, new ConcordError('ERR_SPACE_DROPPED', `space ${spaceId} was dropped`, { space: spaceId }));
    return new Promise((resolve) => {
      this.#drops.push({ spaceId, resolve });
    });
  }

  get #hasDrops(): boolean {
    return this.#drops.length > 0 && !this.#store.isCheckpointing;
  }

  #dropSpaces(): void {
    for (const { spaceId, resolve } of this.#drops.splice(0)) {
      this.#unseen(() => {
        this.#store.dropSpace(spaceId);
      });
      resolve();
    }
  }

  /** Resolves when the space is held by the engine of its definition. @throws ERR_MEMORY_FULL: it stays where it was; ERR_SPACE_DROPPED */
  switchEngine(definition: SpaceDefinition): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#beginSwitch(definition, { resolve, reject });
    });
  }

  #beginSwitch(definition: SpaceDefinition, waiter: Waiter): void {
    const isBegun = this.#unseen(() => this.#store.spaces.beginSwitch(definition));
    if (!isBegun) {
      this.#endSwitch(definition.id, undefined);
      waiter.resolve();
      return;
    }
    const waiters = this.#switches.get(definition.id);
    if (waiters === undefined) this.#switches.set(definition.id, [waiter]);
    else waiters.push(waiter);
  }

  /** What is copied and waits for a checkpoint to end, or for files to catch up, is no work. */
  get #hasSwitchWork(): boolean {
    if (this.#switches.size === 0 || performance.now() < this.dueMs) return false;
    const { spaces, isCheckpointing } = this.#store;
    if (!isCheckpointing) return true;
    for (const id of this.#switches.keys()) if (spaces.get(id)?.building?.isComplete !== true) return true;
    return false;
  }

  #switchSlice(spaceId: number, waiters: Waiter[]): void {
    const store = this.#store;
    const space = store.spaces.get(spaceId);
    let isDone = space === undefined;
    let failure: ConcordError | undefined;
    if (space !== undefined) {
      try {
        if (!this.#mayCopy(space)) return;
        isDone = this.#unseen(
          () =>
            !store.spaces.beginSwitch(space.definition) ||
            (space.building !== undefined && store.switchSlice(space, SLICE_VERSIONS)),
        );
      } catch (error) {
        // What cannot be copied (no room, a page that cannot be read) stays where it is: a successor would meet it again.
        if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL') throw error;
        failure = error.code === 'ERR_MEMORY_FULL' ? memoryFull(this.#shard, store.arena) : error;
      }
    }
    if (failure !== undefined || isDone) this.#endSwitch(spaceId, failure);
    else {
      // All is copied, and on its way to the new engine's files.
      if (space?.building?.isComplete === true) this.dueMs = performance.now() + STORING_LOOK_MS;
      // Others have their turn.
      this.#switches.delete(spaceId);
      this.#switches.set(spaceId, waiters);
    }
  }

  /** As for a request of what the last slice has copied. @throws ERR_DISK_FULL */
  #mayCopy(space: Space): boolean {
    const engine = space.building?.engine;
    if (engine?.background === undefined) return true;
    const gate = this.#gates.gateOf(space, engine.background);
    const { liveKeyBytes, liveValueBytes } = engine.counts();
    gate.took(Math.max(0, liveKeyBytes + liveValueBytes - this.#copiedBytes));
    this.#copiedBytes = liveKeyBytes + liveValueBytes;
    const nowMs = performance.now();
    const waitMs = gate.waitMs(nowMs);
    this.dueMs = waitMs === 0 ? 0 : nowMs + waitMs;
    return waitMs === 0;
  }

  #endSwitch(spaceId: number, failure: ConcordError | undefined): void {
    const waiters = this.#switches.get(spaceId);
    if (waiters === undefined) return;
    this.#switches.delete(spaceId);
    for (const { resolve, reject } of waiters) {
      if (failure === undefined) resolve();
      else reject(failure);
    }
  }
}
