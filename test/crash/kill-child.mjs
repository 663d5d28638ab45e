/** One life of the kill loop: verify what the predecessors were told, then write until killed. See kill-loop.mjs. */
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { ConcordPool } from '../../dist/index.js';

const options = JSON.parse(process.argv[2]);
const KEYS = 3000;
const PAIRS = 200;
const LARGE_EVERY = 400;

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

// What was acknowledged: key → generation, or 'd' + generation for a delete.
const acknowledged = new Map();
let lines = 0;
if (fs.existsSync(options.witness)) {
  for (const line of fs.readFileSync(options.witness, 'utf8').split('\n')) {
    const [key, generation, end] = line.split(' ');
    // The last line of a killed writer may be cut off.
    if (end !== '.') continue;
    acknowledged.set(key, generation);
    lines++;
  }
}

let db;
try {
  db = await ConcordPool.open(options.store, {
    shards: options.shards,
    durability: 'os',
    memoryBytes: 256 << 20,
    segmentBytes: 256 << 10,
    checkpointLogBytes: 512 << 10,
  });
} catch (error) {
  await problem(`open failed: ${error.code} ${error.message}`);
}

const generations = new Map();
for (const [key, record] of acknowledged) {
  const value = db.getSync(key);
  const isDelete = record.startsWith('d');
  const atLeast = Number(isDelete ? record.slice(1) : record);
  let found = -1;
  if (value !== undefined) {
    found = generationOf(key, value);
    if (found === undefined) await problem(`${key} holds a damaged value of ${value.length} bytes`);
    if (found < atLeast) await problem(`${key}: generation ${atLeast} was acknowledged, ${found} is there`);
  } else if (!isDelete && !key.startsWith('del')) {
    // Only keys named del… are ever deleted.
    await problem(`${key}: generation ${atLeast} was acknowledged, nothing is there`);
  }
  generations.set(key, Math.max(found, atLeast));
}
for (let pair = 0; pair < PAIRS; pair++) {
  const left = db.getSync(`pair${pair}`);
  const right = db.getSync(`pair${pair}b`);
  const a = left === undefined ? -1 : generationOf(`pair${pair}`, left);
  const b = right === undefined ? -1 : generationOf(`pair${pair}b`, right);
  if (a !== b) await problem(`pair ${pair} is half there: generations ${a} and ${b}`);
  if (a >= 0) generations.set(`pair${pair}`, Math.max(generations.get(`pair${pair}`) ?? 0, a));
}
const problems = await db.host.check();
if (problems.length > 0) await problem(`check: ${problems.slice(0, 3).join('; ')}`);
let listed = 0;
for await (const [key, value] of db.iterator()) {
  const name = key.replace(/b$/, '');
  if (generationOf(key, value) === undefined) await problem(`${name} holds a damaged value`);
  listed++;
}
if (listed !== (await db.count())) await problem(`a scan lists ${listed} entries, the count is ${await db.count()}`);

process.send({ verified: listed, acknowledged: lines });
if (options.last) {
  await db.close();
  process.disconnect();
} else {
  const witness = fs.openSync(options.witness, 'a');
  const sameShard = new Map();
  const write = async () => {
    for (let turn = 0; ; turn++) {
      const kind = random();
      if (kind < 0.15) {
        // Two keys in one batch: both or neither. Only pairs that live on one shard are used.
        const pair = Math.floor(random() * PAIRS);
        const key = `pair${pair}`;
        if (sameShard.get(pair) === false) continue;
        const generation = (generations.get(key) ?? 0) + 1;
        generations.set(key, generation);
        try {
          await db.batch(
            [
              { type: 'put', key, value: valueOf(key, generation, 80) },
              { type: 'put', key: `${key}b`, value: valueOf(`${key}b`, generation, 80) },
            ],
            { durability: random() < 0.3 ? 'sync' : 'os' },
          );
          fs.writeSync(witness, `${key} ${generation} .\n`);
        } catch (error) {
          if (error.code !== 'ERR_BATCH_CROSS_SHARD') throw error;
          sameShard.set(pair, false);
        }
        continue;
      }
      const deletes = kind > 0.85;
      const key = deletes ? `del${Math.floor(random() * KEYS)}` : `key${Math.floor(random() * KEYS)}`;
      const generation = (generations.get(key) ?? 0) + 1;
      generations.set(key, generation);
      const durability = random() < 0.3 ? 'sync' : 'os';
      if (deletes && random() < 0.5) {
        await db.del(key, { durability });
        fs.writeSync(witness, `${key} d${generation} .\n`);
      } else {
        const bytes = turn % LARGE_EVERY === LARGE_EVERY - 1 ? 200_000 : 60 + Math.floor(random() * 200);
        await db.put(key, valueOf(key, generation, bytes), { durability });
        fs.writeSync(witness, `${key} ${generation} .\n`);
      }
    }
  };
  // Many callers at once; each key has one writer at a time only by chance, so generations are what orders them.
  try {
    await Promise.all(Array.from({ length: 32 }, write));
  } catch (error) {
    await problem(`a write failed: ${error.code ?? ''} ${error.stack}`);
  }
}
