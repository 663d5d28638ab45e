/**
 * A process whose disk has no room for tables for a while. Run with --import pool-faults.mjs; argv: directory. Prints what happened as JSON.
 * Which operations fail stands in the file that CONCORDKV_FAULTS names, for as long as it exists.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { ConcordPool } from '../../../dist/index.js';

const OPTIONS = {
  shards: 1,
  engine: 'lsm',
  lsm: { memtableBytes: 64 << 10, tableBytes: 32 << 10, levelBytes: 128 << 10, frozenMax: 2 },
  durability: 'os',
  memoryBytes: 32 << 20,
  segmentBytes: 512 << 10,
  checkpointLogBytes: 512 << 10,
};
const KEYS = 500;
const CALLERS = 50;
const WAIT_MS = 60_000;
const rules = process.env.CONCORDKV_FAULTS;

const keyOf = (index) => `key${String(index).padStart(6, '0')}`;
const valueOf = (index, generation) => `${keyOf(index)}:${generation}:`.padEnd(200 + (index % 100), 'x');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let db = await ConcordPool.open(process.argv[2], OPTIONS);
/** Generation of each key that was acknowledged. */
const settled = new Int32Array(KEYS);
const report = { codes: {}, wrong: [], causes: [] };
db.events.on('backpressure', ({ state, cause }) => report.causes.push(`${state} ${cause}`));

async function put(index, generation) {
  try {
    await db.put(keyOf(index), valueOf(index, generation));
    settled[index] = generation;
    return true;
  } catch (error) {
    report.codes[error.code] = (report.codes[error.code] ?? 0) + 1;
    return false;
  }
}

/** True: all of them were taken. */
async function fill(generation) {
  let isTaken = true;
  for (let at = 0; at < KEYS; at += CALLERS) {
    const puts = Array.from({ length: CALLERS }, (_, index) => put(at + index, generation));
    if ((await Promise.all(puts)).includes(false)) isTaken = false;
  }
  return isTaken;
}

async function check(when) {
  for (let index = 0; index < KEYS; index++) {
    const found = index % 2 === 0 ? db.getSync(keyOf(index)) : await db.get(keyOf(index));
    if (found !== valueOf(index, settled[index]))
      report.wrong.push(`${when}: ${keyOf(index)} is ${found?.slice(0, 20)}`);
  }
  const entries = await db.iterator().all();
  if (entries.length !== KEYS) report.wrong.push(`${when}: a scan shows ${entries.length} entries`);
}

for (let generation = 1; generation <= 3; generation++) await fill(generation);
await db.compact();
writeFileSync(rules, JSON.stringify({ call: 'write,truncate', errno: 'ENOSPC', match: 'lsm-' }));
let generation = 4;
// Memtables take some of it.
for (; generation < 40; generation++) if (!(await fill(generation))) break;
report.refusedAt = generation;
await check('full');
await db.flush();
const beganMs = Date.now();
report.refusedStill = !(await put(0, generation + 1));
report.refusalMs = Date.now() - beganMs;

rmSync(rules);
const freeMs = Date.now();
generation += 2;
while (!(await put(1, generation)) && Date.now() - freeMs < WAIT_MS) await sleep(50);
report.takenAfterMs = Date.now() - freeMs;
report.filled = await fill(generation + 1);
await check('free');
await db.compact();
// What is told may be a quarter of a second old.
const frozen = () => db.stats().spaces[0].lsm.frozenMemtables;
const isFree = () => frozen() === 0 && report.causes.at(-1)?.startsWith('free');
for (const endMs = Date.now() + WAIT_MS; !isFree() && Date.now() < endMs;) await sleep(50);
report.frozen = frozen();
report.check = await db.host.check();
await db.close();
db = await ConcordPool.open(process.argv[2], OPTIONS);
await check('again');
await db.close();
report.verified = (await ConcordPool.verify(process.argv[2])).ok;
console.log(JSON.stringify(report));
