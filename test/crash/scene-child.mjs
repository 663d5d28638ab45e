/**
 * One life of the kill loop over several spaces in several engines: verify what the predecessors were told, then write, move spaces from engine to
 * engine, let entries expire, drop spaces and make them again, until killed. See kill-loop.mjs.
 *
 *   pool, stable0, stable1 …    exist from the first life on; pairs of writes to two of them are atomic
 *   fleeting0, fleeting1        are dropped and made again all the time
 *
 * Every space holds a ballast of entries that never change, so that moving it takes several slices.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { ConcordPool } from '../../dist/index.js';
import { generationOf, mulberry32, valueOf } from '../support/threads-load.mjs';
import { engineRows, strayRows } from './engine-rows.mjs';
import { SceneWitness } from './scene-witness.mjs';

const ENGINES = ['btree', 'hash', 'rbtree', 'array', 'memtable', 'lsm'];
const POOL = 'pool';
const FLEETING = ['fleeting0', 'fleeting1'];
const KEYS = 250;
const PAIRS = 60;
const LARGE_EVERY = 300;
/** A life is at its work when so many calls were acknowledged. */
const AT_WORK_CALLS = 32;
const LARGE_BYTES = 200_000;
const BALLAST_ENTRIES = 1200;
const FLEETING_BALLAST_ENTRIES = 300;
const BALLAST_BATCH = 500;
/** Between the note in the witness and the call that reads the clock; a disk that others keep busy may hold the note up. */
const EXPIRY_SLACK_MS = 60_000;
const HOUR_MS = 3_600_000;
/** Of values, in a store that keeps most of its pages in files, or merges all the time. */
const LARGER_SCALE = 10;
/** So small that the writes of one life go through several levels. */
const TREE_LIMITS = {
  memtableBytes: 64 << 10,
  tableBytes: 32 << 10,
  levelBytes: 128 << 10,
  levelFactor: 4,
  level0Runs: 2,
  blobValueBytes: 2000,
  blobFileBytes: 128 << 10,
};

const options = await new Promise((resolve) => {
  // The parent may end before this life began.
  process.once('disconnect', () => process.exit(0));
  process.once('message', resolve);
});

function problem(text) {
  process.send({ problem: `life ${options.life} (seed ${options.seed}): ${text}` }, () => process.exit(1));
  return new Promise(() => undefined);
}

const random = mulberry32(options.seed);
const below = (limit) => Math.floor(random() * limit);
const oneOf = (list) => list[below(list.length)];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const { scene } = options;
const isMoving = scene === 'switch' || scene === 'all';
const isExpiring = scene === 'expiry' || scene === 'all';
const isDropping = scene === 'drop' || scene === 'all';
const isMerging = scene === 'compaction' || scene === 'all';
const scale = options.budget || scene === 'compaction' ? LARGER_SCALE : 1;
// What is another engine's is ignored.
const tuning = { lsm: TREE_LIMITS, ...(options.budget ? { budgetBytes: 1 << 20 } : {}) };
const home = (index) => (options.engine === 'all' ? ENGINES[index % ENGINES.length] : options.engine);
const STABLE = options.engine === 'all' ? ENGINES.map((_, index) => `stable${index}`) : ['stable0', 'stable1'];

const witness = new SceneWitness(options.witness);

// ---- what is on disk ------------------------------------------------------------------------------------------------------------------------

if (options.verifies && fs.existsSync(path.join(options.store, 'MANIFEST'))) {
  const report = await ConcordPool.verify(options.store);
  if (!report.ok) await problem(`verify: ${JSON.stringify(report.problems.slice(0, 3))}`);
}

/** Directories that may go while they are looked for have no names in them then. */
function namesIn(directory) {
  try {
    return fs.readdirSync(directory);
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
    return [];
  }
}

/** Names of tables and blob files with their directories. */
function treeFiles() {
  const shards = namesIn(options.store).filter((name) => name.startsWith('shard-'));
  const trees = shards.flatMap((shard) =>
    namesIn(path.join(options.store, shard)).flatMap((name) => (name.startsWith('lsm-') ? path.join(shard, name) : [])),
  );
  return trees.flatMap((tree) =>
    namesIn(path.join(options.store, tree)).flatMap((name) =>
      /\.(sst|blob)$/.test(name) ? path.join(tree, name) : [],
    ),
  );
}

const filesFound = treeFiles();
let db;
try {
  db = await ConcordPool.open(options.store, {
    shards: options.shards,
    durability: 'os',
    memoryBytes: 128 << 20,
    segmentBytes: 256 << 10,
    checkpointLogBytes: options.budget ? 2 << 20 : 256 << 10,
    expiry: { intervalMs: 10, batch: 64 },
    ...(fs.existsSync(path.join(options.store, 'MANIFEST')) ? {} : { engine: home(0) }),
    ...tuning,
  });
} catch (error) {
  await problem(`open failed: ${error.code} ${error.message}`);
}

const filesKept = new Set(treeFiles());
const leftovers = filesFound.filter((name) => !filesKept.has(name)).length;

// ---- which spaces there are, in which engines ----------------------------------------------------------------------------------------------

const names = new Set([POOL, ...(await db.spaces()).map(({ name }) => name)]);
const storeOf = (name) => (name === POOL ? db : db.space(name, { createIfMissing: false }));
const interrupted = strayRows(db).length > 0;
{
  const pool = witness.of(POOL);
  if (pool.state === 'gone') Object.assign(pool, { state: 'there', engines: [db.engine] });
}
for (const name of names) if (!witness.spaces.has(name)) await problem(`there is a space ${name} that nobody made`);
for (const facts of witness.spaces.values()) {
  const { name, incarnation, state, engines } = facts;
  const isThere = names.has(name);
  if (isThere && state === 'gone') await problem(`${name} ${incarnation} was dropped, it is there`);
  if (!isThere && state === 'there') await problem(`${name} ${incarnation} was made, it is not there`);
  if (!isThere) {
    facts.forget();
    continue;
  }
  const { engine } = storeOf(name);
  if (!engines.includes(engine)) await problem(`${name} is in ${engine}, not in ${engines.join(' or ')}`);
  Object.assign(facts, { state: 'there', engines: [engine] });
}

// ---- what is in them ------------------------------------------------------------------------------------------------------------------------

/** Values tell whose they are: of a space that was dropped nothing may come back in its successor. */
const labelOf = ({ name, incarnation }, key) => `${name}/${incarnation}/${key}`;

let expiredCount = 0;
const highest = new Map();
for (const facts of witness.spaces.values()) {
  if (facts.state !== 'there') continue;
  const store = storeOf(facts.name);
  for (const [key, entry] of facts.keys) {
    const { acknowledged, isDelete, begun } = entry;
    const label = labelOf(facts, key);
    const readAt = Date.now();
    const found = store.getEntrySync(key);
    if (found === undefined) {
      const now = Date.now();
      const isAbsent = (call) => call.isDelete || (call.expiresAt !== 0 && call.expiresAt <= now);
      if (!isDelete && isAbsent(entry)) expiredCount++;
      if (!isAbsent(entry)) {
        const call = begun.find(isAbsent);
        if (call === undefined)
          await problem(`${label}: generation ${acknowledged} was acknowledged, nothing is there`);
        entry.acknowledged = call.generation;
      }
      Object.assign(entry, { isDelete: true, expiresAt: 0 });
    } else {
      const generation = generationOf(label, found.value);
      if (generation === undefined)
        await problem(`${label}: a damaged value, or another's: ${found.value.slice(0, 60)}`);
      const call =
        generation === acknowledged && !isDelete
          ? entry
          : begun.find((other) => other.generation === generation && !other.isDelete);
      if (call === undefined) {
        const what = isDelete ? 'the delete or the end of' : 'generation';
        await problem(`${label}: ${what} ${acknowledged} was acknowledged, ${generation} is there`);
      }
      const endsAt = found.expiresAt ?? 0;
      const inTime = call.expiresAt === 0 ? endsAt === 0 : endsAt >= call.expiresAt && endsAt > readAt;
      if (!inTime || endsAt > call.expiresAt + EXPIRY_SLACK_MS)
        await problem(`${label}: expires at ${endsAt}, not at ${call.expiresAt} (read at ${readAt})`);
      Object.assign(entry, { acknowledged: generation, isDelete: false, expiresAt: endsAt });
    }
    highest.set(label, Math.max(entry.acknowledged, ...begun.map(({ generation }) => generation)));
    entry.begun = [];
  }
}

// ---- moves that were interrupted go on and end; then everything again, from the other side -------------------------------------------------

for (const name of names) {
  const store = storeOf(name);
  await store.switchEngine(store.engine);
}
const stray = strayRows(db);
if (stray.length > 0) await problem(`rows: ${stray.slice(0, 3).join('; ')}`);

let listed = 0;
for (const facts of witness.spaces.values()) {
  if (facts.state !== 'there') continue;
  const { name } = facts;
  let ballast = 0;
  const seen = new Set();
  for await (const [key, value] of storeOf(name).iterator()) {
    const label = labelOf(facts, key);
    listed++;
    if (key.startsWith('ballast')) {
      if (value !== ballastValue(facts, key)) await problem(`a scan shows ${label} with ${value.slice(0, 60)}`);
      ballast++;
      continue;
    }
    const generation = generationOf(label, value);
    if (generation === undefined) await problem(`a scan shows ${label} with ${value.slice(0, 60)}`);
    const entry = facts.keys.get(key);
    if (entry === undefined) await problem(`a scan shows ${label}, and nobody wrote it`);
    if (entry.isDelete || entry.acknowledged !== generation)
      await problem(`a scan shows generation ${generation} of ${label}, a read ${entry.acknowledged}`);
    seen.add(key);
  }
  for (const [key, { isDelete, expiresAt }] of facts.keys) {
    if (!isDelete && !seen.has(key) && (expiresAt === 0 || expiresAt > Date.now()))
      await problem(`a scan of ${name} does not show ${key}`);
  }
  if (facts.hasBallast && ballast !== ballastOf(name))
    await problem(`${name}: of ${ballastOf(name)} entries that never change ${ballast} are there`);
}
for (let pair = 0; pair < PAIRS; pair++) {
  const [left, right] = STABLE.slice(0, 2).map((name) => {
    const value = names.has(name) ? db.space(name).getSync(`pair${pair}`) : undefined;
    return value === undefined ? -1 : generationOf(labelOf(witness.of(name), `pair${pair}`), value);
  });
  if (left !== right) await problem(`pair ${pair} is half there: generations ${left} and ${right}`);
}
const problems = await db.host.check();
if (problems.length > 0) await problem(`check: ${problems.slice(0, 3).join('; ')}`);

function ballastValue(facts, key) {
  return labelOf(facts, key).padEnd(40 * scale, '.');
}

function ballastOf(name) {
  return name.startsWith('fleeting') ? FLEETING_BALLAST_ENTRIES : BALLAST_ENTRIES;
}

process.send({
  verified: listed,
  acknowledged: witness.acknowledgedLines,
  drops: witness.acknowledgedDrops,
  switches: witness.acknowledgedSwitches,
  expired: expiredCount,
  interrupted: interrupted ? 1 : 0,
  tables: filesFound.filter((name) => name.endsWith('.sst')).length,
  leftovers,
});

// ---- going on -------------------------------------------------------------------------------------------------------------------------------

/** Spaces that writers use: not those that are being made. */
const inUse = new Set();
const durabilityOf = () => (random() < 0.2 ? 'sync' : 'os');
let acknowledgedHere = 0;

function generationFor(facts, key) {
  const label = labelOf(facts, key);
  const generation = (highest.get(label) ?? 0) + 1;
  highest.set(label, generation);
  return generation;
}

async function make(facts, engine) {
  if (facts.state !== 'there') {
    facts.incarnation++;
    facts.state = 'there';
    witness.note('c', facts, engine, '?');
    await db.space(facts.name, { engine, ...tuning }).ready;
    witness.note('c', facts, engine, '.');
  }
  if (!facts.hasBallast) {
    const store = storeOf(facts.name);
    const count = ballastOf(facts.name);
    // Of one batch all entries must live on one shard.
    const puts = Array.from({ length: count }, (_, index) => `ballast${index}`);
    for (let at = 0; at < count; at += BALLAST_BATCH) {
      await Promise.all(puts.slice(at, at + BALLAST_BATCH).map((key) => store.put(key, ballastValue(facts, key))));
    }
    facts.hasBallast = true;
    witness.note('b', facts, '-', '.');
  }
  inUse.add(facts);
}

/** Not a failure of the store: the space went while the call was made. */
const isDropped = ({ code }) => code === 'ERR_SPACE_DROPPED' || code === 'ERR_SPACE_NOT_FOUND';

function acknowledge(calls) {
  witness.noteWrites(calls, '.');
  const before = acknowledgedHere;
  acknowledgedHere += calls.length;
  if (before < AT_WORK_CALLS && acknowledgedHere >= AT_WORK_CALLS) process.send({ atWork: true });
}

async function writePair() {
  const key = `pair${below(PAIRS)}`;
  const spaces = STABLE.slice(0, 2).map((name) => witness.of(name));
  const calls = spaces.map((space) => {
    const { incarnation } = space;
    return { space, incarnation, key, generation: generationFor(space, key), isDelete: false, expiresAt: 0 };
  });
  // They are written together only, so their generations are the same.
  witness.noteWrites(calls, '?');
  await db.batch(
    calls.map(({ space, generation }) => ({
      type: 'put',
      space: space.name,
      key,
      value: valueOf(labelOf(space, key), generation, 80 * scale),
    })),
    { durability: durabilityOf() },
  );
  acknowledge(calls);
}

async function writeOne(turn) {
  const space = oneOf([...inUse]);
  const { incarnation } = space;
  const key = `key${below(KEYS)}`;
  const generation = generationFor(space, key);
  const isDelete = random() < 0.15;
  let ttlMs;
  if (isExpiring && !isDelete && random() < 0.6)
    ttlMs = random() < 0.6 ? 1 + below(60) : random() < 0.6 ? 200 + below(2000) : HOUR_MS;
  const bytes = turn % LARGE_EVERY === LARGE_EVERY - 1 ? LARGE_BYTES : scale * (60 + below(200));
  const value = isDelete ? undefined : valueOf(labelOf(space, key), generation, bytes);
  const durability = durabilityOf();
  const expiresAt = ttlMs === undefined ? 0 : Math.ceil(Date.now() + ttlMs);
  const calls = [{ space, incarnation, key, generation, isDelete, expiresAt }];
  witness.noteWrites(calls, '?');
  try {
    const store = storeOf(space.name);
    if (isDelete) await store.del(key, { durability });
    else await store.put(key, value, { durability, ttlMs });
  } catch (error) {
    if (!isDropped(error)) throw error;
    return;
  }
  acknowledge(calls);
}

async function write() {
  for (let turn = below(LARGE_EVERY); ; turn++) {
    if (random() < 0.1) await writePair();
    else await writeOne(turn);
  }
}

async function move() {
  for (;;) {
    const facts = oneOf([...inUse]);
    try {
      const store = storeOf(facts.name);
      const from = store.engine;
      const isAway = options.engine !== 'all' && from !== options.engine;
      const engine = isAway ? options.engine : oneOf(ENGINES.filter((name) => name !== from));
      witness.note('s', facts, engine, '?');
      const { incarnation } = facts;
      await store.switchEngine(engine);
      if (incarnation === facts.incarnation) witness.note('s', facts, engine, '.');
    } catch (error) {
      if (!isDropped(error)) throw error;
    }
  }
}

/** Merges trees, whole and in part. */
async function merge() {
  for (;;) {
    // Beside all the rest it must not be what takes the time.
    await sleep(below(scene === 'all' ? 200 : 30));
    const bounds = [`key${below(KEYS)}`, `key${below(KEYS)}`].sort();
    try {
      const store = storeOf(oneOf([...inUse]).name);
      if (store.engine !== 'lsm') continue;
      await store.compact(below(scene === 'all' ? 20 : 3) === 0 ? undefined : { gte: bounds[0], lt: bounds[1] });
    } catch (error) {
      // A move that began meanwhile takes the tree away.
      if (!isDropped(error) && error.code !== 'ERR_CLOSED') throw error;
    }
  }
}

async function dropAndMake(name, index) {
  const facts = witness.of(name);
  for (;;) {
    await sleep(below(30));
    const space = db.space(name);
    const { id } = db.host.manifest.spaces.find((record) => record.name === name);
    // Writers and a move may be at it.
    witness.note('d', facts, '-', '?');
    await space.drop();
    inUse.delete(facts);
    witness.note('d', facts, '-', '.');
    facts.forget();
    const left = engineRows(db)
      .flat()
      .filter(([rowId]) => rowId === id);
    if (left.length > 0) await problem(`${name} was dropped, rows of it are there: ${JSON.stringify(left)}`);
    await make(facts, random() < 0.5 ? home(index) : oneOf(ENGINES));
  }
}

async function checkpoint() {
  for (;;) {
    await sleep(20 + below(60));
    await db.host.checkpointAll();
  }
}

if (options.last) {
  await db.close();
  const report = await ConcordPool.verify(options.store);
  if (!report.ok) await problem(`verify after the end: ${JSON.stringify(report.problems.slice(0, 3))}`);
  process.disconnect();
} else {
  witness.restart();
  try {
    await make(witness.of(POOL), home(0));
    await Promise.all(STABLE.map((name, index) => make(witness.of(name), home(index))));
    const running = Array.from({ length: options.callers }, write);
    if (isDropping) {
      await Promise.all(FLEETING.map((name, index) => make(witness.of(name), home(index))));
      running.push(...FLEETING.map(dropAndMake));
    }
    if (isMoving) running.push(move());
    if (isMerging) running.push(merge());
    // From here on a recovery may find a space in another engine than the manifest says.
    if (random() < 0.5) await db.host.checkpointAll();
    running.push(checkpoint());
    process.send({ running: true });
    await Promise.all(running);
  } catch (error) {
    await problem(`a call failed: ${error.code ?? ''} ${error.stack}`);
  }
}
