/**
 * The coordinator with its surroundings, without the thread: rings of clients, the commit board, ports of shards. turn() is one look at everything; the thread
 * shell (coordinator-worker.ts) calls it in a loop and parks when there is nothing to do. Tests call it directly.
 *
 * Threads: the coordinator's.
 */
import { Coordinator } from '../../engines/txn/coordinator.js';
import type { DecisionLog } from '../../engines/txn/decision-log.js';
import { WaitGraph } from '../../engines/txn/wait-graph.js';
import { ShardState, type ControlBlock } from '../control-block.js';
import { CoordinatorHistogram } from '../metrics/board.js';
import { HISTOGRAM_LENGTH, record } from '../metrics/histogram.js';
import { CoordinatorCounter } from './counters.js';
import { DecisionQueue, type Decide } from './decision-queue.js';
import type { CoordinatorToShard, ShardToCoordinator } from './messages.js';

const REQUESTS_MAX = 4096;
const NS_PER_MS = 1e6;

export interface CoordinatorActorOptions {
  /** The log survives this thread. */
  readonly isKept: boolean;
  /** A predecessor in this process died. */
  readonly isRestart: boolean;
  /** Messages to a shard that is not there are lost. */
  readonly post: (shard: number, message: CoordinatorToShard) => void;
}

export class CoordinatorActor {
  readonly coordinator: Coordinator;
  readonly #control: ControlBlock;
  readonly #log: DecisionLog;
  readonly #graph: WaitGraph;
  readonly #queues: DecisionQueue[] = [];
  readonly #byClient = new Map<number, DecisionQueue>();
  readonly #counters: Float64Array;
  #isCaughtUp = false;

  constructor(log: DecisionLog, control: ControlBlock, options: CoordinatorActorOptions) {
    const { post } = options;
    const shardBells = Array.from({ length: control.shards }, (_, shard) => control.shardDoorbell(shard));
    this.#control = control;
    this.#log = log;
    this.#counters = control.board.coordinatorCounters();
    const histograms = control.board.coordinatorHistograms();
    this.coordinator = new Coordinator(
      log,
      control.commits,
      {
        count: control.shards,
        restarts: () => control.restarts,
        isFailed: (shard) => control.shardState(shard) === ShardState.Failed,
        decisionsNeededFrom: (shard) => control.decisionsNeededFrom(shard),
      },
      {
        takeNumber: () => control.takeCommitNumber(),
        wakeShards: (maskLow, maskHigh) => {
          for (let shard = 0; shard < control.shards; shard++) {
            const mask = shard < 32 ? maskLow : maskHigh;
            if (((mask >>> (shard & 31)) & 1) === 1) shardBells[shard]!.unpark();
          }
        },
        answer: (client, request, error) => this.#byClient.get(client)?.answer(request, error),
        tellOutcome: (shard, txn, committed) => {
          post(shard, { type: 'outcome', txn, committed });
        },
        clock: {
          nowMs: () => performance.now(),
          decided: (ms) => {
            record(histograms, CoordinatorHistogram.Decision * HISTOGRAM_LENGTH, ms * NS_PER_MS);
          },
          applied: (ms) => {
            record(histograms, CoordinatorHistogram.Apply * HISTOGRAM_LENGTH, ms * NS_PER_MS);
          },
        },
      },
      options.isKept,
      options.isRestart,
    );
    this.#graph = new WaitGraph({
      confirm: (shard, check, waits) => {
        post(shard, { type: 'confirm', check, waits });
      },
      kill: (shard, txn, wait, cycle) => {
        post(shard, { type: 'kill', txn, wait, cycle });
      },
    });
  }

  readonly #completed = (id: number): void => {
    this.coordinator.completed(id);
  };

  // ---- clients ------------------------------------------------------------------------------------------------------------------------------

  attachClient(client: number, requests: SharedArrayBuffer, responses: SharedArrayBuffer): void {
    // One that attaches while the thread is replaced is announced twice.
    if (this.#byClient.has(client)) return;
    const decide: Decide = (request, id, maskLow, maskHigh, level, voteEpoch) => {
      this.coordinator.decide(client, request, id, maskLow, maskHigh, level, voteEpoch);
    };
    const bell = this.#control.clientDoorbell(client);
    const queue = new DecisionQueue(client, requests, responses, bell, decide, this.#completed);
    this.#queues.push(queue);
    this.#byClient.set(client, queue);
    this.coordinator.sessionBegun(client);
  }

  /**
   * The client is gone: what it had published is served. Resolves when nothing of it can be undone by whoever forgets what it has prepared; false, that
   * must be kept: it may be decided in a log that has failed.
   */
  detachClient(client: number): Promise<boolean> {
    const queue = this.#byClient.get(client);
    if (queue === undefined) return Promise.resolve(true);
    return new Promise((resolve) => {
      queue.leaving = resolve;
    });
  }

  #removeLeaving(): void {
    for (let i = this.#queues.length - 1; i >= 0; i--) {
      const queue = this.#queues[i]!;
      if (queue.leaving === undefined || queue.hasRequests) continue;
      if (!queue.areAll((id) => this.coordinator.isSettled(id))) continue;
      this.#queues.splice(i, 1);
      this.#byClient.delete(queue.client);
      queue.abandon();
      queue.leaving(this.coordinator.sessionEnded(queue.client));
    }
  }

  // ---- shards -------------------------------------------------------------------------------------------------------------------------------

  hear(shard: number, message: ShardToCoordinator, nowMs: number): void {
    const graph = this.#graph;
    switch (message.type) {
      case 'wait':
        graph.wait({ ...message, shard, key: textOf(message.key) }, nowMs);
        break;
      case 'unwait':
        graph.unwait(shard, message.wait, nowMs);
        break;
      case 'confirmed':
        graph.confirmed(shard, message.check, message.holds, nowMs);
        break;
      case 'hello':
        graph.forgetShard(shard, nowMs);
        break;
      case 'ask':
        this.coordinator.ask(shard, message.txn, message.client);
    }
    this.#countWaits();
  }

  /** Its port is closed. */
  forgetShard(shard: number, nowMs: number): void {
    this.#graph.forgetShard(shard, nowMs);
    this.#countWaits();
  }

  // ---- turns --------------------------------------------------------------------------------------------------------------------------------

  /** One look at everything. True when there was something to do. */
  turn(nowMs: number): boolean {
    const { coordinator } = this;
    let changed = 0;
    for (const queue of this.#queues) {
      if (coordinator.isFull) break;
      changed += queue.take(REQUESTS_MAX);
    }
    if (!this.#isCaughtUp && !this.#queues.some((queue) => queue.hasRequests)) {
      this.#isCaughtUp = true;
      coordinator.caughtUp();
    }
    changed += coordinator.step(nowMs);
    if (coordinator.failure !== undefined) this.#logHasFailed();
    if (nowMs >= this.#graph.nextTickMs) this.#graph.tick(nowMs);
    for (const queue of this.#queues) if (queue.inFlight > 0) changed += queue.settle();
    if (this.#queues.some(({ leaving }) => leaving !== undefined)) this.#removeLeaving();
    if (changed > 0) this.#count();
    return changed > 0;
  }

  /** Shards that wait for an outcome which only the log may have learn that they wait in vain. */
  #logHasFailed(): void {
    const control = this.#control;
    if (control.coordinatorState === ShardState.Running) control.coordinatorState = ShardState.ReadOnly;
  }

  /** Decisions are on their way to shards. */
  get isBusy(): boolean {
    return !this.#control.commits.isEmpty || this.coordinator.offBoard > 0;
  }

  /** Requests that were read or could be, and are not answered. */
  get hasRequests(): boolean {
    return this.#queues.some((queue) => queue.inFlight > 0 || queue.hasRequests);
  }

  /** When a turn has something to do by itself, on performance.now()'s clock. */
  get dueMs(): number {
    return Math.min(this.coordinator.dueMs, this.#graph.nextTickMs);
  }

  #count(): void {
    const counters = this.#counters;
    const { decisions, aborts, fences, syncs, groups } = this.coordinator.counts;
    counters[CoordinatorCounter.Decisions] = decisions;
    counters[CoordinatorCounter.Aborts] = aborts;
    counters[CoordinatorCounter.Fences] = fences;
    counters[CoordinatorCounter.Syncs] = syncs;
    counters[CoordinatorCounter.Groups] = groups;
    counters[CoordinatorCounter.LogBytes] = this.#log.sizeBytes;
    counters[CoordinatorCounter.Known] = this.coordinator.known;
  }

  #countWaits(): void {
    const counters = this.#counters;
    const { waits, kills } = this.#graph.figures;
    counters[CoordinatorCounter.Waiting] = waits;
    counters[CoordinatorCounter.Deadlocks] = kills;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** A key as text, or 0x and hex digits. */
function textOf(key: string | Uint8Array | undefined): string {
  if (typeof key === 'string') return key;
  if (key === undefined) return '';
  try {
    return utf8.decode(key);
  } catch {
    return `0x${Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString('hex')}`;
  }
}
