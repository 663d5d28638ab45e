/**
 * One engine, filled and read in one thread. Child of bench/engines.mjs: takes { engine, plan, seed } as a message, answers with rows.
 *
 * Writes go the way a shard's go, less ring and log: operation records one behind the other, 500 of them a group, applied in the order GroupOrder gives
 * them, published together; sorting is inside the clock. Reads go the way a client's go: pin, find, release, unpin. Records and keys are made
 * before the clock starts, in the order of their use; what lookups return is consumed; at the end of the last round everything is read back
 * and compared.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import '../../dist/engines/built-in.js';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import { engineNamed } from '../../dist/engines/engine.js';
import {
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationHeader,
} from '../../dist/engines/operation.js';
import { GroupOrder } from '../../dist/engines/store/group-order.js';
import { ArenaReader, ArenaWriter, UNIT_BYTES, createArena } from '../../dist/shared/memory/arena.js';
import { mix32, Random } from './random.mjs';

export const KEY_BYTES = 17;
export const VALUE_BYTES = 40;
export const GROUP = 500;
const DIGITS_AT = 4;
const KEYS_MAX_BYTES_PER_ENTRY = 400;
const MEMORY_BYTES_MIN = 2 << 20;
/** Untimed rounds before the first: the compiler's. */
const WARM_UP_RECORDS = 60_000;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');

const RECORD_BYTES = operationBytes(KEY_BYTES, VALUE_BYTES);
const SLOT = 0;
const NO_SNAPSHOTS = new Float64Array(0);

function writeKey(bytes, start, id) {
  bytes.write('key:', start, 'latin1');
  let digits = id;
  for (let at = start + KEY_BYTES - 1; at >= start + DIGITS_AT; at--) {
    bytes[at] = 0x30 + (digits % 10);
    digits = Math.floor(digits / 10);
  }
}

/** Keys of the ids, as objects made one after the other. */
function makeKeys(ids) {
  const bytes = Buffer.alloc(ids.length * KEY_BYTES);
  const keys = new Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    writeKey(bytes, i * KEY_BYTES, ids[i]);
    keys[i] = bytes.subarray(i * KEY_BYTES, (i + 1) * KEY_BYTES);
  }
  return keys;
}

/** Operation records that put the ids. The value follows from the id. */
function makeRecords(ids) {
  const bytes = Buffer.alloc(ids.length * RECORD_BYTES);
  for (let i = 0; i < ids.length; i++) {
    const at = i * RECORD_BYTES;
    writeOperationHeader(bytes, at, OperationKind.Put, 0, KEY_BYTES, VALUE_BYTES);
    writeKey(bytes, at + OPERATION_HEADER_BYTES, ids[i]);
    for (let word = 0; word < VALUE_BYTES; word += 4)
      bytes.writeUInt32LE(mix32(ids[i] + word), at + OPERATION_HEADER_BYTES + KEY_BYTES + word);
  }
  return bytes;
}

function isValueOf(value, id) {
  for (let word = 0; word < VALUE_BYTES; word += 4) if (value.readUInt32LE(word) !== mix32(id + word)) return false;
  return value.length === VALUE_BYTES;
}

export function idsInOrder(count, order, random) {
  const ids = new Uint32Array(count);
  for (let i = 0; i < count; i++) ids[i] = i;
  if (order === 'sequential') return ids;
  for (let i = count - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [ids[i], ids[other]] = [ids[other], ids[i]];
  }
  return ids;
}

/** One engine in an arena of its own. */
class Shard {
  arena;
  writer;
  reads;
  reader;
  cursor;
  #seq = 0;
  #publishedSeq = 0;
  #order = new GroupOrder();
  #recordAt = new Int32Array(GROUP);

  constructor(name, memoryBytes) {
    const engine = engineNamed(name);
    const layout = createArena({ memoryBytes });
    this.name = name;
    this.arena = new ArenaWriter(layout);
    this.writer = engine.openWriter(this.arena, 0, 0, {});
    publishTrees(this.arena, 0);
    this.reads = new ArenaReader(layout);
    this.reader = engine.openReader(this.reads, 0, 0, SLOT);
    this.cursor = engine.openCursor(this.reads, 0, 0, SLOT);
  }

  get usedBytes() {
    return this.arena.usedUnits * UNIT_BYTES;
  }

  #put(bytes, at, seq) {
    const keyAt = at + OPERATION_HEADER_BYTES;
    this.writer.put(bytes, keyAt, KEY_BYTES, bytes, keyAt + KEY_BYTES, VALUE_BYTES, seq, 0);
  }

  #begin() {
    this.writer.setSnapshots(NO_SNAPSHOTS, 0);
    this.writer.beginGroup(this.#publishedSeq, false);
  }

  #publish() {
    this.#publishedSeq = this.#seq;
    publishTrees(this.arena, this.#seq);
    this.writer.endGroup();
    this.arena.reclaim();
  }

  fillInGroups(bytes) {
    const recordAt = this.#recordAt;
    const order = this.#order;
    const count = bytes.length / RECORD_BYTES;
    for (let from = 0; from < count; from += GROUP) {
      const records = Math.min(GROUP, count - from);
      for (let i = 0; i < records; i++) recordAt[i] = (from + i) * RECORD_BYTES;
      this.#begin();
      const first = this.#seq + 1;
      if (order.sort(bytes, recordAt, records, 0)) {
        for (let i = 0; i < records; i++) this.#put(bytes, recordAt[order.order[i]], first + order.order[i]);
      } else {
        for (let i = 0; i < records; i++) this.#put(bytes, recordAt[i], first + i);
      }
      this.#seq += records;
      this.#publish();
    }
  }

  fillOneByOne(bytes) {
    for (let at = 0; at < bytes.length; at += RECORD_BYTES) {
      this.#begin();
      this.#put(bytes, at, ++this.#seq);
      this.#publish();
    }
  }

  has(key) {
    const { reads, reader } = this;
    const found = reader.find(reads.pin(SLOT), key, KEY_BYTES, Infinity, 0);
    reader.release();
    reads.unpin(SLOT);
    return found;
  }

  get(key) {
    const { reads, reader } = this;
    const value = reader.find(reads.pin(SLOT), key, KEY_BYTES, Infinity, 0) ? reader.copyValue() : undefined;
    reader.release();
    reads.unpin(SLOT);
    return value;
  }

  /** Everything is there, nothing else is, and it is sound. */
  verify(ids) {
    const { name, writer, cursor, reads } = this;
    const keys = makeKeys(ids);
    expect(writer.counts().liveEntries, ids.length, `${name}: entries`);
    expect(writer.check().join('; '), '', `${name}: problems`);
    for (let i = 0; i < keys.length; i++) {
      const value = this.get(keys[i]);
      if (value === undefined || !isValueOf(value, ids[i]))
        throw new Error(`${name}: record ${ids[i]} is not as written`);
    }
    const wanted = Buffer.alloc(KEY_BYTES);
    let entries = 0;
    cursor.setRange(undefined, undefined);
    cursor.seek(reads.pin(SLOT), undefined, 0, Infinity, false, 0);
    for (; cursor.valid; cursor.next()) {
      writeKey(wanted, 0, entries++);
      expect(cursor.compareKey(wanted, KEY_BYTES), 0, `${name}: key ${entries - 1} in order`);
    }
    cursor.release();
    reads.unpin(SLOT);
    expect(entries, ids.length, `${name}: entries of an iteration`);
  }
}

function lookUpAll(shard, keys) {
  let found = 0;
  for (let i = 0; i < keys.length; i++) if (shard.has(keys[i])) found++;
  return found;
}

function getAll(shard, keys) {
  let bytes = 0;
  for (let i = 0; i < keys.length; i++) bytes += shard.get(keys[i])?.length ?? 0;
  return bytes;
}

function secondsOf(work) {
  const started = performance.now();
  work();
  return (performance.now() - started) / 1000;
}

function expect(is, wanted, what) {
  if (is !== wanted) throw new Error(`${what}: ${is}, expected ${wanted}`);
}

function memoryFor(records) {
  return Math.max(MEMORY_BYTES_MIN, records * KEYS_MAX_BYTES_PER_ENTRY);
}

/** One round: seconds of each kind of operation, bytes per entry. */
function round(name, count, order, seed, isLast, oneByOne) {
  const random = new Random(seed, `${name} ${count} ${order}`);
  const ids = idsInOrder(count, order, random);
  const records = makeRecords(ids);
  const lookups = makeKeys(idsInOrder(count, order, random));
  if (count >= 100_000) collect();
  const shard = new Shard(name, memoryFor(count));
  const before = shard.usedBytes;
  const rssBefore = process.memoryUsage.rss();
  const set = secondsOf(() => {
    if (oneByOne) shard.fillOneByOne(records);
    else shard.fillInGroups(records);
  });
  const bytesPerEntry = (shard.usedBytes - before) / count;
  const rssPerEntry = (process.memoryUsage.rss() - rssBefore) / count;
  let found = 0;
  let bytes = 0;
  const has = secondsOf(() => {
    found = lookUpAll(shard, lookups);
  });
  expect(found, count, `${name}: keys found`);
  const get = secondsOf(() => {
    bytes = getAll(shard, lookups);
  });
  expect(bytes, count * VALUE_BYTES, `${name}: bytes read`);
  if (isLast) shard.verify(ids);
  return { set, has, get, bytesPerEntry, rssPerEntry };
}

const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1];

/** plan: [{ records, order, rounds, oneByOne }]. Rates in millions per second, medians of the rounds. */
export function measureEngine({ engine: name, plan, seed }) {
  const rows = [];
  for (let done = 0; done < WARM_UP_RECORDS; done += 1000)
    round(name, 1000, done % 2000 === 0 ? 'sequential' : 'shuffled', seed, false, false);
  for (const { records, order, rounds, oneByOne } of plan) {
    const all = [];
    for (let index = 0; index < rounds; index++)
      all.push(round(name, records, order, seed + index, index === rounds - 1, oneByOne));
    const rate = (what) => records / median(all.map((figures) => figures[what])) / 1e6;
    rows.push({
      engine: name,
      records,
      order,
      oneByOne,
      set: rate('set'),
      has: rate('has'),
      get: rate('get'),
      bytesPerEntry: median(all.map(({ bytesPerEntry }) => bytesPerEntry)),
      rssPerEntry: median(all.map(({ rssPerEntry }) => rssPerEntry)),
      rounds,
    });
  }
  return rows;
}

if (process.send !== undefined && process.argv[2] === '--child') {
  process.once('message', (request) => {
    let answer;
    try {
      answer = { rows: measureEngine(request) };
    } catch (error) {
      answer = { error: error.stack };
    }
    process.send(answer, () => process.disconnect());
  });
}
