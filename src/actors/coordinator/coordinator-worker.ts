/**
 * The thread of the coordinator: opens the decision log, drains the clients' rings into frames of decisions, carries them by the commit board, hears
 * what shards ask and wait for. What it decides and why is in engines/txn/coordinator.ts; here is when.
 *
 *   launched ─▶ log recovered: 'ready' ─▶ shards and clients attached ─▶ begin() ─▶ Running ─▶ drain() ─▶ close()
 *
 * It blocks and parks on its doorbell as shards do: at once where threads outnumber cores, else after a short look around. Clients ring when they have published,
 * shards when they have applied.
 * An exception here is a broken invariant: the thread dies, the host starts another one, which finds the log, the board and the rings.
 */
import { availableParallelism } from 'node:os';
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { toErrorRecord, type ErrorRecord } from '../../shared/errors.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import { DecisionLog } from '../../engines/txn/decision-log.js';
import type { WalRecovery, WalRecoveryMode } from '../../engines/wal/recovery.js';
import { ControlBlock, ShardState } from '../control-block.js';
import { exposeControl } from '../runtime/control-channel.js';
import { CoordinatorActor } from './coordinator-actor.js';
import { CoordinatorCounter } from './counters.js';
import type { ShardToCoordinator } from './messages.js';

export interface CoordinatorWorkerData {
  /** Of the decision log; undefined: the store keeps nothing on disk. */
  readonly directory: string | undefined;
  readonly storeId: Uint8Array;
  readonly control: SharedArrayBuffer;
  /** Of a store without a directory: fences outlive the thread there. */
  readonly fences: SharedArrayBuffer | undefined;
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
/** As of shards: for so long after some work the thread blocks where it stands. */
const BLOCK_MS = 1;
const PARK_MS_MAX = 1000;
/** While decisions are on their way to shards, one of which may die before it rings. */
const PARK_MS_BUSY = 50;
/** At its end it waits so long for shards to apply what was decided: the log has it. */
const CLOSE_MS_MAX = 5000;
const CORES = availableParallelism();

class CoordinatorThread {
  readonly #control: ControlBlock;
  readonly #log: DecisionLog;
  readonly #actor: CoordinatorActor;
  readonly #isRestart: boolean;
  readonly #counters: Float64Array;
  readonly #ports = new Map<number, MessagePort>();
  #parked = false;
  #lastWork = 0;
  #begun: (() => void) | undefined;
  #stopping: (() => void) | undefined;
  #stopBefore = Infinity;

  constructor(data: CoordinatorWorkerData, log: DecisionLog, control: ControlBlock) {
    this.#control = control;
    this.#log = log;
    this.#isRestart = data.isRestart;
    this.#counters = control.board.coordinatorCounters();
    this.#counters.fill(0);
    this.#actor = new CoordinatorActor(log, control, {
      isKept: data.directory !== undefined,
      isRestart: data.isRestart,
      post: (shard, message) => this.#ports.get(shard)?.postMessage(message),
    });
  }

  attachClient(client: number, requests: SharedArrayBuffer, responses: SharedArrayBuffer): void {
    this.#actor.attachClient(client, requests, responses);
    this.#wake();
  }

  detachClient(client: number): Promise<boolean> {
    const gone = this.#actor.detachClient(client);
    this.#wake();
    return gone;
  }

  /** A new thread of the shard, or a new one of the coordinator: what went over another port is over. */
  attachShard(shard: number, port: MessagePort): void {
    this.#ports.get(shard)?.close();
    this.#ports.set(shard, port);
    port.on('message', (message: ShardToCoordinator) => {
      this.#actor.hear(shard, message, performance.now());
      // It may be parked beyond what is due now.
      this.#wake();
    });
    port.once('close', () => {
      if (this.#ports.get(shard) !== port) return;
      this.#ports.delete(shard);
      this.#actor.forgetShard(shard, performance.now());
    });
  }

  /**
   * Every shard runs and every client is attached. Resolves when all that was decided before stands on the board, or did. In a process that has just begun: when
   * it is applied. Some shards had applied it in the life before, with a number of that life; a snapshot between that number and the new one would see it there
   * and not elsewhere. Nobody reads before the store is open, so nobody has such a snapshot.
   */
  async begin(): Promise<void> {
    this.#actor.coordinator.begin();
    this.#control.coordinatorState = ShardState.Running;
    const begun = new Promise<void>((resolve) => {
      this.#begun = resolve;
    });
    setImmediate(this.#run);
    await begun;
  }

  /** The clients are gone. Serves what the rings hold, and waits for the shards to apply it. */
  async drain(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#stopping = resolve;
      this.#stopBefore = performance.now() + CLOSE_MS_MAX;
      this.#wake();
    });
  }

  /** Behind drain(). `isSafe`: the shards have closed their logs. The thread ends afterwards. */
  close(isSafe: boolean): void {
    try {
      if (isSafe) this.#actor.coordinator.endApplied();
    } finally {
      this.#log.close();
      setImmediate(() => process.exit(0));
    }
  }

  readonly #run = (): void => {
    const bell = this.#control.coordinatorDoorbell;
    const started = performance.now();
    for (;;) {
      const worked = this.#actor.turn(performance.now());
      if (this.#begun !== undefined && this.#hasBegun) {
        this.#begun();
        this.#begun = undefined;
      }
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
          if (this.#actor.turn(now)) bell.lower();
          else if (now - this.#lastWork < BLOCK_MS) bell.parkSync(BLOCK_MS);
          else {
            this.#parked = true;
            void bell.parkAsync(this.#parkMs(now)).then(() => {
              this.#parked = false;
              this.#counters[CoordinatorCounter.Wakeups]!++;
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

  get #hasBegun(): boolean {
    return this.#actor.coordinator.offBoard === 0 && (this.#isRestart || this.#control.commits.isEmpty);
  }

  #parkMs(now: number): number {
    const max = this.#actor.isBusy ? PARK_MS_BUSY : PARK_MS_MAX;
    return Math.max(1, Math.min(max, this.#actor.dueMs - now));
  }

  #mayStop(now: number): boolean {
    return now > this.#stopBefore || (!this.#actor.hasRequests && !this.#actor.isBusy);
  }

  /** Something arrived outside the rings. */
  #wake(): void {
    if (this.#parked) this.#control.coordinatorDoorbell.unpark();
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

  detachClient(client: number): Promise<boolean> {
    return this.#thread.detachClient(client);
  }

  attachShard(shard: number, port: MessagePort): void {
    this.#thread.attachShard(shard, port);
  }

  begin(): Promise<void> {
    return this.#thread.begin();
  }

  drain(): Promise<void> {
    return this.#thread.drain();
  }

  close(isSafe: boolean): void {
    this.#thread.close(isSafe);
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
      fences: data.fences,
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
