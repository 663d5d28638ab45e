/**
 * What clients do in the simulated store, and what must be true of it.
 *
 *   accounts   hold an amount and the list of the transactions that wrote them; a transfer reads some, moves amounts between some, appends its id to each
 *   pairs      two keys in two shards, always written together, blindly, with the id of the writer
 *
 * - Amounts add up to the same in every snapshot and at the end; the keys of a pair are equal in every snapshot; who has seen one of them new and then
 *   looks at the other sees that one as new.
 * - A transaction shows on all keys it writes or on none; on all if it was answered "committed", on none if "aborted"; once.
 * - What was seen once stays: every list that anybody has read is the beginning of the list at the end.
 * - All transactions and snapshots together have one order, in which each comes after what was answered before it began (test/support/history).
 * - When all is quiet nothing is left: no lock, nothing prepared, no entry of the board, no decision, no fence, no counter of a prepared key.
 */
import { Isolation, TransactionBodyWriter } from '../../../dist/engines/txn/body.js';
import { ShardState } from '../../../dist/actors/control-block.js';
import { PromisedAnswer } from '../../../dist/actors/client/caller.js';
import { CommitRun, CommitState, type CommitPart } from '../../../dist/actors/transaction/commit.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { hashBytes } from '../../../dist/shared/hash.js';
import { check as untypedCheck } from '../../support/history/check.mjs';
import { History } from '../../support/history/history.mjs';
import { withClock } from './clock.js';
import { Killed, ProcessKilled } from './threads.js';
import { START_BALANCE, World, type SimClient, type SimulationOptions, type Versioned } from './world.js';

const check = untypedCheck as (
  history: unknown,
  options?: object,
) => { isClean: boolean; names: string[]; findings: unknown[] };

const ACCOUNTS = 8;
const PAIRS = 3;
const CLIENTS = 3;
const TXNS_PER_CLIENT_MAX = 3;
/** The host's own client: it is never killed. */
const HOST_SLOT = 0;
/** When nothing happens any more time passes faster. */
const CALM_TURN_MS = 30;
const CALM_TURNS_MAX = 3000;
const LAST_KEY = Buffer.from('last');
/** Atomic: no part of it may show by itself. */
type Outcome = 'pending' | 'committed' | 'aborted' | 'unknown';

interface Account {
  readonly balance: number;
  readonly ids: readonly number[];
}

interface Txn {
  /** Of the transaction; its number here, from 1, is unlike it unique over all lives of the process. 0: a snapshot. */
  readonly id: number;
  readonly number: number;
  readonly kind: string;
  outcome: Outcome;
  /** Of accounts: what it saw. */
  readonly reads: [key: number, ids: readonly number[]][];
  readonly writes: number[];
  readonly start: number;
  end: number;
  why: string;
}

export interface Report {
  /** What is wrong; undefined: nothing. */
  readonly problem: string | undefined;
  readonly committed: number;
  readonly aborted: number;
  readonly unknown: number;
  readonly snapshots: number;
  readonly processes: number;
  readonly counts: World['counts'];
}

class Violation extends Error {}

class Simulation {
  readonly world: World;
  readonly #txns: Txn[] = [];
  /** Lists that somebody saw, of accounts. */
  readonly #seen: { readonly key: number; readonly ids: readonly number[]; readonly by: string }[] = [];
  #ticket = 0;
  #numbers = 0;
  #problem: string | undefined;
  #snapshots = 0;
  #hadDiskFaults = false;
  readonly #keys: readonly Buffer[];
  readonly #hashes: readonly number[];
  readonly #budget: number;
  /** Commits of one shard are given up, some of them while they wait for locks. Of every third seed: those that have failed once keep their history. */
  readonly #givesUp: boolean;
  #begun = 0;

  constructor(options: SimulationOptions) {
    this.world = new World(options);
    const { random } = this.world;
    this.#budget = 6 + random.below(18);
    this.#givesUp = options.seed % 3 === 0;
    this.#keys = Array.from({ length: ACCOUNTS + 2 * PAIRS }, (_, index) => Buffer.from(`key-${index}`));
    this.#hashes = this.#keys.map((key) => hashBytes(key, 0, key.length));
    this.world.onProbe = (client) => {
      this.#lookAround(client, 'a look in between');
    };
  }

  get report(): Report {
    const count = (outcome: Outcome): number => this.#txns.filter((txn) => txn.outcome === outcome).length;
    return {
      problem: this.#problem,
      committed: count('committed'),
      aborted: count('aborted'),
      unknown: count('unknown') + count('pending'),
      snapshots: this.#snapshots,
      processes: this.world.processes,
      counts: this.world.counts,
    };
  }

  // ---- keys ---------------------------------------------------------------------------------------------------------------------------------

  #shardOf(key: number): number {
    const { shards } = this.world;
    if (key < ACCOUNTS) return key % shards;
    const pair = (key - ACCOUNTS) >> 1;
    return (pair + ((key - ACCOUNTS) & 1)) % shards;
  }

  #find(client: SimClient, key: number, atSeq = Infinity): Versioned {
    return client.find(this.#shardOf(key), this.#keys[key]!, atSeq);
  }

  /** The newest state, as reads of the pool have it (actors/pool/source.ts). */
  #findNewest(client: SimClient, key: number): Versioned {
    const { commits } = client.control;
    const shard = this.#shardOf(key);
    if (!commits.isEmpty && commits.mayBePrepared(shard, this.#hashes[key]!)) commits.waitForShardSync(shard, Infinity);
    return this.#find(client, key);
  }

  #fail(problem: string): void {
    this.#problem ??= problem;
    this.world.trace(`WRONG: ${problem}`);
  }

  // ---- what clients do ----------------------------------------------------------------------------------------------------------------------

  #begin(id: number, kind: string): Txn {
    const txn: Txn = {
      id,
      number: ++this.#numbers,
      kind,
      outcome: 'pending',
      reads: [],
      writes: [],
      start: ++this.#ticket,
      end: Infinity,
      why: '',
    };
    this.#txns.push(txn);
    return txn;
  }

  #end(txn: Txn, outcome: Outcome, error?: unknown): void {
    txn.outcome = outcome;
    txn.end = ++this.#ticket;
    txn.why = error instanceof Error ? `${error instanceof ConcordError ? error.code : ''} ${error.message}` : '';
    this.world.trace(`txn ${txn.id} (${txn.kind}): ${outcome} ${txn.why}`);
  }

  #launch(client: SimClient, work: () => Promise<void>): void {
    client.running++;
    work().then(
      () => client.running--,
      (error: unknown) => {
        client.running--;
        if (error instanceof ProcessKilled || error instanceof Killed) return;
        if (error instanceof ConcordError && error.code === 'ERR_TIMEOUT' && this.#hadDiskFaults) return;
        this.#fail(error instanceof Violation ? error.message : `a client met ${(error as Error).stack}`);
      },
    );
  }

  #level(): number {
    return this.world.options.loss === 'power' ? 2 : this.world.random.pick([1, 1, 2]);
  }

  async #pause(client: SimClient): Promise<void> {
    const { world } = this;
    if (world.random.chance(0.3)) await world.sleep(client, world.random.below(world.random.pick([2, 20, 300])));
  }

  #pickAccounts(count: number): number[] {
    const keys = Array.from({ length: ACCOUNTS }, (_, key) => key);
    return Array.from({ length: count }, () => keys.splice(this.world.random.below(keys.length), 1)[0]!);
  }

  #startSome(client: SimClient): void {
    const { random } = this.world;
    this.#begun++;
    const draw = random.below(10);
    if (draw < 5) this.#launch(client, () => this.#transfer(client, false));
    else if (draw < 7) this.#launch(client, () => this.#transfer(client, true));
    else if (draw < 8) this.#launch(client, () => this.#writePair(client));
    else {
      this.#begun--;
      this.#launch(client, async () => {
        this.#lookAround(client, `client ${client.slot}`);
      });
    }
  }

  async #transfer(client: SimClient, isPessimistic: boolean): Promise<void> {
    const { world } = this;
    const { random } = world;
    const id = client.control.takeCommitNumber();
    const txn = this.#begin(id, isPessimistic ? 'pessimistic' : 'optimistic');
    const keys = this.#pickAccounts(2 + random.below(3));
    const writers = isPessimistic ? keys.length : 1 + random.below(keys.length);
    const port = world.portOf(client);
    const epochs = new Map<number, number>();
    const letGo = (): void => {
      for (const shard of epochs.keys()) port.release(shard, id);
    };
    const level = this.#level();
    const found: { key: number; seq: number; account: Account }[] = [];
    try {
      for (const key of keys) {
        const shard = this.#shardOf(key);
        if (isPessimistic) {
          const epoch = epochs.get(shard);
          if (epoch === undefined) epochs.set(shard, port.restarts(shard));
          else if (epoch !== port.restarts(shard)) throw new ConcordError('ERR_SHARD_RESTARTED', 'its locks are lost');
          const mode = 'exclusive';
          const space = 0;
          const call = {
            txn: id,
            age: id,
            priority: 0,
            mode,
            space,
            key: this.#keys[key]!,
            timeoutMs: 2000,
            snapshot: 0,
          } as const;
          await port.lock(shard, call);
        } else await this.#pause(client);
        const { value, seq } = this.#findNewest(client, key);
        found.push({ key, seq, account: accountOf(value) });
      }
    } catch (error) {
      if (error instanceof ProcessKilled) throw error;
      letGo();
      this.#end(txn, 'aborted', error);
      return;
    }
    for (const { key, account } of found) txn.reads.push([key, account.ids]);
    txn.writes.push(...keys.slice(0, writers));
    // What one gives the next one gets.
    const amounts = txn.writes.map(() => random.below(20));
    const values = new Map<number, string>();
    txn.writes.forEach((key, index) => {
      const { balance, ids } = found[index]!.account;
      const before = amounts[(index + amounts.length - 1) % amounts.length]!;
      values.set(key, textOf({ balance: balance - amounts[index]! + before, ids: [...ids, txn.number] }));
    });
    const shards = [...new Set(keys.map((key) => this.#shardOf(key)))].sort();
    const mask = txn.writes.reduce((bits, key) => bits | (1 << this.#shardOf(key)), 0);
    // As actors/transaction/send.ts: those that only read must have the locks still that they have voted with.
    const isGuarded = world.options.plant !== 'lost votes are not noticed';
    const { restarts } = world.control;
    const areVotesKept = (): boolean => !isGuarded || world.control.restarts === restarts;
    const hasReaders = shards.some((shard) => (mask & (1 << shard)) === 0);
    const voteEpoch = (shard: number): number => epochs.get(shard) ?? (hasReaders && isGuarded ? 1 + restarts : 0);
    const parts = shards.map((shard) => {
      const body = new TransactionBodyWriter();
      body.begin(Isolation.Serializable, isPessimistic, id, 0, Date.now(), mask, 0, voteEpoch(shard));
      for (const { key, seq } of found)
        if (this.#shardOf(key) === shard) body.addRead(0, this.#keys[key]!, this.#keys[key]!.length, seq);
      for (const [key, text] of values) {
        const value = Buffer.from(text);
        if (this.#shardOf(key) === shard)
          body.addPut(0, this.#keys[key]!, this.#keys[key]!.length, value, value.length, 0);
      }
      return { shard, body: body.seal(), writes: (mask & (1 << shard)) !== 0 };
    });
    await this.#commit(client, txn, parts, level, hasReaders && isGuarded ? 1 + restarts : 0, areVotesKept);
    if (txn.outcome === 'aborted') letGo();
  }

  async #writePair(client: SimClient): Promise<void> {
    const pair = this.world.random.below(PAIRS);
    const id = client.control.takeCommitNumber();
    const txn = this.#begin(id, 'pair');
    const keys = [ACCOUNTS + 2 * pair, ACCOUNTS + 2 * pair + 1];
    txn.writes.push(...keys);
    const mask = keys.reduce((bits, key) => bits | (1 << this.#shardOf(key)), 0);
    const value = Buffer.from(String(txn.number));
    const parts = keys.map((key) => {
      const body = new TransactionBodyWriter();
      body.begin(Isolation.ReadCommitted, false, id, 0, Date.now(), mask, 0, 0);
      body.addPut(0, this.#keys[key]!, this.#keys[key]!.length, value, value.length, 0);
      return { shard: this.#shardOf(key), body: body.seal(), writes: true };
    });
    parts.sort((a, b) => a.shard - b.shard);
    await this.#commit(client, txn, parts, this.#level());
  }

  async #commit(
    client: SimClient,
    txn: Txn,
    parts: readonly CommitPart<TransactionBodyWriter>[],
    level: number,
    voteEpoch = 0,
    areVotesKept = (): boolean => true,
  ): Promise<void> {
    const { world } = this;
    const port = world.portOf(client);
    world.trace(
      `txn ${txn.id}, number ${txn.number} (${txn.kind}) of client ${client.slot} writes ${txn.writes.join(' ')} with ${parts.map(({ shard, writes }) => `${shard}${writes ? 'w' : 'r'}`).join(' ')}`,
    );
    if (parts.length === 1) {
      try {
        const answer = new PromisedAnswer();
        const [{ shard, body }] = parts as [CommitPart<TransactionBodyWriter>];
        if (this.#givesUp && txn.kind !== 'pessimistic') {
          body.waitAs((txn.id % 3) - 1, txn.id, 1 + (txn.id % 400));
          // What waits for a lock is refused then; what is applied stays so.
          world.post(
            () => {
              if (!client.isDead) port.release(shard, txn.id);
            },
            (37 * txn.id) % 500,
          );
        }
        port.commitOne(shard, body, level, answer);
        await answer.promise;
        this.#end(txn, 'committed');
      } catch (error) {
        this.#end(txn, isUnsure(error) ? 'unknown' : 'aborted', error);
      }
      return;
    }
    const run = new CommitRun(port, txn.id, parts, level, voteEpoch, areVotesKept);
    if (world.random.chance(0.15)) {
      world.post(() => {
        if (!client.isDead) run.abort(new ConcordError('ERR_TRANSACTION_TIMEOUT', 'it takes too long'));
      }, world.random.below(500));
    }
    try {
      const answer = new PromisedAnswer();
      run.run(answer);
      await answer.promise;
      this.#end(txn, 'committed');
    } catch (error) {
      const isUnknown =
        run.state === CommitState.Unknown || (isUnsure(error) && parts.filter(({ writes }) => writes).length === 1);
      this.#end(txn, isUnknown ? 'unknown' : 'aborted', error);
    }
  }

  // ---- what readers see ---------------------------------------------------------------------------------------------------------------------

  /** A snapshot of everything, and plain reads of a pair. @throws Violation, ProcessKilled */
  #lookAround(client: SimClient, by: string): void {
    const start = ++this.#ticket;
    for (let pair = 0; pair < PAIRS; pair++) {
      const first = ACCOUNTS + 2 * pair + (start & 1);
      const second = ACCOUNTS + 2 * pair + (1 - (start & 1));
      const one = this.#findNewest(client, first);
      const other = this.#findNewest(client, second);
      if (other.value !== one.value && other.seq <= one.seq)
        throw new Violation(
          `${by} saw transaction ${one.value} with number ${one.seq} in one key of pair ${pair}, then ${other.value} with ${other.seq} in the other`,
        );
    }
    const { slot, sequence } = client.control.openSnapshotSync(client.slot);
    try {
      this.#lookAt(client, sequence, start, `${by} at ${sequence}`);
    } finally {
      client.control.closeSnapshot(slot, client.slot);
    }
  }

  #lookAt(client: SimClient, sequence: number, start: number, by: string): void {
    let sum = 0;
    const reads: Txn['reads'] = [];
    for (let key = 0; key < ACCOUNTS; key++) {
      const { balance, ids } = accountOf(this.#find(client, key, sequence).value);
      sum += balance;
      reads.push([key, ids]);
    }
    if (sum !== ACCOUNTS * START_BALANCE)
      throw new Violation(`${by}: the amounts add up to ${sum}: ${JSON.stringify(reads)}`);
    for (let pair = 0; pair < PAIRS; pair++) {
      const one = this.#find(client, ACCOUNTS + 2 * pair, sequence).value;
      const other = this.#find(client, ACCOUNTS + 2 * pair + 1, sequence).value;
      if (one !== other) throw new Violation(`${by}: pair ${pair} holds ${one} and ${other}`);
    }
    this.#snapshots++;
    for (const [key, ids] of reads) this.#seen.push({ key, ids, by });
    this.#txns.push({
      id: 0,
      number: 0,
      kind: by,
      outcome: 'committed',
      reads,
      writes: [],
      start,
      end: ++this.#ticket,
      why: '',
    });
  }

  // ---- the run ------------------------------------------------------------------------------------------------------------------------------

  async run(): Promise<void> {
    try {
      this.#open();
      while (this.#begun < this.#budget && this.#problem === undefined) await this.#turn(true);
      await this.#heal();
      if (this.#problem === undefined) this.#judge();
    } catch (error) {
      this.#fail(error instanceof Violation ? error.message : `${(error as Error).stack}`);
    }
  }

  /** The process, until it stands. */
  #open(): void {
    const { world } = this;
    for (;;) {
      try {
        world.openProcess();
        const client = world.addClient(HOST_SLOT);
        world.options.follow?.(world, client);
        return;
      } catch (error) {
        if (!world.isProcessDead) throw error;
        world.crash();
      }
    }
  }

  #reopen(): void {
    const { world } = this;
    for (const txn of this.#txns)
      if (txn.outcome === 'pending') {
        txn.outcome = 'unknown';
        txn.why = 'the process ended';
      }
    world.crash();
    this.#open();
  }

  async #turn(isBusy: boolean): Promise<void> {
    const { world } = this;
    const { random, clock } = world;
    try {
      world.unblocked();
      clock.nowMs += random.nextFloat() * 2;
      if (!isBusy) clock.nowMs += CALM_TURN_MS;
      else {
        if (random.chance(0.003)) {
          clock.nowMs += random.pick([300, 1500, 2500, 6000]);
          world.trace('time jumps');
        }
        this.#startOrEnd();
        this.#breakSomething();
      }
      world.supervise();
      for (let i = random.below(4); i >= 0; i--) world.stepSome();
      for (let i = isBusy ? random.below(4) : 8; i > 0 && world.deliverOne(); i--);
      for (const client of [...world.clients.values()]) if (random.chance(0.5)) world.stepClient(client);
    } catch (error) {
      if (!(error instanceof ProcessKilled) && !world.isProcessDead) throw error;
    }
    for (let i = 0; i < 10; i++) await undefined;
    if (!world.isProcessDead) world.options.follow?.(world, world.clients.get(HOST_SLOT)!);
    if (world.isProcessDead) this.#reopen();
  }

  #startOrEnd(): void {
    const { world } = this;
    const { random } = world;
    let slot = 1 + random.below(CLIENTS);
    while (world.clients.get(slot)?.leaving === 'gone') slot += CLIENTS;
    const client = world.clients.get(slot);
    if (client === undefined) {
      if (random.chance(0.2)) world.addClient(slot);
    } else if (client.leaving !== undefined) return;
    else if (world.probabilities.killThread > 0 && random.chance(0.002)) world.killClient(client);
    else if (client.running < TXNS_PER_CLIENT_MAX && random.chance(0.1)) this.#startSome(client);
  }

  #breakSomething(): void {
    const { world } = this;
    const { random, probabilities } = world;
    if (probabilities.killThread > 0 && random.chance(probabilities.killThread)) {
      const which = random.below(world.shards + 1);
      const life = which === world.shards ? world.coordinator : world.lives[which];
      if (life !== undefined) world.killThread(life.thread);
    }
    if (!random.chance(0.0015)) return;
    this.#hadDiskFaults = true;
    world.counts.diskFaults++;
    const path = random.pick([/coordinator/, /shard-0/, /shard-1/, /store/]);
    if (random.chance(0.7)) {
      world.trace(`the disk is full: ${path}`);
      world.env.fillDisk(path);
      const { env } = world;
      world.post(() => {
        env.freeDisk();
      }, random.below(2000));
    } else {
      world.trace(`a sync fails: ${path}`);
      world.env.addRule({ operation: 'sync', path, times: 1, after: random.below(4), error: 'EIO' });
    }
  }

  /** Some log takes nothing any more: only the next life of the process ends that. */
  get #isBroken(): boolean {
    const { world } = this;
    if (world.coordinator?.actor.coordinator.failure !== undefined) return true;
    return world.lives.some((_, index) => world.control.shardState(index) === ShardState.ReadOnly);
  }

  /** Faults end, and what is on its way comes to its end; then the clients go. */
  async #heal(): Promise<void> {
    const { world } = this;
    world.isCalm = true;
    world.trace('calm');
    world.env.removeAllRules();
    if (this.#isBroken) {
      world.endProcess();
      this.#reopen();
    }
    await this.#until(
      'calls are answered',
      () => [...world.clients.values()].every(({ running, isDead }) => isDead || running === 0) && !world.isRestarting,
    );
    for (const client of [...world.clients.values()])
      if (client.slot !== HOST_SLOT && !client.isDead) world.detachClient(client);
    await this.#until('clients are gone', () =>
      [...world.clients.values()].every(({ slot, leaving }) => slot === HOST_SLOT || leaving === 'gone'),
    );
    await this.#until('everybody was told', () => this.#remains() === undefined);
  }

  async #until(what: string, isTrue: () => boolean): Promise<void> {
    const { world } = this;
    const host = (): SimClient => world.clients.get(HOST_SLOT)!;
    for (let turns = 0; this.#problem === undefined; turns++) {
      if (turns > 5 && isTrue()) return;
      if (turns > CALM_TURNS_MAX) {
        this.#fail(
          `when all is quiet, not even after ${(world.clock.nowMs / 1000).toFixed(1)} s ${what}: ${this.#remains() ?? ''}`,
        );
        return;
      }
      // Nobody syncs a log for the sake of a decision that is to be forgotten: that is done with the next durable write.
      if (turns % 30 === 0) {
        for (let shard = 0; shard < world.shards; shard++)
          this.#launch(host(), () => world.put(host(), shard, LAST_KEY, 'quiet', 2).catch(() => undefined));
      }
      await this.#turn(false);
    }
  }

  /** What is there although nothing is going on; undefined: nothing. */
  #remains(): string | undefined {
    const { world } = this;
    if (world.coordinator === undefined || world.isRestarting) return 'a thread that is down';
    if (!world.control.commits.isEmpty) return 'entries on the commit board';
    for (const [index, life] of world.lives.entries()) {
      if (life === undefined) return `shard ${index} is down`;
      const { store, transactions } = life.shard;
      if (store.prepared.size > 0)
        return `prepared in shard ${index}: ${Array.from(store.prepared.all, ({ id }) => id).join(' ')}`;
      if (!transactions.locks.isEmpty) return `locks in shard ${index}: ${JSON.stringify(transactions.list(10))}`;
      if (transactions.isInDoubt) return `shard ${index} is in doubt`;
      for (const [key, hash] of this.#hashes.entries())
        if (world.control.commits.mayBePrepared(index, hash)) return `shard ${index} counts key ${key} as prepared`;
    }
    const { known } = world.coordinator.actor.coordinator;
    return known === 0 ? undefined : `${known} ids that the coordinator keeps in mind`;
  }

  #judge(): void {
    const { world } = this;
    const lists = this.#lists('at the end');
    // As another life finds it.
    world.endProcess();
    world.crash();
    this.#open();
    const again = this.#lists('when it is opened again');
    // Those whose log failed may show in one life and not in another.
    const unsure = new Set(this.#txns.filter(({ why }) => why.startsWith('ERR_IO')).map(({ number }) => number));
    const sureOf = (list: readonly number[]): string => list.filter((number) => !unsure.has(number)).join();
    const other = lists.findIndex((list, key) => sureOf(list) !== sureOf(again[key]!));
    if (other >= 0)
      throw new Violation(
        `key ${other} holds ${lists[other]!.join(' ')}, and when the store is opened again ${again[other]!.join(' ')}`,
      );
    this.#judgeOutcomes(lists);
    for (const { key, ids, by } of this.#seen) {
      if (!ids.every((id, index) => lists[key]![index] === id))
        throw new Violation(
          `${by} saw ${ids.join(' ')} in account ${key}, which holds ${lists[key]!.join(' ')} at the end`,
        );
    }
    this.#judgeOrder();
  }

  #lists(when: string): (readonly number[])[] {
    const { world } = this;
    const client = world.clients.get(HOST_SLOT) ?? world.addClient(HOST_SLOT);
    this.#lookAt(client, Infinity, ++this.#ticket, when);
    return this.#keys.map((_, key) => {
      const { value } = this.#find(client, key);
      return key < ACCOUNTS ? accountOf(value).ids : value === undefined ? [] : [Number(value)];
    });
  }

  #judgeOutcomes(lists: readonly (readonly number[])[]): void {
    for (let key = 0; key < ACCOUNTS; key++)
      if (new Set(lists[key]).size !== lists[key]!.length)
        throw new Violation(`account ${key} was written twice by one: ${lists[key]!.join(' ')}`);
    for (const { id, number, kind, outcome, writes, why } of this.#txns) {
      if (number === 0 || writes.length === 0) continue;
      const shown = writes.filter((key) => lists[key]!.includes(number));
      const what = `transaction ${id}, number ${number} (${kind}, ${outcome}${why === '' ? '' : `: ${why}`})`;
      // Later pairs hide earlier ones; that both are equal was looked at.
      if (kind === 'pair') {
        if (outcome === 'aborted' && shown.length > 0) throw new Violation(`${what} shows in a pair`);
        continue;
      }
      if (shown.length !== 0 && shown.length !== writes.length)
        throw new Violation(`${what} wrote ${writes.join(' ')} and shows in ${shown.join(' ')}`);
      if (outcome === 'committed' && shown.length === 0) throw new Violation(`${what} is lost`);
      if (outcome === 'aborted' && shown.length > 0) throw new Violation(`${what} shows`);
    }
  }

  #judgeOrder(): void {
    const history = new History('list');
    for (const { number, kind, outcome, reads, writes, start, end, why } of this.#txns) {
      if (kind === 'pair') continue;
      const ops = [
        // One whose log failed shows, if ever, in the next life, and keeps nothing locked until then.
        ...(why.startsWith('ERR_IO') ? [] : reads).map(([key, ids]) => ['r', key, ids]),
        ...writes.map((key) => ['a', key, number]),
      ] as never;
      const told = outcome === 'committed' ? 'ok' : outcome === 'aborted' ? 'fail' : 'info';
      history.add({ level: 'serializable', outcome: told, thread: 0, start, end: told === 'ok' ? end : Infinity, ops });
    }
    const { isClean, names, findings } = check(history, { realTime: true });
    if (!isClean)
      throw new Violation(
        `no order of the transactions explains what they saw: ${names.join(', ')}\n${JSON.stringify(findings.slice(0, 2))}`,
      );
  }
}

function accountOf(value: string | undefined): Account {
  if (value === undefined) return { balance: START_BALANCE, ids: [] };
  const [balance, ids] = value.split(';');
  return { balance: Number(balance), ids: ids === '' ? [] : ids!.split(',').map(Number) };
}

function textOf({ balance, ids }: Account): string {
  return `${balance};${ids.join(',')}`;
}

/** The log failed when it may have had the record already; the shard was replaced before it had answered. */
function isUnsure(error: unknown): boolean {
  return error instanceof ConcordError && (error.code === 'ERR_IO' || error.code === 'ERR_SHARD_RESTARTED');
}

/** One seed. Nothing else may run in this thread meanwhile. */
export async function simulate(options: SimulationOptions): Promise<Report> {
  const simulation = new Simulation(options);
  const { clock, blocked } = simulation.world;
  // Errors are made by the thousand.
  const { stackTraceLimit } = Error;
  if (options.trace === undefined) Error.stackTraceLimit = 0;
  try {
    await withClock(clock, blocked, () => simulation.run());
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
  return simulation.report;
}
