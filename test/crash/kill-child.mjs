/**
 * One life of the kill loop: verify what the predecessors were told, then write until killed. See kill-loop.mjs.
 *
 * Loads the code at once, then waits for its options, so that the next life is ready when the one before it dies.
 */
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { ConcordPool } from '../../dist/index.js';

const KEYS = 1500;
const PAIRS = 200;
const LARGE_EVERY = 400;
/** A life is at its work when so many calls were acknowledged. */
const AT_WORK_CALLS = 32;
/** Of values, in a store that keeps most of its pages in files. */
const BUDGET_SCALE = 10;

const options = await new Promise((resolve) => {
  // The parent may end before this life began.
  process.once('disconnect', () => process.exit(0));
  process.once('message', resolve);
});

function problem(text) {
  process.send({ problem: `life ${options.life} (seed ${options.seed}): ${text}` }, () => process.exit(1));
  return new Promise(() => undefined);
}

let state = options.seed >>> 0;
function random() {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

/** A value that tells whose it is and whether it is whole. */
function valueOf(key, generation, bytes) {
  const body = `${key}|${generation}|`.padEnd(bytes, String.fromCharCode(97 + (generation % 26)));
  return body + createHash('sha1').update(body).digest('hex');
}

function generationOf(key, value) {
  const body = value.slice(0, -40);
  if (createHash('sha1').update(body).digest('hex') !== value.slice(-40)) return undefined;
  const [storedKey, generation] = body.split('|');
  return storedKey === key ? Number(generation) : undefined;
}

/**
 * The witness, a line per event: "<key> <generation> <p|d> <?|.>". '?' stands before a call is made, '.' after it was acknowledged. Calls for one key
 * take effect in the order of their generations, so what may be there is the last acknowledged call or one that was begun after it.
 */
class Witness {
  /** key → { acknowledged, isDelete, begun: [generation, isDelete][] }; begun only lists what is later than acknowledged. */
  keys = new Map();
  acknowledgedLines = 0;
  #path;
  #file;
  #acknowledgedHere = 0;

  constructor(path) {
    this.#path = path;
    if (!fs.existsSync(path)) return;
    for (const line of fs.readFileSync(path, 'utf8').split('\n')) {
      const [key, number, kind, mark] = line.split(' ');
      // The last line of a killed writer may be cut off.
      if (mark !== '?' && mark !== '.') continue;
      const entry = this.of(key);
      const generation = Number(number);
      const isDelete = kind === 'd';
      if (mark === '?') entry.begun.push([generation, isDelete]);
      else {
        this.acknowledgedLines++;
        if (generation > entry.acknowledged) Object.assign(entry, { acknowledged: generation, isDelete });
      }
      entry.begun = entry.begun.filter(([begun]) => begun > entry.acknowledged);
    }
  }

  of(key) {
    let entry = this.keys.get(key);
    if (entry === undefined) this.keys.set(key, (entry = { acknowledged: 0, isDelete: true, begun: [] }));
    return entry;
  }

  /** Starts over with what was found: one line per key. In one step, so that a kill leaves the old file or the new one. */
  restart() {
    const lines = [];
    for (const [key, { acknowledged, isDelete }] of this.keys)
      lines.push(`${key} ${acknowledged} ${isDelete ? 'd' : 'p'} .\n`);
    fs.writeFileSync(`${this.#path}.next`, lines.join(''));
    fs.renameSync(`${this.#path}.next`, this.#path);
    this.#file = fs.openSync(this.#path, 'a');
  }

  /** Before calls are made. `calls`: [key, generation, isDelete]. */
  begin(calls) {
    this.#write(calls, '?');
  }

  /** After they were acknowledged. */
  acknowledge(calls) {
    this.#write(calls, '.');
    const before = this.#acknowledgedHere;
    this.#acknowledgedHere += calls.length;
    if (before < AT_WORK_CALLS && this.#acknowledgedHere >= AT_WORK_CALLS) process.send({ atWork: true });
  }

  #write(calls, mark) {
    const lines = calls.map(([key, generation, isDelete]) => `${key} ${generation} ${isDelete ? 'd' : 'p'} ${mark}\n`);
    fs.writeSync(this.#file, lines.join(''));
  }
}

const witness = new Witness(options.witness);
const scale = options.budget ? BUDGET_SCALE : 1;
let db;
try {
  db = await ConcordPool.open(options.store, {
    shards: options.shards,
    durability: 'os',
    memoryBytes: 256 << 20,
    segmentBytes: 256 << 10,
    checkpointLogBytes: options.budget ? 2 << 20 : 512 << 10,
    ...(options.budget ? { budgetBytes: 1 << 20 } : {}),
  });
} catch (error) {
  await problem(`open failed: ${error.code} ${error.message}`);
}

const next = new Map();
for (const [key, entry] of witness.keys) {
  const value = db.getSync(key);
  const { acknowledged, isDelete, begun } = entry;
  if (value === undefined) {
    const mayBeAbsent = isDelete || begun.some(([, deletes]) => deletes);
    if (!mayBeAbsent) await problem(`${key}: generation ${acknowledged} was acknowledged, nothing is there`);
    if (!isDelete) {
      const [generation] = begun.find(([, deletes]) => deletes);
      Object.assign(entry, { acknowledged: generation, isDelete: true });
    }
  } else {
    const found = generationOf(key, value);
    if (found === undefined) await problem(`${key} holds a damaged value of ${value.length} bytes`);
    if (found !== acknowledged || isDelete) {
      const wasBegun = begun.some(([generation, deletes]) => generation === found && !deletes);
      if (!wasBegun) {
        await problem(
          `${key}: ${isDelete ? 'the delete' : 'generation'} ${acknowledged} was acknowledged, ${found} is there`,
        );
      }
      Object.assign(entry, { acknowledged: found, isDelete: false });
    }
  }
  next.set(key, Math.max(entry.acknowledged, ...begun.map(([generation]) => generation)));
  entry.begun = [];
}
for (let pair = 0; pair < PAIRS; pair++) {
  const [left, right] = [`pair${pair}`, `pair${pair}b`].map((key) => {
    const value = db.getSync(key);
    return value === undefined ? -1 : generationOf(key, value);
  });
  if (left !== right) await problem(`pair ${pair} is half there: generations ${left} and ${right}`);
}
const problems = await db.host.check();
if (problems.length > 0) await problem(`check: ${problems.slice(0, 3).join('; ')}`);
let listed = 0;
for await (const [key, value] of db.iterator()) {
  if (generationOf(key, value) === undefined) await problem(`a scan shows a damaged value of ${key}`);
  if (!witness.keys.has(key)) await problem(`${key} is there, and nobody wrote it`);
  listed++;
}
if (listed !== (await db.count())) await problem(`a scan lists ${listed} entries, the count is ${await db.count()}`);

process.send({ verified: listed, acknowledged: witness.acknowledgedLines });
if (options.last) {
  await db.close();
  process.disconnect();
} else {
  witness.restart();
  const generationFor = (key) => {
    const generation = (next.get(key) ?? 0) + 1;
    next.set(key, generation);
    return generation;
  };
  const durabilityOf = () => options.durability ?? (random() < 0.3 ? 'sync' : 'os');
  const writePair = async () => {
    const pair = Math.floor(random() * PAIRS);
    const keys = [`pair${pair}`, `pair${pair}b`];
    const generation = generationFor(keys[0]);
    next.set(keys[1], generation);
    const calls = keys.map((key) => [key, generation, false]);
    witness.begin(calls);
    await db.batch(
      keys.map((key) => ({ type: 'put', key, value: valueOf(key, generation, 80 * scale) })),
      { durability: durabilityOf() },
    );
    witness.acknowledge(calls);
  };
  const writeSome = async (turn) => {
    const calls = Array.from({ length: options.burst }, () => {
      const key = `key${Math.floor(random() * KEYS)}`;
      return [key, generationFor(key), random() < 0.15];
    });
    witness.begin(calls);
    await Promise.all(
      calls.map(async ([key, generation, isDelete]) => {
        const durability = durabilityOf();
        const isLarge = turn % LARGE_EVERY === LARGE_EVERY - 1;
        const bytes = isLarge ? 200_000 : scale * (60 + Math.floor(random() * 200));
        if (isDelete) await db.del(key, { durability });
        else await db.put(key, valueOf(key, generation, bytes), { durability });
      }),
    );
    witness.acknowledge(calls);
  };
  const write = async () => {
    for (let turn = 0; ; turn++) {
      if (random() < 0.15) await writePair();
      else await writeSome(turn);
    }
  };
  try {
    await Promise.all(Array.from({ length: options.callers }, write));
  } catch (error) {
    await problem(`a write failed: ${error.code ?? ''} ${error.stack}`);
  }
}
