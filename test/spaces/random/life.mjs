/**
 * The random life of a store with many spaces: each method of Life is one step of it, which does something to the store and to the model, and compares what it is
 * answered. Steps follow one another; what one of them leaves under way (a switch to another engine, a drop) goes on beside the next ones.
 *
 * At a death of a shard, calls are under way in it. Those that were not answered may have happened or not, each as a whole, and reads tell which.
 * Threads: main.
 */
import { rmSync } from 'node:fs';
import { ConcordPool, engineNames } from '../../../dist/index.js';
import { Choices, Wrong, brief, checkCount, checkEntries, checkValue, isThere, isWithin } from './model.mjs';

const KIB = 1024;
const MIB = 2 ** 20;
const SPACES_MAX = 8;
const SNAPSHOTS_MAX = 5;
const ITERATORS_MAX = 5;
const MEMORY = ':memory:';
/** A shard stays down after five deaths within a minute. */
const DEATHS_MAX = 4;
const DEATHS_MS = 65_000;
const STEPS_KEPT = 60;

const POOL_OPTIONS = {
  memoryBytes: 256 * MIB,
  segmentBytes: 2 * MIB,
  transactionBytesMax: MIB,
  checkpointLogBytes: MIB,
  blockCacheBytes: 8 * MIB,
  durability: 'os',
  expiry: { intervalMs: 20, batch: 50 },
};
/** Small limits, so that everything that a limit sets off happens all the time. */
const LSM = { memtableBytes: 64 * KIB, tableBytes: 16 * KIB, levelBytes: 64 * KIB, level0Runs: 2 };
const TUNINGS = [
  {},
  { order: 3 },
  { pageBytes: 'adaptive' },
  { pageBytes: 4096, budgetBytes: 64 * KIB },
  { order: 4, budgetBytes: 64 * KIB },
  { budgetBytes: 256 * KIB },
  { pageBytes: 'adaptive', budgetBytes: MIB },
  { memtableBytes: 64 * KIB },
  { lsm: LSM },
  { lsm: { ...LSM, blobValueBytes: 512, blobFileBytes: 64 * KIB, compression: 'none' } },
  { lsm: { ...LSM, compaction: 'tiered', tieredRunsMin: 2, frozenMax: 1 } },
];
const ISOLATIONS = ['read-committed', 'repeatable-read', 'serializable'];

/** Faults of a store, which must be found: what becomes of one in ten writes. */
export const PLANTS = {
  lost: 'a put does nothing',
  kept: 'a delete does nothing',
  torn: 'a value lacks its end',
};
const PLANT_EVERY = 10;

export class Life {
  counts = { steps: 0, deaths: 0, crashes: 0, switches: 0, transactions: 0, conflicts: 0, unknown: 0 };
  /** What was done last, for who looks for the reason. */
  steps = [];
  #db;
  #directory;
  #options;
  #choices;
  #plant;
  /** By name: { name, space, model, isDropping }. */
  #spaces = new Map();
  /** { snapshot, time, models: Map of space → model, step } */
  #snapshots = [];
  /** { iterator, scan, got, model, space, time, step } */
  #iterators = [];
  #names = 0;
  #values = 0;
  #writes = 0;
  /** When shards died, by shard. */
  #deaths = [];
  /** What goes on beside the steps; its failures. */
  #background = new Set();
  #failure;

  static async begin(options) {
    const life = new Life(options);
    life.#db = await ConcordPool.open(life.#directory, life.#options);
    return life;
  }

  constructor({ directory, seed, plant }) {
    this.#directory = directory;
    this.#options = { ...POOL_OPTIONS, shards: 1 + (seed % 3) };
    this.#choices = new Choices(seed);
    this.#plant = plant;
    this.#deaths = Array.from({ length: this.#options.shards }, () => []);
  }

  get #isInMemory() {
    return this.#directory === MEMORY;
  }

  /** One random step. @throws Wrong */
  async step() {
    this.counts.steps++;
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#spaces.size === 0) {
      await this.create();
      return;
    }
    const weights = [
      [250, 'put'],
      [100, 'del'],
      [50, 'putIfAbsent'],
      [50, 'putIfVersion'],
      [50, 'update'],
      [80, 'batch'],
      [40, 'fill'],
      [70, 'transact'],
      [15, 'clear'],
      [90, 'get'],
      [60, 'scan'],
      [40, 'takeSnapshot'],
      [80, 'readSnapshot'],
      [30, 'openIterator'],
      [50, 'readIterator'],
      [30, 'switchEngine'],
      [12, 'drop'],
      [20, 'create'],
      [6, 'compact'],
      [6, 'check'],
      [4, 'dieWhileWritten'],
    ];
    if (!this.#isInMemory) weights.push([6, 'checkpoint'], [2, 'copy'], [4, 'reopen'], [3, 'crash']);
    await this[this.#choices.weighted(weights)]();
  }

  /** Compares everything once more and closes the store. @throws Wrong */
  async end() {
    await this.#settleBackground();
    for (const held of [...this.#snapshots]) await this.#closeSnapshot(held);
    for (const held of [...this.#iterators]) await this.#closeIterator(held);
    await this.#checkAll('at the end');
    await this.check();
    for (const one of this.#spaces.values()) {
      await one.space.clear();
      const count = await one.space.count();
      if (count !== 0) throw new Wrong(`${this.#told(one)}: ${count} entries when all were cleared`);
    }
    await this.#db.close();
    await this.#verify();
  }

  /** Lets go of the store, whatever state it is in. */
  async abandon() {
    await this.#db.close().catch(() => undefined);
  }

  // ---- what steps are made of ------------------------------------------------------------------------------------------------------------

  #note(text) {
    this.steps.push(`${this.counts.steps} ${text}`);
    if (this.steps.length > STEPS_KEPT) this.steps.shift();
  }

  /** Some space. */
  #some() {
    return this.#choices.of([...this.#spaces.values()]);
  }

  /** How messages call a space. */
  #told({ name, space }) {
    let engine;
    try {
      ({ engine } = space);
    } catch {
      engine = 'no engine';
    }
    return `${name} in ${engine}`;
  }

  #value() {
    return this.#choices.value(`v${++this.#values}`);
  }

  /** Whether the planted fault befalls this write. */
  #isPlanted(plant) {
    if (this.#plant !== plant) return false;
    return ++this.#writes % PLANT_EVERY === 0;
  }

  /** The value that the store is given. */
  #stored(value) {
    return this.#isPlanted('torn') ? value.slice(0, -1) : value;
  }

  /** Runs the read and resolves with its answer and the time in which it was given. */
  async #timed(read) {
    const from = Date.now();
    const got = await read();
    return [got, { from, to: Date.now() }];
  }

  #goesOn(what, work, allowed) {
    const going = work
      .catch((error) => {
        if (!allowed.includes(error.code ?? error.name)) this.#failure ??= new Wrong(`${what}: ${error.stack}`);
      })
      .finally(() => this.#background.delete(going));
    this.#background.add(going);
    return going;
  }

  async #settleBackground() {
    while (this.#background.size > 0) await Promise.all(this.#background);
    if (this.#failure !== undefined) throw this.#failure;
  }

  // ---- writes ----------------------------------------------------------------------------------------------------------------------------

  async put() {
    const one = this.#some();
    const key = this.#choices.key();
    const value = this.#value();
    const ttlMs = this.#choices.isIn(25) ? 1 + this.#choices.below(400) : undefined;
    this.#note(`put ${one.name} ${brief(key)} ${brief(value)}${ttlMs === undefined ? '' : ` for ${ttlMs} ms`}`);
    const from = Date.now();
    if (!this.#isPlanted('lost')) await one.space.put(key, this.#stored(value), { ttlMs });
    const to = Date.now();
    if (ttlMs === undefined) {
      one.model.set(key, { value });
      return;
    }
    // Only the store knows the time by which it has counted.
    const expiresAt = one.space.getEntrySync(key)?.expiresAt;
    if (expiresAt === undefined) {
      if (Date.now() < from + ttlMs) throw new Wrong(`${this.#told(one)}: ${brief(key)} does not live for ${ttlMs} ms`);
      one.model.delete(key);
      return;
    }
    if (expiresAt < from + ttlMs || expiresAt > to + ttlMs) {
      throw new Wrong(`${this.#told(one)}: ${brief(key)}, put ${from}…${to} for ${ttlMs} ms, expires at ${expiresAt}`);
    }
    one.model.set(key, { value, expiresAt });
  }

  async del() {
    const one = this.#some();
    const key = this.#choices.key();
    this.#note(`del ${one.name} ${brief(key)}`);
    if (!this.#isPlanted('kept')) await one.space.del(key);
    one.model.delete(key);
  }

  async putIfAbsent() {
    const one = this.#some();
    const key = this.#choices.key();
    const value = this.#value();
    const [isDone, time] = await this.#timed(() => one.space.put(key, this.#stored(value), { ifAbsent: true }));
    this.#note(`put if absent ${one.name} ${brief(key)}: ${isDone}`);
    if (isThere(one.model.get(key), time) === isDone) {
      throw new Wrong(`${this.#told(one)}: put if absent of ${brief(key)} was ${isDone ? 'done' : 'refused'}`);
    }
    if (isDone) one.model.set(key, { value });
  }

  async putIfVersion() {
    const one = this.#some();
    const key = this.#choices.key();
    const value = this.#value();
    const isRight = this.#choices.isIn(80);
    const [entry, { from }] = await this.#timed(() => one.space.getEntry(key));
    const version = (entry?.version ?? 0) + (isRight ? 0 : 1);
    const [isDone, { to }] = await this.#timed(() => one.space.put(key, this.#stored(value), { ifVersion: version }));
    this.#note(`put if version ${version} ${one.name} ${brief(key)}: ${isDone}`);
    const mayDiffer = isThere(one.model.get(key), { from, to }) === undefined;
    if (isDone !== isRight && !(isRight && mayDiffer)) {
      throw new Wrong(`${this.#told(one)}: put of ${brief(key)} if its version is ${version}: ${isDone}`);
    }
    if (isDone) one.model.set(key, { value });
  }

  async update() {
    const one = this.#some();
    const key = this.#choices.key();
    const value = this.#choices.isIn(80) ? this.#value() : undefined;
    this.#note(`update ${one.name} ${brief(key)} ${brief(value)}`);
    let seen;
    const change = (found) => {
      seen = found;
      return value;
    };
    const [, time] = await this.#timed(() => one.space.update(key, change));
    const entry = one.model.get(key);
    checkValue(`${this.#told(one)}: update of ${brief(key)}`, seen, entry, time);
    // The new value expires when the old one would have.
    if (value === undefined) one.model.delete(key);
    else one.model.set(key, seen === undefined ? { value } : { ...entry, value });
  }

  /** Operations for batch(), and what they do to models. */
  #operations(count, key = () => this.#choices.key()) {
    const operations = [];
    const effects = [];
    for (let i = 0; i < count; i++) {
      const one = this.#some();
      const { space } = one;
      const at = key(i);
      if (this.#choices.isIn(70)) {
        const value = this.#value();
        operations.push({ type: 'put', space, key: at, value: this.#stored(value) });
        effects.push({ one, key: at, entry: { value } });
      } else {
        operations.push({ type: 'del', space, key: at });
        effects.push({ one, key: at, entry: undefined });
      }
    }
    return { operations, effects };
  }

  #apply(effects) {
    for (const { one, key, entry } of effects) {
      if (entry === undefined) one.model.delete(key);
      else one.model.set(key, entry);
    }
  }

  async batch() {
    const { operations, effects } = this.#operations(1 + this.#choices.below(12));
    this.#note(
      `batch ${effects.map(({ one, key, entry }) => `${entry ? '+' : '-'}${one.name} ${brief(key)}`).join(', ')}`,
    );
    await this.#db.batch(operations);
    this.#apply(effects);
  }

  /** Many neighbours at once. */
  async fill() {
    const one = this.#some();
    const from = this.#choices.below(400);
    const count = 20 + this.#choices.below(100);
    this.#note(`fill ${one.name} from k${from}, ${count}`);
    const puts = Array.from({ length: count }, (_, i) => ({ key: `k${from + i}`, value: this.#value() }));
    await Promise.all(puts.map(({ key, value }) => one.space.put(key, this.#stored(value))));
    for (const { key, value } of puts) one.model.set(key, { value });
  }

  async clear() {
    const one = this.#some();
    const range = this.#choices.isIn(30) ? {} : this.#choices.range();
    this.#note(`clear ${one.name} ${JSON.stringify(range).slice(0, 100)}`);
    await one.space.clear(range);
    for (const key of [...one.model.keys()]) if (isWithin(key, range)) one.model.delete(key);
  }

  /** One of its own, over several spaces, with savepoints; it reads what it has written. Ends in a commit or not. */
  async transact() {
    this.counts.transactions++;
    const options = { isolation: this.#choices.of(ISOLATIONS), mode: this.#choices.of(['optimistic', 'pessimistic']) };
    const doesCommit = this.#choices.isIn(75);
    this.#note(`transaction ${options.isolation} ${options.mode}${doesCommit ? '' : ', rolled back'}`);
    const from = Date.now();
    const tx = this.#db.begin(options);
    /** What it has written, in order; savepoints: how much of it there was. */
    let effects = [];
    let savepoints = [];
    const seenOf = (one) => {
      const model = new Map(one.model);
      this.#apply(effects.filter((effect) => effect.one === one).map((effect) => ({ ...effect, one: { model } })));
      return model;
    };
    try {
      for (let left = 1 + this.#choices.below(12); left > 0; left--) {
        const one = this.#some();
        // A transaction does not wait for a space that is being created.
        await one.space.ready;
        const part = tx.space(one.space);
        const what = `${this.#told(one)}, in a transaction`;
        const key = this.#choices.key();
        const act = this.#choices.weighted([
          [40, 'put'],
          [15, 'del'],
          [15, 'get'],
          [8, 'scan'],
          [10, 'savepoint'],
          [8, 'rollbackTo'],
        ]);
        if (act === 'put') {
          const value = this.#value();
          await part.put(key, this.#stored(value));
          effects.push({ one, key, entry: { value } });
        } else if (act === 'del') {
          await part.del(key);
          effects.push({ one, key, entry: undefined });
        } else if (act === 'get') {
          const got = await part.get(key);
          checkValue(`${what}: ${brief(key)}`, got, seenOf(one).get(key), { from, to: Date.now() });
        } else if (act === 'scan') {
          const scan = this.#choices.scan();
          const got = await part.iterator(scan).all();
          checkEntries(what, got, seenOf(one), scan, { from, to: Date.now() });
        } else if (act === 'savepoint') {
          savepoints.push({ name: tx.savepoint(), count: effects.length });
        } else if (savepoints.length > 0) {
          const back = this.#choices.below(savepoints.length);
          tx.rollbackTo(savepoints[back].name);
          effects = effects.slice(0, savepoints[back].count);
          savepoints = savepoints.slice(0, back + 1);
        }
      }
      if (!doesCommit) {
        await tx.rollback();
        return;
      }
      await tx.commit();
    } catch (error) {
      await tx.rollback().catch(() => undefined);
      // Nobody else writes, but the store removes what has expired, and that is a change.
      const expires = ({ expiresAt }) => expiresAt !== undefined && expiresAt <= Date.now();
      const mayConflict = [...this.#spaces.values()].some(({ model }) => [...model.values()].some(expires));
      if (error.code !== 'ERR_CONFLICT' || !mayConflict) throw error;
      this.counts.conflicts++;
      return;
    }
    this.#apply(effects);
  }

  // ---- reads -----------------------------------------------------------------------------------------------------------------------------

  async get() {
    const one = this.#some();
    const key = this.#choices.key();
    const isSync = this.#choices.isIn(50);
    const [got, time] = await this.#timed(() => (isSync ? one.space.getSync(key) : one.space.get(key)));
    checkValue(`${this.#told(one)}: ${brief(key)}`, got, one.model.get(key), time);
  }

  async scan() {
    const one = this.#some();
    const scan = this.#choices.scan();
    const isSync = this.#choices.isIn(50);
    const [got, time] = await this.#timed(() =>
      isSync ? [...one.space.iterateSync(scan)] : one.space.iterator(scan).all(),
    );
    checkEntries(this.#told(one), got, one.model, scan, time);
    if (!this.#choices.isIn(30)) return;
    const range = this.#choices.range();
    const [count, countTime] = await this.#timed(() => one.space.count(range));
    checkCount(this.#told(one), count, one.model, range, countTime);
  }

  async #checkAll(when) {
    for (const one of this.#spaces.values()) {
      const [got, time] = await this.#timed(() => one.space.iterator().all());
      checkEntries(`${this.#told(one)}, ${when}`, got, one.model, {}, time);
    }
  }

  async takeSnapshot() {
    if (this.#snapshots.length === SNAPSHOTS_MAX) return;
    const [snapshot, time] = await this.#timed(() => this.#db.snapshot());
    this.#note('snapshot');
    const models = new Map([...this.#spaces.values()].map(({ space, model }) => [space, new Map(model)]));
    this.#snapshots.push({ snapshot, time, models, step: this.counts.steps });
  }

  async readSnapshot() {
    if (this.#snapshots.length === 0) return;
    const held = this.#choices.of(this.#snapshots);
    const { snapshot, time, models, step } = held;
    for (const one of this.#spaces.values()) {
      const { space } = one;
      // A space that came later is empty.
      const model = models.get(space) ?? new Map();
      const what = `${this.#told(one)}, at the snapshot of step ${step}`;
      const key = this.#choices.key();
      const value = this.#choices.isIn(50) ? space.getSync(key, { snapshot }) : await space.get(key, { snapshot });
      checkValue(`${what}: ${brief(key)}`, value, model.get(key), time);
      if (this.#choices.isIn(50)) {
        const scan = this.#choices.scan();
        checkEntries(what, await space.iterator({ ...scan, snapshot }).all(), model, scan, time);
      }
      if (this.#choices.isIn(20)) checkCount(what, await space.count({ snapshot }), model, {}, time);
    }
    if (this.#choices.isIn(40)) await this.#closeSnapshot(held);
  }

  async #closeSnapshot(held) {
    this.#note(`close the snapshot of step ${held.step}`);
    this.#snapshots.splice(this.#snapshots.indexOf(held), 1);
    await held.snapshot.close();
  }

  async openIterator() {
    if (this.#iterators.length === ITERATORS_MAX) return;
    const { name, space, model } = this.#some();
    const scan = this.#choices.range();
    if (this.#choices.isIn(50)) scan.reverse = true;
    const iterator = space.iterator(scan);
    const [got, { from }] = await this.#timed(() => iterator.nextv(1 + this.#choices.below(10)));
    this.#note(`iterator over ${name}`);
    this.#iterators.push({ iterator, scan, got, model: new Map(model), name, space, from, step: this.counts.steps });
  }

  async readIterator() {
    if (this.#iterators.length === 0) return;
    const held = this.#choices.of(this.#iterators);
    const { iterator, scan, got, model, name, space, from, step } = held;
    const count = 1 + this.#choices.below(100);
    if (this.#spaces.get(name)?.space !== space) {
      // Of a space that was dropped.
      await this.#closeIterator(held);
      return;
    }
    const more = await iterator.nextv(count);
    got.push(...more);
    if (more.length > 0) return;
    await this.#closeIterator(held);
    const what = `${this.#told({ name, space })}, the iterator of step ${step}`;
    checkEntries(what, got, model, scan, { from, to: Date.now() });
  }

  async #closeIterator(held) {
    this.#iterators.splice(this.#iterators.indexOf(held), 1);
    await held.iterator.close();
  }

  // ---- spaces ----------------------------------------------------------------------------------------------------------------------------

  async create() {
    if (this.#spaces.size === SPACES_MAX) return;
    // Names of dropped ones come again.
    const name = this.#choices.isIn(50) ? `s${this.#choices.below(6)}` : `t${this.#names++}`;
    const options = { engine: this.#choices.of(engineNames()), ...this.#choices.of(TUNINGS) };
    if (this.#spaces.has(name)) return;
    this.#note(`create ${name} ${JSON.stringify(options)}`);
    this.#spaces.set(name, { name, space: this.#db.space(name, options), model: new Map() });
  }

  async switchEngine() {
    const one = this.#some();
    const engine = this.#choices.of(engineNames());
    const tuning = this.#choices.isIn(50) ? this.#choices.of(TUNINGS) : {};
    const abort = new AbortController();
    const abortMs = this.#choices.isIn(15) ? this.#choices.below(5) : undefined;
    const isAwaited = this.#choices.isIn(40);
    this.counts.switches++;
    const what = `switch ${this.#told(one)} to ${engine} ${JSON.stringify(tuning)}`;
    this.#note(what);
    // Another one may be under way, the space may be dropped meanwhile, the store closed.
    const switched = this.#goesOn(what, one.space.switchEngine(engine, { ...tuning, signal: abort.signal }), [
      ...['ERR_CONFLICT', 'ERR_SPACE_DROPPED', 'ERR_CLOSED', 'AbortError', 20],
    ]);
    if (abortMs !== undefined) setTimeout(() => abort.abort(), abortMs);
    if (isAwaited) await switched;
  }

  async drop() {
    const one = this.#some();
    this.#note(`drop ${one.name}`);
    this.#spaces.delete(one.name);
    const dropped = this.#goesOn(`drop ${one.name}`, one.space.drop(), []);
    if (this.#choices.isIn(70)) await dropped;
  }

  // ---- the store -------------------------------------------------------------------------------------------------------------------------

  async compact() {
    const one = this.#some();
    const range = this.#choices.range();
    this.#note(`compact ${one.name}`);
    if (this.#choices.isIn(50)) await one.space.compact(range);
    else await this.#db.compact();
  }

  async check() {
    this.#note('check');
    const problems = await this.#db.host.check();
    if (problems.length > 0) throw new Wrong(`check: ${problems.join('; ')}`);
  }

  async checkpoint() {
    this.#note('checkpoint');
    await this.#db.host.checkpointAll();
  }

  /** A checkpoint elsewhere is a store with the same entries. */
  async copy() {
    this.#note('copy');
    const directory = `${this.#directory}-copy`;
    await this.#db.checkpoint(directory);
    const copy = await ConcordPool.open(directory, this.#options);
    for (const one of this.#spaces.values()) {
      const [got, time] = await this.#timed(() => copy.space(one.name).iterator().all());
      checkEntries(`${this.#told(one)}, in a copy`, got, one.model, {}, time);
    }
    await copy.close();
    rmSync(directory, { recursive: true });
  }

  async reopen() {
    const isVerified = this.#choices.isIn(50);
    await this.#restart('reopen', async () => {
      await this.#db.close();
      if (isVerified) await this.#verify();
    });
  }

  /** All threads end where they are. */
  async crash() {
    this.counts.crashes++;
    await this.#restart('crash', () => this.#db.host.crash());
  }

  async #restart(how, end) {
    this.#note(how);
    // Whether a drop was made is not known before it is answered; switches go on by themselves.
    if (how === 'crash') await this.#settleBackground();
    for (const held of [...this.#snapshots]) await this.#closeSnapshot(held);
    for (const held of [...this.#iterators]) await this.#closeIterator(held);
    await end();
    await this.#settleBackground();
    this.#db = await ConcordPool.open(this.#directory, this.#options);
    for (const deaths of this.#deaths) deaths.length = 0;
    const names = (await this.#db.spaces()).map(({ name }) => name).sort();
    const expected = [...this.#spaces.keys()].sort();
    if (names.join() !== expected.join()) throw new Wrong(`after a ${how}: the spaces ${names} instead of ${expected}`);
    for (const one of this.#spaces.values()) one.space = this.#db.space(one.name);
    await this.#checkAll(`after a ${how}`);
  }

  /** @throws Wrong if the files of the closed store are not in order */
  async #verify() {
    if (this.#isInMemory) return;
    const { ok, problems } = await ConcordPool.verify(this.#directory);
    if (!ok) throw new Wrong(`verify: ${problems.map(({ message }) => message).join('; ')}`);
  }

  /** A shard's thread is killed while calls are under way. */
  async dieWhileWritten() {
    const shard = this.#choices.below(this.#deaths.length);
    const calls = this.#calls();
    const turns = this.#choices.below(4);
    const deaths = this.#deaths[shard];
    while (deaths.length > 0 && Date.now() - deaths[0] > DEATHS_MS) deaths.shift();
    if (deaths.length === DEATHS_MAX || !this.#areShardsUp()) return;
    deaths.push(Date.now());
    this.counts.deaths++;
    this.#note(`death of shard ${shard} in ${calls.length} calls`);
    const answers = calls.map(({ call }) =>
      call().then(
        () => true,
        (error) => error,
      ),
    );
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
    await this.#db.host.killShard(shard);
    for (const [i, answer] of (await Promise.all(answers)).entries()) {
      const { effects } = calls[i];
      if (answer === true) this.#apply(effects);
      else if (answer.code === 'ERR_SHARD_RESTARTED') await this.#learn(effects);
      else throw answer;
    }
    while (!this.#areShardsUp()) await new Promise((resolve) => setTimeout(resolve, 5));
    await this.#checkAll(`after the death of shard ${shard}`);
  }

  #areShardsUp() {
    return this.#db.stats().shards.every(({ state }) => state === 'running');
  }

  /** Puts, deletes and batches on different keys, so that each can be judged by itself. */
  #calls() {
    const first = this.#choices.below(300);
    let count = 0;
    return Array.from({ length: 5 + this.#choices.below(30) }, () => {
      const size = this.#choices.isIn(70) ? 1 : 2 + this.#choices.below(4);
      const { operations, effects } = this.#operations(size, () => `k${first + count++}`);
      const [{ type, space, key, value }] = operations;
      if (size > 1) return { effects, call: () => this.#db.batch(operations) };
      return { effects, call: () => (type === 'put' ? space.put(key, value) : space.del(key)) };
    });
  }

  /** Whether a call that was not answered has happened: all of it or nothing. */
  async #learn(effects) {
    this.counts.unknown++;
    const isMade = new Set();
    for (const { one, key, entry } of effects) {
      const [got, time] = await this.#timed(() => one.space.get(key));
      const before = one.model.get(key);
      // A delete of what is not there any more tells nothing.
      if (entry === undefined && isThere(before, time) !== true) {
        if (got !== undefined) checkValue(`${this.#told(one)}: ${brief(key)}`, got, before, time);
        continue;
      }
      const isThis = got === entry?.value;
      if (!isThis) checkValue(`${this.#told(one)}: ${brief(key)}, of a call in a death`, got, before, time);
      isMade.add(isThis);
    }
    if (isMade.size > 1) throw new Wrong(`half of a batch is there: ${effects.map(({ key }) => key).join(', ')}`);
    if (isMade.has(true)) this.#apply(effects);
  }
}
