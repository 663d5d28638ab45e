/**
 * A store in one thread, driven by one seed: real shards, a real coordinator with its log, and real commits of clients, on a disk in memory. Every step of every
 * thread, every message, every fault and the clock are drawn from the seed, so a seed is a history that can be had again.
 *
 *   clients ── calls, answers ──▶ rings ──▶ shards ◀── commit board ── coordinator ◀── rings ◀── calls, answers ── clients
 *          (delayed, reordered,                 └── asks, outcomes, waits, kills: delayed, reordered, doubled ──┘
 *           doubled, lost and sent again)
 *
 * Rings are reliable and in order; what is between a client and its rings here is not. A call that was answered is not delivered again: the copy of a call that
 * comes after its answer is what a transport drops. Calls that may be doubled are those the protocol may repeat (votes, decisions, releases).
 *
 * Faults: a thread ends at any point (threads.ts), a client ends, the process ends (what was written is there), the power fails (what was not synced may not be),
 * the disk fills up, a sync fails, time jumps.
 */
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import {
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationExtension,
  writeOperationHeader,
} from '../../../dist/engines/operation.js';
import { SHARD_READER_SLOT } from '../../../dist/engines/reader-slots.js';
import { ShardStore } from '../../../dist/engines/store/shard-store.js';
import { Isolation, TransactionBodyWriter } from '../../../dist/engines/txn/body.js';
import { DecisionLog } from '../../../dist/engines/txn/decision-log.js';
import { commitBoardBytes } from '../../../dist/actors/commit-board.js';
import { ControlBlock, MAX_SNAPSHOTS, ShardState } from '../../../dist/actors/control-block.js';
import { CoordinatorActor } from '../../../dist/actors/coordinator/coordinator-actor.js';
import type { CoordinatorToShard, ShardToCoordinator } from '../../../dist/actors/coordinator/messages.js';
import type { Caller } from '../../../dist/actors/client/caller.js';
import { ShardLink, newRequest } from '../../../dist/actors/client/shard-link.js';
import {
  REQUEST_HEADER_BYTES,
  RequestType,
  encodeLockCall,
  type LockCall,
} from '../../../dist/actors/shard/request.js';
import { Shard } from '../../../dist/actors/shard/shard.js';
import type { TransactionSettings } from '../../../dist/actors/shard/transactions.js';
import type { CommitPort } from '../../../dist/actors/transaction/commit.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv, type CrashPolicy } from '../../../dist/shared/env/mem-env.js';
import { hashBytes } from '../../../dist/shared/hash.js';
import { ArenaReader, createArena, type ArenaLayout } from '../../../dist/shared/memory/arena.js';
import { createRing } from '../../../dist/shared/memory/ring.js';
import { Random } from '../../../dist/shared/random.js';
import { SimClock } from './clock.js';
import { plantIn, type Plant } from './plants.js';
import { Killed, ProcessKilled, SimThread, ThreadEnv, instrument } from './threads.js';

export const STORE_ID = new Uint8Array(16).fill(7);
const ROOT = '/store';
const MEMORY_BYTES = 512 << 10;
const ARENA_HEAD_BYTES = 4096;
const SEGMENT_BYTES = 64 << 10;
const RING_BYTES = 8 << 10;
/** Of a reader that is nobody's client. */
const PROBE_SLOT = 200;
const NEST_DEPTH_MAX = 2;
const BLOCKED_MAX = 50_000;
const RESTART_MS_MAX = 150;
const RETRANSMIT_MS = 400;
export const START_BALANCE = 100;

export type Loss = 'process' | 'power';

export interface SimulationOptions {
  readonly seed: number;
  /** What the end of the process leaves: all that was written, or what was synced. */
  readonly loss: Loss;
  readonly plant?: Plant | undefined;
  /** Told what happens. */
  readonly trace?: ((line: string) => void) | undefined;
  /** Called whenever the process stands, and after each turn of it. */
  readonly follow?: ((world: World, client: SimClient) => void) | undefined;
}

/** A reader that must not wait would have to. */
class WouldBlock extends Error {}

interface Mail {
  readonly dueMs: number;
  /** False: not yet. */
  readonly deliver: () => boolean | void;
}

export interface Rings {
  readonly requests: SharedArrayBuffer;
  readonly responses: SharedArrayBuffer;
}

interface PortEnd {
  handler: ((message: CoordinatorToShard) => void) | undefined;
  isHelloHeard: boolean;
}

/** One life of a shard's thread. */
export interface ShardLife {
  readonly thread: SimThread;
  readonly shard: Shard;
  readonly control: ControlBlock;
  /** Has no clients yet: what was decided on its predecessor's word has no number yet. */
  isTakingOver: boolean;
}

/** One life of the coordinator's thread. */
export interface CoordinatorLife {
  readonly thread: SimThread;
  readonly actor: CoordinatorActor;
  readonly log: DecisionLog;
  readonly control: ControlBlock;
  readonly ports: (PortEnd | undefined)[];
  isBegun: boolean;
}

/** Between a client and one of its rings: a call that may be told several times, and is answered once. */
interface Call {
  isAnswered: boolean;
  /** The answer is on its way. */
  isDone: boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export interface Versioned {
  readonly value: string | undefined;
  readonly seq: number;
}

export interface Probabilities {
  readonly killThread: number;
  readonly killProcess: number;
  readonly nest: number;
  readonly probe: number;
  readonly lose: number;
  readonly double: number;
  readonly delayMs: number;
}

const RESTLESS: Partial<Probabilities> = { killThread: 0.01, killProcess: 0, lose: 0, delayMs: 200 };

export class SimClient {
  isDead = false;
  /** The coordinator, then the shards forget it. Gone: its slot is kept for what it has prepared. */
  leaving: 'coordinator' | 'shards' | 'gone' | undefined;
  askedToLeave: object | undefined;
  /** As the coordinator said of what it has prepared: nothing of it will be decided. */
  isSettled = true;
  readonly left = new Set<number>();
  readonly released = new Set<number>();
  readonly control: ControlBlock;
  readonly arenas: readonly ArenaReader[];
  readonly trees: readonly BTreeReader[];
  readonly links: readonly ShardLink[];
  readonly coordinatorLink: ShardLink;
  running = 0;

  constructor(
    readonly slot: number,
    readonly rings: readonly Rings[],
    readonly coordinatorRings: Rings,
    sab: SharedArrayBuffer,
    layouts: readonly ArenaLayout[],
  ) {
    this.control = new ControlBlock(sab);
    this.arenas = layouts.map((layout) => new ArenaReader(layout));
    this.trees = this.arenas.map((arena) => new BTreeReader(arena, 0, 0, slot));
    const nothing = (): void => undefined;
    this.links = rings.map(
      ({ requests, responses }, shard) => new ShardLink(shard, slot, requests, responses, nothing),
    );
    this.coordinatorLink = new ShardLink(-1, slot, coordinatorRings.requests, coordinatorRings.responses, nothing);
  }

  find(shard: number, key: Uint8Array, atSeq: number): Versioned {
    const arena = this.arenas[shard]!;
    const tree = this.trees[shard]!;
    const unit = arena.pin(this.slot);
    try {
      if (!tree.find(unit, key, key.length, atSeq, 0)) return { value: undefined, seq: 0 };
      return { value: tree.valueUtf8(), seq: tree.seq };
    } finally {
      arena.unpin(this.slot);
    }
  }
}

export class World {
  readonly clock = new SimClock();
  readonly random: Random;
  readonly options: SimulationOptions;
  readonly shards: number;
  readonly probabilities: Probabilities;
  readonly settings: TransactionSettings;
  disk: MemEnv;
  env: FaultEnv;
  /** Of this life of the process. */
  control!: ControlBlock;
  arenas: ArenaLayout[] = [];
  lives: (ShardLife | undefined)[] = [];
  coordinator: CoordinatorLife | undefined;
  readonly clients = new Map<number, SimClient>();
  processes = 0;
  isProcessDead = false;
  /** No faults any more. */
  isCalm = false;
  /** Looks at the store in the middle of others' steps. */
  onProbe: ((client: SimClient) => void) | undefined;
  #probe!: SimClient;
  #mail: Mail[] = [];
  #restarts: { readonly dueMs: number; readonly run: () => boolean }[] = [];
  #depth = 0;
  #blocked = 0;
  #isProbing = false;
  #isOpening = false;
  #isCreated = false;
  #timerNumber = 0;
  readonly counts = {
    threadKills: 0,
    processKills: 0,
    clientKills: 0,
    probes: 0,
    lost: 0,
    doubled: 0,
    steps: 0,
    diskFaults: 0,
  };

  constructor(options: SimulationOptions) {
    this.options = options;
    const random = new Random(options.seed);
    this.random = random;
    this.shards = 2 + random.below(3);
    this.settings = {
      deadlock: random.pick(['detect', 'detect', 'wait-die', 'wound-wait']),
      bodyBytesMax: 1 << 16,
      lockTimeoutMs: 3000,
    };
    const kills = random.pick([0, 0.001, 0.004, 0.02]);
    this.probabilities = {
      killThread: kills,
      killProcess: random.pick([0, 0, 0.0005, 0.002]),
      nest: random.pick([0, 0.1, 0.3]),
      probe: random.pick([0, 0.05, 0.2]),
      lose: random.pick([0, 0.05, 0.2]),
      double: random.pick([0, 0.05, 0.3]),
      delayMs: random.pick([0, 2, 20, 200]),
    };
    // Rare otherwise: a shard must end between two of a few messages.
    if (options.plant === 'lost votes are not noticed') Object.assign(this.probabilities, RESTLESS);
    this.disk = new MemEnv({ seed: options.seed });
    this.env = new FaultEnv(this.disk);
  }

  trace(text: string): void {
    this.options.trace?.(`${this.clock.nowMs.toFixed(1).padStart(9)} ${'  '.repeat(this.#depth)}${text}`);
  }

  // ---- threads ------------------------------------------------------------------------------------------------------------------------------

  readonly #point = (thread: SimThread, what: string): void => {
    if (thread.isDead) throw new Killed(thread);
    if (this.isProcessDead) throw new ProcessKilled();
    if (this.isCalm || this.#isProbing || !this.#isCreated) return;
    const { random, probabilities: p } = this;
    let draw = random.nextFloat();
    if ((draw -= p.killProcess) < 0) {
      this.trace(`the process ends: ${thread.name} before ${what}`);
      this.#endProcess();
      throw new ProcessKilled();
    }
    if (this.#isOpening) return;
    if ((draw -= p.killThread) < 0) {
      this.trace(`${thread.name} ends before ${what}`);
      thread.isDead = true;
      throw new Killed(thread);
    }
    if ((draw -= p.probe) < 0) this.#runProbe();
    else if (draw - p.nest < 0 && this.#depth < NEST_DEPTH_MAX && !isUnderClaim(what)) this.stepSome();
  };

  #endProcess(): void {
    this.isProcessDead = true;
    this.counts.processKills++;
    for (const life of this.lives) if (life !== undefined) life.thread.isDead = true;
    if (this.coordinator !== undefined) this.coordinator.thread.isDead = true;
  }

  endProcess(): void {
    this.trace('the process ends');
    this.#endProcess();
  }

  #runProbe(): void {
    if (this.onProbe === undefined) return;
    this.#isProbing = true;
    this.counts.probes++;
    try {
      this.onProbe(this.#probe);
    } catch (error) {
      if (!(error instanceof WouldBlock)) throw error;
    } finally {
      this.#isProbing = false;
      this.control.closeSnapshotsOf(PROBE_SLOT);
    }
  }

  /** A thread would wait: others run. @throws WouldBlock, ProcessKilled */
  readonly blocked = (): void => {
    if (this.isProcessDead) throw new ProcessKilled();
    if (this.#isProbing) throw new WouldBlock();
    if (++this.#blocked > BLOCKED_MAX) throw new Error('a thread is blocked for ever');
    this.clock.nowMs += 0.5;
    this.supervise();
    this.stepSome();
  };

  #run(thread: SimThread, step: () => void): void {
    if (thread.isDead || thread.isBusy) return;
    thread.isBusy = true;
    this.#depth++;
    try {
      step();
    } catch (error) {
      if (error instanceof ProcessKilled || this.isProcessDead) throw new ProcessKilled();
      // What it threw may have been wrapped on the way.
      if (!thread.isDead) throw error;
    } finally {
      thread.isBusy = false;
      this.#depth--;
    }
    if (thread.isDead) this.#threadEnded(thread);
  }

  killThread(thread: SimThread): void {
    if (thread.isDead || thread.isBusy) return;
    this.trace(`${thread.name} ends`);
    thread.isDead = true;
    this.#threadEnded(thread);
  }

  /** What the host does. */
  #threadEnded(thread: SimThread): void {
    this.counts.threadKills++;
    const dueMs = this.clock.nowMs + this.random.below(RESTART_MS_MAX);
    if (this.coordinator?.thread === thread) {
      this.coordinator = undefined;
      this.control.coordinatorState = ShardState.Restarting;
      // As the supervisor does: a shard that waits for what is about to be appended cannot be talked to.
      this.control.commits.unclaim();
      this.control.countCoordinatorRestart();
      this.#restarts.push({ dueMs, run: () => this.#openCoordinator(true) });
      return;
    }
    const index = this.lives.findIndex((life) => life?.thread === thread);
    if (index < 0) return;
    // Its log may hold what was never applied: only an opening from the disk knows what to do with that.
    if (this.control.shardState(index) === ShardState.ReadOnly) this.endProcess();
    else this.#restartShard(index, dueMs);
  }

  #restartShard(index: number, dueMs: number): void {
    this.lives[index] = undefined;
    const { coordinator } = this;
    const end = coordinator?.ports[index];
    if (end !== undefined) {
      coordinator!.ports[index] = undefined;
      this.post(() => {
        if (coordinator === this.coordinator && coordinator!.ports[index] === undefined)
          coordinator!.actor.forgetShard(index, performance.now());
      });
    }
    this.control.setShardState(index, ShardState.Restarting);
    this.control.countRestart(index);
    this.#restarts.push({
      dueMs,
      run: () => {
        const thread = new SimThread(`shard ${index}`);
        this.#run(thread, () => {
          this.#openShard(index, thread, true);
        });
        // It ended before it began, or there was no room for what it needs.
        if (this.lives[index] === undefined && !this.isProcessDead)
          this.#restartShard(index, this.clock.nowMs + RESTART_MS_MAX);
        return true;
      },
    });
  }

  /** Threads that are to be started again, ports that are to be connected, clients that leave. */
  supervise(): void {
    const due = this.#restarts.filter(({ dueMs }) => dueMs <= this.clock.nowMs);
    for (const restart of due) {
      const at = this.#restarts.indexOf(restart);
      if (at < 0) continue;
      this.#restarts.splice(at, 1);
      if (!restart.run()) this.#restarts.push({ dueMs: this.clock.nowMs + 1, run: restart.run });
    }
    this.#connect();
    for (const client of this.clients.values()) if (client.leaving !== undefined) this.#leave(client);
  }

  // ---- shards -------------------------------------------------------------------------------------------------------------------------------

  directoryOf(shard: number): string {
    return `${ROOT}/shard-${shard}`;
  }

  #controlOf(thread: SimThread): ControlBlock {
    const control = new ControlBlock(this.control.sab);
    const point = (what: string): void => {
      this.#point(thread, what);
    };
    instrument(
      control,
      ['takeSequences', 'beginApplying', 'endGroup', 'setDecisionsNeededFrom', 'takeCommitNumber'],
      point,
    );
    instrument(control.commits, ['waitForClaim', 'setApplied', 'claim', 'append', 'unclaim', 'collect'], point);
    return control;
  }

  #openShard(index: number, thread: SimThread, adopt: boolean): void {
    const arena = this.arenas[index]!;
    const control = this.#controlOf(thread);
    const directory = this.directoryOf(index);
    const env = new ThreadEnv(this.env, thread, this.#point);
    let store: ShardStore;
    try {
      if (adopt) ArenaReader.clearSlot(arena, SHARD_READER_SLOT);
      // What a dead one was applying goes on until this one tells what is published: nobody who waits for that may go on before.
      if (!control.isApplying(index)) control.beginApplying(index);
      const sequences = new Float64Array(MAX_SNAPSHOTS);
      const count = adopt ? control.readSnapshots(sequences, control.published(index)) : 0;
      store = ShardStore.open({
        env,
        directory,
        storeId: STORE_ID,
        shard: index,
        arena,
        adopt,
        snapshots: adopt ? { sequences, count } : undefined,
        isNew: !this.#isCreated,
        segmentBytes: SEGMENT_BYTES,
      });
    } catch (error) {
      if (adopt && !thread.isDead && error instanceof ConcordError && error.code !== 'ERR_INTERNAL') {
        this.trace(`${thread.name}: ${error.code} when it was opened`);
        this.env.removeAllRules();
        return;
      }
      throw error;
    }
    plantIn('store', this.options.plant, store);
    plantIn('shard control', this.options.plant, control, index);
    const shard = new Shard(index, store, control, undefined, this.settings);
    plantIn('shard', this.options.plant, shard);
    control.setShardState(index, ShardState.Running);
    const life = { thread, shard, control, isTakingOver: adopt };
    this.lives[index] = life;
    this.trace(`${thread.name} is up, prepared: ${store.recovery.prepared.join(' ')}`);
    if (!adopt) return;
    const { commits } = control;
    const { round } = commits;
    this.#restarts.push({
      dueMs: this.clock.nowMs,
      run: () => {
        if (this.lives[index] !== life) return true;
        if (thread.isBusy || !commits.isRoundOver(round)) return false;
        life.isTakingOver = false;
        this.#run(thread, () => {
          for (const { slot, rings, leaving } of this.clients.values())
            if (leaving === undefined) shard.attach(slot, rings[index]!.requests, rings[index]!.responses);
        });
        return true;
      },
    });
  }

  stepShard(index: number): void {
    const life = this.lives[index];
    if (life === undefined) return;
    this.#run(life.thread, () => {
      const { shard } = life;
      shard.step();
      const nowMs = Date.now();
      if (nowMs >= shard.transactions.tickDueAtMs || this.random.chance(0.02)) shard.background(nowMs);
      if (this.random.chance(0.05)) shard.idle();
    });
  }

  // ---- the coordinator ----------------------------------------------------------------------------------------------------------------------

  /** False: it could not be opened now. */
  #openCoordinator(isRestart: boolean): boolean {
    const thread = new SimThread('coordinator');
    this.#run(thread, () => {
      const control = this.#controlOf(thread);
      let log: DecisionLog;
      try {
        log = DecisionLog.open({
          env: new ThreadEnv(this.env, thread, this.#point),
          directory: `${ROOT}/coordinator`,
          storeId: STORE_ID,
          shards: this.shards,
          segmentBytes: SEGMENT_BYTES,
        });
      } catch (error) {
        if (!isRestart || thread.isDead || !(error instanceof ConcordError) || error.code === 'ERR_INTERNAL')
          throw error;
        this.trace(`${thread.name}: ${error.code} when it was opened`);
        this.env.removeAllRules();
        return;
      }
      plantIn('log', this.options.plant, log);
      plantIn('coordinator control', this.options.plant, control);
      const ports: (PortEnd | undefined)[] = [];
      const actor = new CoordinatorActor(log, control, {
        isKept: true,
        isRestart,
        post: (shard, message) => {
          const end = ports[shard];
          if (end === undefined) return;
          this.trace(`coordinator → shard ${shard}: ${JSON.stringify(message)}`);
          this.#send(message.type !== 'kill', () => {
            if (ports[shard] !== end || this.coordinator?.actor !== actor) return true;
            const life = this.lives[shard];
            if (life === undefined || life.thread.isBusy) return life === undefined;
            this.#run(life.thread, () => end.handler?.(message));
            return true;
          });
        },
      });
      plantIn('coordinator', this.options.plant, actor.coordinator);
      this.coordinator = { thread, actor, log, control, ports, isBegun: false };
      for (const {
        slot,
        coordinatorRings: { requests, responses },
        leaving,
      } of this.clients.values()) {
        if (leaving === undefined || leaving === 'coordinator') actor.attachClient(slot, requests, responses);
      }
      this.trace(`${thread.name} is up, decided: ${[...log.recovered.decided.keys()].join(' ')}`);
    });
    if (this.coordinator?.thread === thread) return true;
    // It ended before it began.
    return this.isProcessDead;
  }

  /** Ports between the coordinator and shards that have none; when all are there, the coordinator begins. */
  #connect(): void {
    const { coordinator } = this;
    if (coordinator === undefined || coordinator.thread.isBusy) return;
    let isWhole = true;
    for (let index = 0; index < this.shards; index++) {
      if (coordinator.ports[index] !== undefined) continue;
      const life = this.lives[index];
      if (life === undefined) continue;
      if (life.thread.isBusy) {
        isWhole = false;
        continue;
      }
      const end: PortEnd = { handler: undefined, isHelloHeard: false };
      coordinator.ports[index] = end;
      const port = {
        on: (_event: string, handler: (message: CoordinatorToShard) => void) => (end.handler = handler),
        close: () => undefined,
        postMessage: (message: ShardToCoordinator) => {
          this.trace(`shard ${index} → coordinator: ${JSON.stringify(message)}`);
          const mayBeLost = message.type === 'ask' || message.type === 'confirmed';
          const isHello = message.type === 'hello';
          this.#send(
            mayBeLost,
            () => {
              if (coordinator.ports[index] !== end || this.coordinator !== coordinator) return true;
              if (coordinator.thread.isBusy || (!end.isHelloHeard && !isHello)) return false;
              end.isHelloHeard = true;
              this.#run(coordinator.thread, () => {
                coordinator.actor.hear(index, message, performance.now());
              });
              return true;
            },
            !isHello,
          );
        },
      };
      this.#run(life.thread, () => {
        life.shard.transactions.attachCoordinator(port as never, () => undefined);
      });
    }
    if (!isWhole || coordinator.isBegun || coordinator.thread.isDead) return;
    coordinator.isBegun = true;
    this.#run(coordinator.thread, () => {
      coordinator.actor.coordinator.begin();
      coordinator.control.coordinatorState = ShardState.Running;
    });
  }

  stepCoordinator(): void {
    const { coordinator } = this;
    if (coordinator?.isBegun !== true) return;
    this.#run(coordinator.thread, () => {
      coordinator.actor.turn(performance.now());
    });
  }

  /** Nobody is blocked now. */
  unblocked(): void {
    this.#blocked = 0;
  }

  /** Some thread that can go on does. */
  stepSome(): void {
    this.counts.steps++;
    const which = this.random.below(this.shards + 1);
    if (which === this.shards) this.stepCoordinator();
    else this.stepShard(which);
  }

  // ---- the process --------------------------------------------------------------------------------------------------------------------------

  /** The first life, or another one on what the last has left. @throws ProcessKilled */
  openProcess(): void {
    this.processes++;
    this.isProcessDead = false;
    this.#mail = [];
    this.#restarts = [];
    this.clients.clear();
    this.coordinator = undefined;
    this.lives = new Array<ShardLife | undefined>(this.shards);
    this.control = freshControl(this.shards);
    this.arenas = this.lives.map(() => undefined as never);
    for (let index = 0; index < this.shards; index++) this.arenas[index] = freshArena(index);
    this.#probe = new SimClient(PROBE_SLOT, [], emptyRings(), this.control.sab, this.arenas);
    plantIn('client control', this.options.plant, this.#probe.control);
    this.#isOpening = true;
    try {
      let highest = 0;
      if (!this.env.exists(ROOT)) {
        this.env.makeDirectory(ROOT);
        this.env.syncDirectory('/');
      }
      for (let index = 0; index < this.shards; index++) {
        this.#openShard(index, new SimThread(`shard ${index}`), false);
        highest = Math.max(highest, this.control.published(index), ...this.lives[index]!.shard.store.recovery.prepared);
      }
      this.#openCoordinator(false);
      this.control.nextSequence = Math.max(highest, this.coordinator!.log.recovered.highestId) + 1;
      this.#connect();
      // As the coordinator's thread: nobody reads before what was decided in an earlier life is applied.
      for (let steps = 0; this.coordinator!.actor.coordinator.offBoard > 0 || !this.control.commits.isEmpty; steps++) {
        if (steps > BLOCKED_MAX) throw new Error('what was decided is never applied');
        this.clock.nowMs += 0.5;
        this.stepSome();
      }
      if (!this.#isCreated) this.env.syncDirectory(ROOT);
      this.#isCreated = true;
    } finally {
      this.#isOpening = false;
    }
  }

  /** What the disk keeps of a process that has ended. */
  crash(): void {
    const { random } = this;
    const policies: readonly CrashPolicy[] = [
      'drop-all',
      'random',
      { data: 'random', names: 'arbitrary' },
      { data: 'sectors', names: 'ordered' },
      'keep-all',
    ];
    const policy = this.options.loss === 'process' ? 'keep-all' : random.pick(policies);
    this.trace(`the disk keeps: ${JSON.stringify(policy)}`);
    this.disk = this.disk.crash(random, policy);
    this.env = new FaultEnv(this.disk);
  }

  // ---- messages -----------------------------------------------------------------------------------------------------------------------------

  /** Runs later, in no certain order. */
  post(deliver: () => boolean | void, inMs = 0): void {
    this.#mail.push({ dueMs: this.clock.nowMs + inMs, deliver });
  }

  /** The same for a message between threads. False of `deliver`: not yet. */
  #send(mayBeLost: boolean, deliver: () => boolean | void, mayBeDoubled = true): void {
    const { random, probabilities: p } = this;
    if (!this.isCalm && mayBeLost && random.chance(p.lose)) {
      this.counts.lost++;
      return;
    }
    this.post(deliver, this.#delay());
    if (this.isCalm || !mayBeDoubled || !random.chance(p.double)) return;
    this.counts.doubled++;
    this.post(deliver, this.#delay());
  }

  #delay(): number {
    const { delayMs } = this.probabilities;
    return this.isCalm || delayMs === 0 ? 0 : this.random.nextFloat() * delayMs;
  }

  get hasMail(): boolean {
    return this.#mail.length > 0;
  }

  get isRestarting(): boolean {
    return this.#restarts.length > 0;
  }

  /** Delivers a message that is due, if there is one. */
  deliverOne(): boolean {
    const mail = this.#mail;
    const { nowMs } = this.clock;
    let due = 0;
    for (const { dueMs } of mail) if (dueMs <= nowMs) due++;
    if (due === 0) return false;
    let pick = this.random.below(due);
    const at = mail.findIndex(({ dueMs }) => dueMs <= nowMs && pick-- === 0);
    const [message] = mail.splice(at, 1);
    if (message!.deliver() === false) mail.push({ dueMs: nowMs + 1, deliver: message!.deliver });
    return true;
  }

  sleep(client: SimClient, ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.post(() => {
        if (!client.isDead) resolve();
      }, ms);
    });
  }

  // ---- clients ------------------------------------------------------------------------------------------------------------------------------

  addClient(slot: number): SimClient {
    const rings = this.arenas.map(() => ({ requests: createRing(RING_BYTES), responses: createRing(RING_BYTES) }));
    const client = new SimClient(slot, rings, emptyRings(), this.control.sab, this.arenas);
    plantIn('client control', this.options.plant, client.control);
    this.clients.set(slot, client);
    this.control.addClients(1);
    const { requests, responses } = client.coordinatorRings;
    this.coordinator?.actor.attachClient(slot, requests, responses);
    this.lives.forEach((life, shard) => {
      if (life?.isTakingOver === false) life.shard.attach(slot, rings[shard]!.requests, rings[shard]!.responses);
    });
    return client;
  }

  /** Publishes what it has written into its rings, and hears what became of it. */
  stepClient(client: SimClient): void {
    if (client.isDead) return;
    for (const link of client.links) {
      link.publish();
      link.settle();
    }
    client.coordinatorLink.publish();
    client.coordinatorLink.settle();
  }

  killClient(client: SimClient): void {
    if (client.isDead) return;
    this.trace(`client ${client.slot} ends`);
    this.counts.clientKills++;
    this.detachClient(client);
  }

  /** As the host does: what it had published is served. */
  detachClient(client: SimClient): void {
    client.isDead = true;
    client.leaving = 'coordinator';
    this.control.addClients(-1);
    for (const arena of this.arenas) ArenaReader.clearSlot(arena, client.slot);
    this.control.closeSnapshotsOf(client.slot);
  }

  #leave(client: SimClient): void {
    if (client.leaving === 'gone') return;
    if (client.leaving === 'coordinator') {
      const { coordinator } = this;
      if (coordinator?.isBegun !== true || client.askedToLeave === coordinator) return;
      client.askedToLeave = coordinator;
      void coordinator.actor.detachClient(client.slot).then((isSettled) => {
        client.isSettled = isSettled;
        if (this.clients.get(client.slot) === client && client.leaving === 'coordinator') client.leaving = 'shards';
      });
      return;
    }
    for (let index = 0; index < this.shards; index++) {
      if (client.left.has(index)) continue;
      const life = this.lives[index];
      // One that is down is not given the client again.
      if (life === undefined) client.left.add(index);
      else if (!life.thread.isBusy && client.askedToLeave !== life) {
        this.#run(life.thread, () => {
          void life.shard.detach(client.slot, client.isSettled).then(() => client.left.add(index));
        });
      }
    }
    if (client.left.size < this.shards) return;
    if (!client.isSettled && client.released.size === 0) {
      if (this.lives.some((life) => life?.thread.isBusy)) return;
      client.isSettled = this.lives.every((life) => life?.shard.hasPrepared(client.slot) === false);
    }
    for (let index = 0; index < this.shards; index++) {
      if (client.released.has(index)) continue;
      const life = this.lives[index];
      if (life === undefined) client.released.add(index);
      else if (!life.thread.isBusy) {
        this.#run(life.thread, () => {
          life.shard.release(client.slot, client.isSettled);
          client.released.add(index);
        });
      }
    }
    if (client.released.size < this.shards) return;
    if (client.isSettled) this.clients.delete(client.slot);
    else client.leaving = 'gone';
  }

  /** `mayRepeat`: the call may be lost and told again, and doubled. `isOnce`: until it has an answer, which is not lost. */
  #call(client: SimClient, mayRepeat: boolean, tell: () => Promise<unknown>, isOnce = false): Promise<void> {
    return new Promise((resolve, reject) => {
      const call: Call = { isAnswered: false, isDone: false, resolve, reject };
      const answer = (error: unknown): void => {
        call.isDone = true;
        this.#send(
          mayRepeat && !isOnce,
          () => {
            if (call.isAnswered || client.isDead) return;
            call.isAnswered = true;
            if (error === undefined) resolve();
            else reject(error as Error);
          },
          mayRepeat,
        );
      };
      const deliver = (): void => {
        if (call.isAnswered || client.isDead || (isOnce && call.isDone)) return;
        tell().then(() => {
          answer(undefined);
        }, answer);
      };
      const send = (): void => {
        if (call.isAnswered || client.isDead) return;
        this.#send(mayRepeat, deliver, mayRepeat);
        if (mayRepeat) this.post(send, RETRANSMIT_MS + this.#timerNumber++ * 1e-6);
      };
      send();
    });
  }

  #submit(link: ShardLink, request: Buffer): Promise<unknown> {
    const at = link.reserve(request.length - REQUEST_HEADER_BYTES);
    if (at < 0) return link.enqueue(request, undefined);
    link.requests.bytes.set(request, at);
    const sent = link.submit();
    link.publish();
    return sent;
  }

  portOf(client: SimClient): CommitPort<TransactionBodyWriter> & {
    lock(shard: number, call: LockCall): Promise<void>;
    restarts(shard: number): number;
  } {
    const { plant } = this.options;
    const requestOf = (body: TransactionBodyWriter, type: number, level: number): Buffer => {
      const request = newRequest(body.length, level, 0, 0, 0, type);
      request.set(body.bytes.subarray(0, body.length), REQUEST_HEADER_BYTES);
      return request;
    };
    const tell = (caller: Caller, answer: Promise<void>): void => {
      answer.then(
        () => {
          caller.answered(true);
        },
        (error: unknown) => {
          caller.failed(error as Error);
        },
      );
    };
    return {
      restarts: (shard) => this.control.shardRestarts(shard),
      commitOne: (shard, body, level, caller) => {
        const request = requestOf(body, RequestType.Transaction, level);
        tell(
          caller,
          this.#call(client, false, () => this.#submit(client.links[shard]!, request)),
        );
      },
      prepare: (shard, body, level, caller) => {
        const request = requestOf(body, RequestType.Prepare, plant === 'votes are not synced' ? 1 : level);
        tell(
          caller,
          this.#call(client, true, () => this.#submit(client.links[shard]!, request)),
        );
      },
      decide: (txn, maskLow, maskHigh, level, voteEpoch, caller) => {
        const request = newRequest(24, level, 0, 0, 0, RequestType.Decide);
        request.writeDoubleLE(txn, REQUEST_HEADER_BYTES);
        request.writeInt32LE(maskLow | 0, REQUEST_HEADER_BYTES + 8);
        request.writeInt32LE(maskHigh | 0, REQUEST_HEADER_BYTES + 12);
        request.writeDoubleLE(voteEpoch, REQUEST_HEADER_BYTES + 16);
        // Once it is answered the coordinator may forget it.
        tell(
          caller,
          this.#call(client, true, () => this.#submit(client.coordinatorLink, request), true),
        );
      },
      release: (shard, txn) => {
        const request = newRequest(0, 0, 0, 0, txn, RequestType.Release);
        this.#send(false, () => {
          if (!client.isDead) this.#submit(client.links[shard]!, request).catch(() => undefined);
        });
      },
      lock: (shard, call) => {
        const body = encodeLockCall(call);
        const request = newRequest(body.length, 0, 0, 0, 0, RequestType.Lock);
        request.set(body, REQUEST_HEADER_BYTES);
        return this.#call(client, false, () => this.#submit(client.links[shard]!, request));
      },
    };
  }

  /** A plain write. `expiresAt` 0: it stays. */
  put(client: SimClient, shard: number, key: Uint8Array, value: string, level: number, expiresAt = 0): Promise<void> {
    const bytes = Buffer.from(value);
    const hash = hashBytes(key, 0, key.length);
    const extension = expiresAt === 0 ? 0 : OPERATION_EXTENSION_BYTES;
    const flags = expiresAt === 0 ? 0 : OPERATION_EXTENDED;
    const request = newRequest(operationBytes(key.length, bytes.length, extension), level, 0, hash, 0);
    writeOperationHeader(request, REQUEST_HEADER_BYTES, OperationKind.Put, flags, key.length, bytes.length);
    const keyAt = REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES + extension;
    if (expiresAt !== 0) writeOperationExtension(request, REQUEST_HEADER_BYTES, 0, expiresAt);
    request.set(key, keyAt);
    request.set(bytes, keyAt + key.length);
    return this.#call(client, false, () => this.#submit(client.links[shard]!, request));
  }
}

/** The coordinator is between its claim and its end: a shard would wait for it. */
function isUnderClaim(what: string): boolean {
  return what === 'append' || what === 'unclaim' || what === 'takeCommitNumber';
}

/**
 * All but a few parts of a control block are counters for people, and 20 MB: one is used again and again, with what threads go by as it was at first. Only one
 * process is alive at a time.
 */
const blocks = new Map<number, { readonly control: ControlBlock; readonly head: Uint8Array }>();
const HEAD_BYTES = 128 << 10;

function freshControl(shards: number): ControlBlock {
  const block = blocks.get(shards);
  if (block === undefined) {
    const control = ControlBlock.create(shards);
    blocks.set(shards, { control, head: new Uint8Array(control.sab, 0, HEAD_BYTES).slice() });
    return control;
  }
  const { sab } = block.control;
  new Uint8Array(sab, 0, HEAD_BYTES).set(block.head);
  new Uint8Array(sab, sab.byteLength - commitBoardBytes(shards)).fill(0);
  return new ControlBlock(sab);
}

const arenas = new Map<number, { readonly layout: ArenaLayout; readonly head: Uint8Array }>();

function freshArena(index: number): ArenaLayout {
  const arena = arenas.get(index);
  if (arena === undefined) {
    const layout = createArena({ memoryBytes: MEMORY_BYTES });
    arenas.set(index, { layout, head: new Uint8Array(layout.segments[0]!, 0, ARENA_HEAD_BYTES).slice() });
    return layout;
  }
  const { layout, head } = arena;
  const bytes = new Uint8Array(layout.segments[0]!);
  bytes.fill(0);
  bytes.set(head);
  new Uint8Array(layout.latch).fill(0);
  return layout;
}

function emptyRings(): Rings {
  return { requests: createRing(RING_BYTES), responses: createRing(RING_BYTES) };
}

export { Isolation };
