/**
 * The coordinator's thread dies at any file operation and at any store into shared memory, over and over; a successor finds the log, the board and the rings.
 * One thread, seeded: clients, shards and the coordinator take turns. No outcome is split, and no answer is false.
 */
import { expect, test } from 'vitest';
import { CoordinatorActor } from '../../../dist/actors/coordinator/coordinator-actor.js';
import { DECISION_RESPONSE_RING_BYTES } from '../../../dist/actors/coordinator/decision-queue.js';
import { ControlBlock, ShardState } from '../../../dist/actors/control-block.js';
import type { CoordinatorToShard } from '../../../dist/actors/coordinator/messages.js';
import {
  COMPLETED_WORD,
  REQUEST_HEADER_BYTES,
  RESPONSE_HEADER_BYTES,
  RequestType,
  writeRequestHeader,
} from '../../../dist/actors/shard/request.js';
import { DecisionLog } from '../../../dist/engines/txn/decision-log.js';
import { ConcordError, type ErrorRecord } from '../../../dist/shared/errors.js';
import type { Env, EnvFile, OpenMode } from '../../../dist/shared/env/env.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { RingConsumer, RingProducer, createRing } from '../../../dist/shared/memory/ring.js';
import { Random } from '../../../dist/shared/random.js';
import { logOptions } from './scene.js';

const SHARDS = 3;
const CLIENTS = 3;

class Death extends Error {}

/** Counts the steps of a thread, and ends it at one of them; nothing it does afterwards has an effect. */
class Fate {
  left = Infinity;
  isDead = false;

  readonly step = (): void => {
    if (this.isDead || --this.left < 0) {
      this.isDead = true;
      throw new Death();
    }
  };

  /** Runs as the thread: its stores are steps. False: it died. */
  run(work: () => void): boolean {
    const { store } = Atomics;
    const { step } = this;
    Atomics.store = function <T>(...args: Parameters<typeof store>): T {
      step();
      return store(...args) as T;
    } as typeof store;
    try {
      work();
      return !this.isDead;
    } catch (error) {
      // A log that cannot be opened ends the thread too.
      if (!this.isDead && !(error instanceof ConcordError)) throw error;
      this.isDead = true;
      return false;
    } finally {
      Atomics.store = store;
    }
  }
}

/** An Env each of whose calls is two steps: one before, one after it has happened. */
function mortal(inner: Env, { step }: Fate): Env {
  const wrap = <A extends unknown[], R>(call: (...args: A) => R): ((...args: A) => R) => {
    return (...args) => {
      step();
      const result = call(...args);
      step();
      return result;
    };
  };
  const file = (opened: EnvFile): EnvFile => ({
    path: opened.path,
    read: opened.read.bind(opened),
    write: wrap(opened.write.bind(opened)),
    sync: wrap(opened.sync.bind(opened)),
    size: opened.size.bind(opened),
    truncate: wrap(opened.truncate.bind(opened)),
    close: opened.close.bind(opened),
  });
  return {
    open: wrap((path: string, mode: OpenMode) => file(inner.open(path, mode))),
    exists: inner.exists.bind(inner),
    list: inner.list.bind(inner),
    makeDirectory: wrap(inner.makeDirectory.bind(inner)),
    rename: wrap(inner.rename.bind(inner)),
    remove: wrap(inner.remove.bind(inner)),
    syncDirectory: wrap(inner.syncDirectory.bind(inner)),
    now: inner.now.bind(inner),
    randomBytes: inner.randomBytes.bind(inner),
  };
}

type Status = 'prepared' | 'committed' | 'aborted';

/** What a shard does about prepared transactions, without data. */
class Participant {
  readonly states = new Map<number, Status>();
  #cursor = 0;

  constructor(
    readonly shard: number,
    readonly control: ControlBlock,
  ) {}

  apply(): void {
    const { commits } = this.control;
    this.#cursor = commits.due(this.shard, this.#cursor, Infinity, (id, _, index) => {
      if (this.states.get(id) === 'prepared') this.states.set(id, 'committed');
      commits.setApplied(this.shard, index);
    });
  }

  release(id: number): void {
    if (this.states.get(id) !== 'prepared') return;
    let isDecided = false;
    this.control.commits.forEach((entry) => (isDecided ||= entry.id === id));
    if (!isDecided) this.states.set(id, 'aborted');
  }
}

interface Call {
  readonly id: number;
  readonly shards: number[];
}

/** A client thread's end of the rings. */
class Client {
  readonly requests = createRing(4096);
  readonly responses = createRing(DECISION_RESPONSE_RING_BYTES);
  readonly #producer = new RingProducer(this.requests);
  readonly #consumer = new RingConsumer(this.responses);
  readonly #calls: Call[] = [];
  readonly #answers = new Map<number, ErrorRecord>();
  #settled = 0;

  get waiting(): number {
    return this.#calls.length;
  }

  decide(call: Call, level: number): boolean {
    const at = this.#producer.reserve(REQUEST_HEADER_BYTES + 24);
    if (at < 0) return false;
    const { bytes, words } = this.#producer;
    writeRequestHeader(bytes, words, at, RequestType.Decide, level, 0, 0, 0);
    const body = at + REQUEST_HEADER_BYTES;
    bytes.writeDoubleLE(call.id, body);
    bytes.writeInt32LE(
      call.shards.reduce((mask, shard) => mask | (1 << shard), 0),
      body + 8,
    );
    bytes.writeInt32LE(0, body + 12);
    bytes.writeDoubleLE(0, body + 16);
    this.#producer.publish();
    this.#calls.push(call);
    return true;
  }

  settle(answered: (call: Call, error: ErrorRecord | undefined) => void): void {
    const completed = Atomics.load(this.#producer.header, COMPLETED_WORD);
    for (let at = this.#consumer.next(); at >= 0; at = this.#consumer.next()) {
      const { bytes, length } = this.#consumer;
      const text = bytes.toString('utf8', at + RESPONSE_HEADER_BYTES, at + length);
      this.#answers.set(bytes.readInt32LE(at), JSON.parse(text) as ErrorRecord);
    }
    this.#consumer.release();
    while (this.#settled !== completed) {
      this.#settled = (this.#settled + 1) | 0;
      answered(this.#calls.shift()!, this.#answers.get(this.#settled));
      this.#answers.delete(this.#settled);
    }
  }
}

interface Options {
  readonly isKept: boolean;
  /** Writes that find no space. */
  readonly faults: boolean;
  /** A life ends before so many steps. */
  readonly stepsPerLife: number;
  readonly turns: number;
}

interface Outcome {
  problems: string[];
  deaths: number;
  committed: number;
  aborted: number;
  refusals: Record<string, number>;
}

async function run(seed: number, options: Options): Promise<Outcome> {
  const random = new Random(seed);
  const disk = new MemEnv({ seed });
  disk.makeDirectory('/store');
  disk.syncDirectory('/');
  const faults = new FaultEnv(disk);
  const control = ControlBlock.create(SHARDS);
  control.nextSequence = 1;
  for (let shard = 0; shard < SHARDS; shard++) control.setShardState(shard, ShardState.Running);
  const participants = Array.from({ length: SHARDS }, (_, shard) => new Participant(shard, control));
  const clients = new Map<number, Client>();
  /** Gone; the coordinator is still to serve what they had published. */
  const leaving = new Map<number, Client>();
  const owners = new Map<number, number>();
  const all: Call[] = [];
  const outcome: Outcome = { problems: [], deaths: 0, committed: 0, aborted: 0, refusals: {} };
  const problem = (text: string): void => {
    outcome.problems.push(`seed ${seed}: ${text}`);
  };
  let nowMs = 0;
  let fate = new Fate();
  let actor: CoordinatorActor | undefined;
  let isFirst = true;
  /** From here on nobody dies. */
  let isEnding = false;
  const detached = new Set<Client>();
  /** What a thread answers that dies in the same turn, nobody hears. */
  const detach = (by: CoordinatorActor, client: number, own: Client): void => {
    void by.detachClient(client).then(() => {
      if (actor === by) detached.add(own);
    });
  };

  const start = (): void => {
    while (!launch()) outcome.deaths++;
  };

  const launch = (): boolean => {
    fate = new Fate();
    const steps = isEnding ? Infinity : random.below(options.stepsPerLife);
    // Some get through with their start, however few steps a life has.
    const isSpared = random.below(3) === 0;
    fate.left = isSpared ? Infinity : steps;
    const isRestart = !isFirst;
    isFirst = false;
    return fate.run(() => {
      const env = mortal(faults, fate);
      const log = DecisionLog.open(
        logOptions(env, { logBytesMax: 100 << 10, ...(options.isKept ? {} : { directory: undefined }) }),
      );
      const fresh = new CoordinatorActor(log, control, {
        isKept: options.isKept,
        isRestart,
        post: (shard: number, message: CoordinatorToShard) => {
          if (message.type === 'outcome' && !message.committed) participants[shard]!.release(message.txn);
        },
      });
      for (const [client, { requests, responses }] of [...clients, ...leaving])
        fresh.attachClient(client, requests, responses);
      for (const [client, own] of leaving) detach(fresh, client, own);
      fresh.coordinator.begin();
      actor = fresh;
      if (isSpared) fate.left = steps;
    });
  };

  const attach = (client: number): void => {
    const own = new Client();
    clients.set(client, own);
    if (fate.run(() => actor!.attachClient(client, own.requests, own.responses))) return;
    outcome.deaths++;
    start();
  };

  const turn = (): void => {
    nowMs += 1 + random.below(50);
    const isAlive = fate.run(() => actor!.turn(nowMs));
    if (isAlive) return;
    outcome.deaths++;
    start();
  };

  const answered = (call: Call, error: ErrorRecord | undefined): void => {
    const states = call.shards.map((shard) => participants[shard]!.states.get(call.id)!);
    if (error === undefined) {
      outcome.committed++;
      if (states.some((state) => state !== 'committed')) problem(`${call.id} is told done, and is ${states.join()}`);
      return;
    }
    outcome.refusals[error.code] = (outcome.refusals[error.code] ?? 0) + 1;
    if (error.details['outcome'] !== 'aborted') {
      problem(`${call.id} is told ${error.code}: ${error.message}`);
      return;
    }
    outcome.aborted++;
    if (states.includes('committed')) problem(`${call.id} is told aborted, and is ${states.join()}`);
    for (const shard of call.shards) participants[shard]!.release(call.id);
  };

  /** As shards do when the host says that the coordinator is through with the client. */
  const endSessions = (): void => {
    for (const [client, own] of leaving) {
      if (!detached.delete(own)) continue;
      leaving.delete(client);
      for (const [id, owner] of owners) {
        if (owner !== client) continue;
        for (const participant of participants) participant.release(id);
        owners.delete(id);
      }
    }
  };

  start();
  for (let client = 0; client < CLIENTS; client++) attach(client);
  for (let step = 0; step < options.turns; step++) {
    const dice = random.below(100);
    const client = random.below(CLIENTS);
    const own = clients.get(client);
    if (dice < 30 && own !== undefined) {
      for (let i = random.below(8); i >= 0; i--) {
        const id = control.takeCommitNumber();
        const shards = [0, 1, 2].filter(() => random.below(3) > 0);
        if (shards.length === 0) continue;
        const call = { id, shards };
        for (const shard of shards) participants[shard]!.states.set(id, 'prepared');
        owners.set(id, client);
        all.push(call);
        // Some give up, some are not heard of for a while.
        if (random.below(10) === 0) for (const shard of shards) participants[shard]!.release(id);
        else if (random.below(20) > 0 && !own.decide(call, 1 + random.below(2)))
          for (const shard of shards) participants[shard]!.release(id);
      }
    } else if (dice < 55) turn();
    else if (dice < 75) participants[random.below(SHARDS)]!.apply();
    else if (dice < 85) own?.settle(answered);
    else if (dice < 92) {
      const shard = random.below(SHARDS);
      for (const [id, state] of participants[shard]!.states) {
        if (state !== 'prepared' || random.below(4) > 0) continue;
        actor?.hear(shard, { type: 'ask', shard, txn: id, client: owners.get(id) }, nowMs);
      }
    } else if (dice < 94 && options.faults) {
      const error = 'ENOSPC';
      faults.addRule({ operation: 'write', path: /\.log$/, times: 1, error, shortWriteBytes: random.below(300) });
    } else if (dice < 96 && own !== undefined && clients.size > 1) {
      // The thread ends: nobody hears its answers.
      clients.delete(client);
      leaving.set(client, own);
      detach(actor!, client, own);
    } else if (dice < 98) {
      for (let each = 0; each < CLIENTS; each++) if (!clients.has(each) && !leaving.has(each)) attach(each);
    }
    await null;
    endSessions();
  }
  // All that is under way comes to its end.
  isEnding = true;
  fate.left = Infinity;
  for (let round = 0; round < 200; round++) {
    turn();
    for (const participant of participants) {
      participant.apply();
      for (const [id, state] of participant.states) {
        const ask = { type: 'ask', shard: participant.shard, txn: id, client: owners.get(id) } as const;
        if (state === 'prepared' && options.isKept && round % 10 === 5) actor!.hear(participant.shard, ask, nowMs);
      }
    }
    for (const own of clients.values()) own.settle(answered);
    if (round === 100) {
      for (const [client, own] of clients) {
        clients.delete(client);
        leaving.set(client, own);
        detach(actor!, client, own);
      }
    }
    await null;
    endSessions();
  }
  if (leaving.size > 0) problem(`${leaving.size} clients are never through`);
  for (const { id, shards } of all) {
    const states = new Set(shards.map((shard) => participants[shard]!.states.get(id)!));
    if (states.size !== 1 || states.has('prepared')) problem(`${id} ends as ${[...states].join()}`);
  }
  return outcome;
}

const KEPT: Options = { isKept: true, faults: false, stepsPerLife: 300, turns: 4000 };

/** Of each kind of run; DEATH_SEEDS=50 for longer. */
const SEEDS = Number(process.env['DEATH_SEEDS'] ?? 2);
const seedsFrom = (first: number, count = SEEDS): number[] =>
  Array.from({ length: count }, (_, index) => first + index);

test.each(seedsFrom(1, 2 * SEEDS))(
  'a thread that dies anywhere splits no outcome and tells no lie (seed %i)',
  async (seed) => {
    const { problems, deaths, committed, aborted } = await run(seed, KEPT);
    expect(problems).toEqual([]);
    expect(deaths).toBeGreaterThan(50);
    expect(committed).toBeGreaterThan(300);
    expect(aborted).toBeGreaterThan(0);
  },
);

test.each(seedsFrom(1001))('nor one that dies while it starts, over and over (seed %i)', async (seed) => {
  const { problems, deaths } = await run(seed, { ...KEPT, stepsPerLife: 40, turns: 1200 });
  expect(problems).toEqual([]);
  expect(deaths).toBeGreaterThan(150);
});

test.each(seedsFrom(2001))('nor with a disk that is full now and then (seed %i)', async (seed) => {
  const { problems, deaths, refusals } = await run(seed, { ...KEPT, faults: true });
  expect(problems).toEqual([]);
  expect(deaths).toBeGreaterThan(50);
  expect(refusals['ERR_DISK_FULL']).toBeGreaterThan(0);
});

test.each(seedsFrom(3001))('nor in a store without a log (seed %i)', async (seed) => {
  const { problems, deaths, committed } = await run(seed, { ...KEPT, isKept: false, stepsPerLife: 150 });
  expect(problems).toEqual([]);
  expect(deaths).toBeGreaterThan(50);
  expect(committed).toBeGreaterThan(300);
});

test('a seed is replayed exactly', async () => {
  expect(await run(5, KEPT)).toEqual(await run(5, KEPT));
});
