/**
 * The thread of the coordinator: opens the decision log, drains the clients' rings into frames of decisions, carries them by the commit board, hears
 * what shards ask and wait for. What it decides and why is in engines/txn/coordinator.ts; here is when.
 *
 *   launched ─▶ log recovered: 'ready' ─▶ shards and clients attached ─▶ begin() ─▶ Running ─▶ close()
 *
 * It parks on its doorbell as shards do: at once where threads outnumber cores, else after a short look around. Clients ring when they have published,
 * shards when they have applied.
 * An exception here is a broken invariant: the thread dies, the host starts another one, which finds the log, the board and the rings.
 */
import { availableParallelism } from 'node:os';
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { toErrorRecord, type ErrorRecord } from '../../shared/errors.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import { Coordinator } from '../../engines/txn/coordinator.js';
import { DecisionLog } from '../../engines/txn/decision-log.js';
import { WaitGraph } from '../../engines/txn/wait-graph.js';
import type { WalRecovery, WalRecoveryMode } from '../../engines/wal/recovery.js';
import { ControlBlock, ShardState } from '../control-block.js';
import { exposeControl } from '../runtime/control-channel.js';
import { CoordinatorCounter } from './counters.js';
import { DecisionQueue, type Decide } from './decision-queue.js';
import type { CoordinatorToShard, ShardToCoordinator } from './messages.js';

export interface CoordinatorWorkerData {
  /** Of the decision log; undefined: the store keeps nothing on disk. */
  readonly directory: string | undefined;
  readonly storeId: Uint8Array;
  readonly control: SharedArrayBuffer;
  readonly counters: SharedArrayBuffer;
  readonly port: MessagePort;
  /** A predecessor in this process died. */
  readonly isRestart: boolean;
  readonly recoveryMode: WalRecoveryMode | undefined;
}

/** What the worker tells the host without being asked. */
export type CoordinatorEvent =
  | {
      readonly event: 'ready';
      /** Of all ids in the log: no transaction may have it again. */
      readonly highestId: number;
      /** Decided and perhaps not applied everywhere. */
      readonly decided: number;
      readonly recovery: WalRecovery | undefined;
    }
  | { readonly event: 'open-failed'; readonly error: ErrorRecord }
  | { readonly event: 'died'; readonly error: ErrorRecord };

const YIELD_MS = 2;
/** Longer than a client needs to come back with the next decision. */
const SPIN_MS = 0.1;
const PARK_MS_MAX = 1000;
/** While decisions are on their way to shards, one of which may die before it rings. */
const PARK_MS_BUSY = 50;
const REQUESTS_MAX = 4096;
/** At its end it waits so long for shards to apply what was decided: the log has it. */
const CLOSE_MS_MAX = 5000;
const CORES = availableParallelism();

class CoordinatorThread {
  readonly #control: ControlBlock;
  readonly #counters: Float64Array;
  readonly #log: DecisionLog;
  readonly #coordinator: Coordinator;
  readonly #graph: WaitGraph;
  readonly #queues: DecisionQueue[] = [];
  readonly #byClient = new Map<number, DecisionQueue>();
  readonly #ports = new Map<number, MessagePort>();
  #parked = false;
  #lastWork = 0;
  #begun: (() => void) | undefined;
  #stopping: (() => void) | undefined;
  #stopBefore = Infinity;

  constructor(data: CoordinatorWorkerData, log: DecisionLog, control: ControlBlock) {
    this.#control = control;
    this.#counters = new Float64Array(data.counters);
    this.#log = log;
    this.#coordinator = new Coordinator(
      log,
      control.commits,
      {
        count: control.shards,
        isFailed: (shard) => control.shardState(shard) === ShardState.Failed,
        decisionsNeededFrom: (shard) => control.decisionsNeededFrom(shard),
      },
      {
        takeNumber: () => control.takeCommitNumber(),
        wakeShards: (maskLow, maskHigh) => {
          for (let shard = 0; shard < control.shards; shard++) {
            const mask = shard < 32 ? maskLow : maskHigh;
            if (((mask >>> (shard & 31)) & 1) === 1) control.shardDoorbell(shard).unpark();
          }
        },
        answer: (client, request, error) => this.#byClient.get(client)?.answer(request, error),
        tellOutcome: (shard, txn, committed) => {
          this.#post(shard, { type: 'outcome', txn, committed });
        },
      },
      data.directory !== undefined,
      data.isRestart,
    );
    this.#graph = new WaitGraph({
      confirm: (shard, check, waits) => {
        this.#post(shard, { type: 'confirm', check, waits });
      },
      kill: (shard, txn, wait, cycle) => {
        this.#post(shard, { type: 'kill', txn, wait, cycle });
      },
    });
  }

  // ---- control calls ------------------------------------------------------------------------------------------------------------------------

  attachClient(client: number, requests: SharedArrayBuffer, responses: SharedArrayBuffer): void {
    // One that attaches while the thread is replaced is announced twice.
    if (this.#byClient.has(client)) return;
    const decide: Decide = (request, id, maskLow, maskHigh, level) => {
      this.#coordinator.decide(client, request, id, maskLow, maskHigh, level);
    };
    const queue = new DecisionQueue(client, requests, responses, this.#control.clientDoorbell(client), decide);
    this.#queues.push(queue);
    this.#byClient.set(client, queue);
    this.#coordinator.sessionBegun(client);
    this.#wake();
  }

  /** The client is gone: serves what it had published. Resolves when nothing of it can be undone any more by whoever forgets its transactions. */
  async detachClient(client: number): Promise<void> {
    const queue = this.#byClient.get(client);
    if (queue === undefined) return;
    const gone = new Promise<void>((resolve) => {
      queue.leaving = resolve;
    });
    this.#wake();
    await gone;
  }

  /** A new thread of the shard, or a new one of the coordinator: what went over another port is over. */
  attachShard(shard: number, port: MessagePort): void {
    this.#ports.get(shard)?.close();
    this.#ports.set(shard, port);
    port.on('message', (message: ShardToCoordinator) => {
      this.#hear(shard, message);
    });
    port.once('close', () => {
      if (this.#ports.get(shard) !== port) return;
      this.#ports.delete(shard);
      this.#graph.forgetShard(shard, performance.now());
    });
  }

  /** Every shard runs and every client is attached. Resolves when all that was decided before stands on the board, or did. */
  async begin(): Promise<void> {
    this.#coordinator.begin();
    this.#control.coordinatorState = ShardState.Running;
    const begun = new Promise<void>((resolve) => {
      this.#begun = resolve;
    });
    setImmediate(this.#run);
    await begun;
  }

  /** The clients are gone. Serves what the rings hold, waits for the shards to apply it, closes the log. The thread ends afterwards. */
  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#stopping = resolve;
      this.#stopBefore = performance.now() + CLOSE_MS_MAX;
      this.#wake();
    });
    this.#log.close();
    setImmediate(() => process.exit(0));
  }

  // ---- the loop -----------------------------------------------------------------------------------------------------------------------------

  readonly #run = (): void => {
    const bell = this.#control.coordinatorDoorbell;
    const started = performance.now();
    for (;;) {
      const worked = this.#turn();
      const now = performance.now();
      if (worked) this.#lastWork = now;
      else {
        if (this.#stopping !== undefined && this.#mayStop(now)) {
          this.#stopping();
          return;
        }
        if (now - this.#lastWork > (this.#control.isCrowded(CORES) ? 0 : SPIN_MS)) {
          bell.raise();
          // The second look.
          if (this.#turn()) bell.lower();
          else {
            this.#parked = true;
            void bell.parkAsync(this.#parkMs(now)).then(() => {
              this.#parked = false;
              this.#run();
            });
            return;
          }
        }
      }
      if (now - started > YIELD_MS) break;
    }
    setImmediate(this.#run);
  };

  /** One look at everything. True when there was something to do. */
  #turn(): boolean {
    const coordinator = this.#coordinator;
    let changed = 0;
    for (const queue of this.#queues) {
      if (coordinator.isFull) break;
      changed += queue.take(REQUESTS_MAX);
    }
    const now = performance.now();
    changed += coordinator.step(now);
    if (now >= this.#graph.nextTickMs) this.#graph.tick(now);
    for (const queue of this.#queues) if (queue.inFlight > 0) changed += queue.settle();
    if (this.#queues.some(({ leaving }) => leaving !== undefined)) this.#removeLeaving();
    if (changed > 0) this.#count();
    if (this.#begun !== undefined && coordinator.offBoard === 0) {
      this.#begun();
      this.#begun = undefined;
    }
    return changed > 0;
  }

  #parkMs(now: number): number {
    const max = this.#control.commits.isEmpty && this.#coordinator.offBoard === 0 ? PARK_MS_MAX : PARK_MS_BUSY;
    return Math.max(1, Math.min(max, this.#coordinator.dueMs - now, this.#graph.nextTickMs - now));
  }

  #mayStop(now: number): boolean {
    if (now > this.#stopBefore) return true;
    if (this.#queues.some((queue) => queue.inFlight > 0 || queue.hasRequests)) return false;
    return this.#control.commits.isEmpty && this.#coordinator.offBoard === 0;
  }

  /** Something arrived outside the rings. */
  #wake(): void {
    if (this.#parked) this.#control.coordinatorDoorbell.unpark();
  }

  #removeLeaving(): void {
    for (let i = this.#queues.length - 1; i >= 0; i--) {
      const queue = this.#queues[i]!;
      if (queue.leaving === undefined || queue.hasRequests) continue;
      if (!queue.areAll((id) => this.#coordinator.isSettled(id))) continue;
      this.#queues.splice(i, 1);
      this.#byClient.delete(queue.client);
      this.#coordinator.sessionEnded(queue.client, performance.now());
      queue.leaving();
    }
  }

  // ---- shards -------------------------------------------------------------------------------------------------------------------------------

  #hear(shard: number, message: ShardToCoordinator): void {
    const graph = this.#graph;
    const now = performance.now();
    switch (message.type) {
      case 'wait':
        graph.wait({ ...message, shard, key: textOf(message.key) }, now);
        break;
      case 'unwait':
        graph.unwait(shard, message.wait, now);
        break;
      case 'confirmed':
        graph.confirmed(shard, message.check, message.holds, now);
        break;
      case 'hello':
        graph.forgetShard(shard, now);
        break;
      case 'ask':
        this.#coordinator.ask(shard, message.txn, message.client);
    }
    const { waits, kills } = graph.figures;
    this.#counters[CoordinatorCounter.Waiting] = waits;
    this.#counters[CoordinatorCounter.Deadlocks] = kills;
    // It may be parked beyond what is due now.
    this.#wake();
  }

  #post(shard: number, message: CoordinatorToShard): void {
    this.#ports.get(shard)?.postMessage(message);
  }

  #count(): void {
    const counters = this.#counters;
    const { decisions, aborts, fences, syncs, groups } = this.#coordinator.counts;
    counters[CoordinatorCounter.Decisions] = decisions;
    counters[CoordinatorCounter.Aborts] = aborts;
    counters[CoordinatorCounter.Fences] = fences;
    counters[CoordinatorCounter.Syncs] = syncs;
    counters[CoordinatorCounter.Groups] = groups;
    counters[CoordinatorCounter.LogBytes] = this.#log.sizeBytes;
    counters[CoordinatorCounter.Known] = this.#coordinator.known;
  }
}

/** Control calls of the host, answered between turns. */
export class CoordinatorControl {
  readonly #thread: CoordinatorThread;

  constructor(thread: CoordinatorThread) {
    this.#thread = thread;
  }

  attachClient(client: number, requests: SharedArrayBuffer, responses: SharedArrayBuffer): void {
    this.#thread.attachClient(client, requests, responses);
  }

  detachClient(client: number): Promise<void> {
    return this.#thread.detachClient(client);
  }

  attachShard(shard: number, port: MessagePort): void {
    this.#thread.attachShard(shard, port);
  }

  begin(): Promise<void> {
    return this.#thread.begin();
  }

  close(): Promise<void> {
    return this.#thread.close();
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

function post(event: CoordinatorEvent): void {
  parentPort!.postMessage(event);
}

function main(data: CoordinatorWorkerData): void {
  process.on('uncaughtException', (error) => {
    post({ event: 'died', error: toErrorRecord(error) });
    // Lets the message leave; the loop does not go on.
    setImmediate(() => process.exit(1));
  });
  const control = new ControlBlock(data.control);
  let log: DecisionLog;
  try {
    log = DecisionLog.open({
      env: new NodeEnv(),
      directory: data.directory,
      storeId: data.storeId,
      shards: control.shards,
      ...(data.recoveryMode === undefined ? {} : { recoveryMode: data.recoveryMode }),
    });
  } catch (error) {
    post({ event: 'open-failed', error: toErrorRecord(error) });
    setImmediate(() => process.exit(1));
    return;
  }
  const thread = new CoordinatorThread(data, log, control);
  exposeControl(new CoordinatorControl(thread), data.port);
  const { highestId, decided } = log.recovered;
  post({ event: 'ready', highestId, decided: decided.size, recovery: log.recovery });
}

main(workerData as CoordinatorWorkerData);
