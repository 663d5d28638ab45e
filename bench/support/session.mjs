/**
 * One engine's store and what it should contain. Lives in the engine's own process; workloads run on it.
 *
 * Every value written carries the next generation number. `issued[id]` is the last generation sent to the store for an id,
 * `acked[id]` the last one acknowledged; 0 means never. So each read can be judged: the value must be whole, belong to the key, and
 * be no older than what was acknowledged before the read began. At rest, an engine that keeps the order of the calls must hold
 * exactly `issued`. Of an engine that may reorder writes in flight only wholeness and key are judged. Threads: one.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generationOf, idOf, isKeyOf, isValue, isWholeValue, makeKeys, makeValue, RECORD_BYTES } from './records.mjs';

const LOAD_BATCH_ENTRIES = 1000;
const COMPLAINTS_MAX = 5;

export class Session {
  engine;
  engineName;
  store;
  keys;
  /** Ids loaded before the workloads. */
  loadedCount;
  /** Ids [0, count) are in the store. */
  count = 0;
  generation = 0;
  issued;
  acked;
  seed;
  wrong = 0;
  complaints = [];
  lastKey = '';
  /** What workloads keep between their turns (reader threads); each has a close(). */
  attachments = new Map();
  #directory;
  #openOptions;

  static async create({ engineName, loadedCount, capacity, seed, directory }) {
    const session = new Session();
    session.engineName = engineName;
    session.engine = await import(new URL(`../engines/${engineName}.mjs`, import.meta.url));
    session.loadedCount = loadedCount;
    session.seed = seed;
    session.keys = makeKeys(capacity);
    session.issued = new Uint32Array(capacity);
    session.acked = new Uint32Array(capacity);
    session.#directory = directory;
    return session;
  }

  async open(durability) {
    this.#openOptions = { durability, rawBytes: this.keys.length * RECORD_BYTES };
    mkdirSync(this.#directory, { recursive: true });
    this.store = await this.engine.open(join(this.#directory, 'store'), this.#openOptions);
  }

  async close() {
    for (const attachment of this.attachments.values()) await attachment.close();
    this.attachments.clear();
    const { store } = this;
    this.store = undefined;
    await store?.close();
  }

  /** An empty store. */
  async reset(durability) {
    await this.close();
    rmSync(this.#directory, { recursive: true, force: true });
    this.count = 0;
    this.lastKey = '';
    this.issued.fill(0);
    this.acked.fill(0);
    await this.open(durability);
  }

  /** All of the loaded ids, in batches; untimed. */
  async load() {
    for (let id = 0; id < this.loadedCount; id += LOAD_BATCH_ENTRIES) {
      const entries = [];
      for (let i = id; i < Math.min(id + LOAD_BATCH_ENTRIES, this.loadedCount); i++) entries.push(this.entry(i));
      await this.store.batch(entries);
      for (const [, value] of entries) this.acknowledge(idOf(value), generationOf(value));
    }
    this.count = this.loadedCount;
  }

  /** [key, value] of a new generation of the id. */
  entry(id) {
    return [this.keyToWrite(id), makeValue(id, this.issue(id))];
  }

  issue(id) {
    const generation = ++this.generation;
    this.issued[id] = generation;
    return generation;
  }

  keyToWrite(id) {
    const key = this.keys[id];
    if (key === undefined) throw new Error(`id ${id} is beyond the ${this.keys.length} keys this run made`);
    if (key > this.lastKey) this.lastKey = key;
    return key;
  }

  acknowledge(id, generation) {
    if (generation > this.acked[id]) this.acked[id] = generation;
  }

  /** Judges what a read of `id` returned; `floor` is acked[id] before the read began. */
  checkRead(id, value, floor) {
    if (isValue(value) && idOf(value) === id && (generationOf(value) >= floor || !this.engine.ordered)) return;
    this.#complain(this.keys[id], value, floor);
  }

  /** As checkRead(), of a read that was noted (records.mjs). */
  checkNote(notes, index, id, floor) {
    const generation = notes.generationOf(index, id);
    if (generation !== 0 && (generation >= floor || !this.engine.ordered)) return;
    this.complain(
      `${this.engineName}: read of ${this.keys[id]}: ${notes.describe(index)}, expected generation ${floor} or later`,
    );
  }

  /** Judges one entry of a scan by itself. */
  checkEntry(key, value) {
    if (!isValue(value) || !isKeyOf(key, idOf(value))) this.#complain(key, value, 0);
  }

  complain(text) {
    this.wrong++;
    if (this.complaints.length < COMPLAINTS_MAX) this.complaints.push(text);
  }

  #complain(key, value, floor) {
    const got = value === undefined ? 'nothing' : `${value.length} bytes ${Buffer.from(value).toString('hex', 0, 16)}…`;
    this.complain(`${this.engineName}: read of ${key}: ${got}, expected generation ${floor} or later`);
  }

  /** Reads everything back at rest, by key and by scan, and compares every byte. Returns the number of entries. */
  async verify() {
    const { store, engine } = this;
    for (let id = 0; id < this.count; id++) {
      const value = store.getSync(this.keys[id]);
      const stored = isWholeValue(value) && idOf(value) === id ? generationOf(value) : 0;
      const issued = this.issued[id];
      if (stored === 0 || stored > this.generation || (engine.ordered && stored !== issued)) {
        this.#complain(this.keys[id], value, issued);
      }
    }
    let entries = 0;
    let previous = '';
    const visit = (key, value) => {
      entries++;
      if (key <= previous) this.complain(`${this.engineName}: scan gave ${key} after ${previous}`);
      previous = key;
      this.checkEntry(key, value);
    };
    if (store.scanSync) store.scanSync(undefined, undefined, visit);
    else await store.scan(undefined, undefined, visit);
    if (entries !== this.count) this.complain(`${this.engineName}: scan gave ${entries} entries of ${this.count}`);
    return entries;
  }

  /** So that another process can go on with the store. */
  saveExpectation(file) {
    const state = { count: this.count, generation: this.generation, lastKey: this.lastKey };
    writeFileSync(`${file}.json`, JSON.stringify(state));
    writeFileSync(file, this.issued);
  }

  loadExpectation(file) {
    const state = JSON.parse(readFileSync(`${file}.json`, 'utf8'));
    this.count = state.count;
    this.generation = state.generation;
    this.lastKey = state.lastKey;
    const bytes = readFileSync(file);
    this.issued = new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    this.acked.set(this.issued);
  }
}
