/**
 * Compaction that was asked for: versions and tombstones that no snapshot needs go and thin pages are merged, in slices between groups; engines with files
 * merge them, in the background.
 *
 * Must hold: one sweep at a time. A caller who cancels learns how far it got. Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import { newTableSweep, type ShardStore, type TableSweep } from '../../engines/store/shard-store.js';
import { ShardCounter } from '../control-block.js';
import type { Unseen } from './space-moves.js';

/** Pages one slice of a sweep visits. */
const SWEEP_PAGES = 64;

/** What is to be compacted: plain data. */
export interface CompactRequest {
  /** By which it is cancelled. */
  readonly id: string;
  /** Undefined: all spaces. */
  readonly spaceId: number | undefined;
  /** [low, high), undefined: open. Only engines with files heed it. */
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
}

const ALL: CompactRequest = { id: '', spaceId: undefined, low: undefined, high: undefined };

export class Compactions {
  readonly #store: ShardStore;
  readonly #counters: Float64Array;
  readonly #unseen: Unseen;
  #sweep: { readonly state: TableSweep; readonly resolve: (removedCells: number) => void } | undefined;
  /** What ends those that run, by their ids. */
  readonly #cancels = new Map<string, (() => void)[]>();

  /** `counters`: of the shard. */
  constructor(store: ShardStore, counters: Float64Array, unseen: Unseen) {
    this.#store = store;
    this.#counters = counters;
    this.#unseen = unseen;
  }

  get isSweeping(): boolean {
    return this.#sweep !== undefined;
  }

  /**
   * Removes versions and tombstones no snapshot needs and merges thin pages, in slices between groups; engines with files merge them, in the
   * background. Resolves with the cells removed from memory. @throws ERR_CONFLICT when one runs; ERR_CLOSED when it was cancelled
   */
  async run({ id, spaceId, low, high }: CompactRequest = ALL): Promise<number> {
    const { spaces } = this.#store;
    const wanted = spaceId === undefined ? [...spaces.all] : [spaces.require(spaceId)];
    const trees = wanted.filter(({ engine }) => engine.background !== undefined);
    const cancels: (() => void)[] = [];
    this.#cancels.set(id, cancels);
    try {
      const merges = trees.map(
        (space) =>
          new Promise<void>((resolve, reject) => {
            const { engine } = space;
            const done = (error?: Error): void => {
              // What is gone, or is in another engine now, needs no merging.
              if (error === undefined || spaces.get(space.id) !== space || space.engine !== engine) resolve();
              else reject(error);
            };
            cancels.push(engine.background!.compactRange(low, high, done));
          }),
      );
      const isSwept = spaceId === undefined || trees.length === 0;
      const [removed] = await Promise.all([isSwept ? this.#sweepAll(cancels) : 0, ...merges]);
      return removed;
    } finally {
      this.#cancels.delete(id);
    }
  }

  /** What trees with files hold in memory goes to files: a log that they need no more can be cut. Resolves also for those that cannot. */
  async flushTrees(): Promise<void> {
    const flushes: Promise<void>[] = [];
    for (const { engine } of this.#store.spaces.all) {
      const { background } = engine;
      if (background === undefined) continue;
      flushes.push(
        new Promise((resolve) => {
          background.flush(() => {
            resolve();
          });
        }),
      );
    }
    await Promise.all(flushes);
  }

  /** Harmless when it has ended. */
  cancel(id: string): void {
    for (const cancel of this.#cancels.get(id) ?? []) cancel();
  }

  #sweepAll(cancels: (() => void)[]): Promise<number> {
    if (this.#sweep !== undefined) return Promise.reject(new ConcordError('ERR_CONFLICT', 'a compaction is running'));
    return new Promise((resolve) => {
      const state = newTableSweep();
      this.#sweep = { state, resolve };
      cancels.push(() => {
        state.done = true;
      });
    });
  }

  /** One slice of a sweep that runs. A sweep changes no key's visible value: it needs no log record and takes no sequence number. */
  sweepSlice(): void {
    const { state, resolve } = this.#sweep!;
    try {
      if (!state.done) {
        this.#unseen(() => {
          this.#store.sweep(state, SWEEP_PAGES);
        });
      }
    } catch (error) {
      if (!(error instanceof ConcordError) || error.code !== 'ERR_MEMORY_FULL') throw error;
      // No room to rewrite pages: what is thin stays thin. The caller learns how far it got.
      state.done = true;
    }
    this.#counters[ShardCounter.SweptPages]! += SWEEP_PAGES;
    if (!state.done) return;
    this.#sweep = undefined;
    resolve(state.removedCells);
  }
}
