/**
 * The B+Tree alone, in one thread: put in random order (groups of 500), find and copy, ordered scan, bulk load, memory.
 * Not answered here: threads, log, network. 16-byte keys, 100-byte values.
 *
 *   node bench/micro/btree.mjs [entries …]     default 100000 1000000
 */
import { createArena, ArenaReader, ArenaWriter } from '../../dist/shared/memory/arena.js';
import { BTreeCursor } from '../../dist/engines/btree/cursor.js';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import { BTreeReader } from '../../dist/engines/btree/reader.js';
import { BTreeWriter } from '../../dist/engines/btree/writer.js';

const KEY_BYTES = 16;
const VALUE_BYTES = 100;
const GROUP = 500;

/** xorshift32: the same order in every run. */
function random(seed) {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

function makeKeys(count) {
  const keys = new Uint8Array(count * KEY_BYTES);
  for (let index = 0; index < count; index++) {
    let digits = index;
    for (let at = KEY_BYTES - 1; at >= 0; at--) {
      keys[index * KEY_BYTES + at] = 0x30 + (digits % 10);
      digits = Math.floor(digits / 10);
    }
    keys[index * KEY_BYTES] = 0x6b; // 'k'
  }
  return keys;
}

function shuffled(count, next) {
  const order = new Uint32Array(count);
  for (let index = 0; index < count; index++) order[index] = index;
  for (let index = count - 1; index > 0; index--) {
    const other = next() % (index + 1);
    const swap = order[index];
    order[index] = order[other];
    order[other] = swap;
  }
  return order;
}

function timed(name, operations, run, rows) {
  const started = performance.now();
  run();
  const microseconds = ((performance.now() - started) * 1000) / operations;
  rows.push([name, `${microseconds.toFixed(3)} us/op`, `${(1 / microseconds).toFixed(2)} M/s`]);
}

function measure(count) {
  const rows = [];
  const keys = makeKeys(count);
  const value = new Uint8Array(VALUE_BYTES);
  const raw = count * (KEY_BYTES + VALUE_BYTES);
  const next = random(0x2545f491);
  const order = shuffled(count, next);
  const arena = new ArenaWriter(createArena({ memoryBytes: Math.max(64 << 20, count * 400) }));
  const reader = new ArenaReader(arena.layout);
  const tree = new BTreeWriter(arena, 0);
  let seq = 0;

  const stamp = (index) => {
    value[0] = index;
    value[1] = index >>> 8;
    value[2] = index >>> 16;
    value[99] = index;
  };
  timed(
    'put, new, random',
    count,
    () => {
      for (let index = 0; index < count; index++) {
        const at = order[index];
        stamp(at);
        tree.put(keys, at * KEY_BYTES, KEY_BYTES, value, 0, VALUE_BYTES, ++seq, 0);
        if (index % GROUP === GROUP - 1) publishTrees(arena, seq);
      }
      publishTrees(arena, seq);
    },
    rows,
  );
  arena.reclaim();
  const memoryRatio = ((arena.usedUnits - 8) * 4096) / raw;
  const highWaterRatio = (arena.stats().highWaterUnits * 4096) / raw;

  const again = shuffled(count, next);
  timed(
    'put, update, random',
    count,
    () => {
      for (let index = 0; index < count; index++) {
        const at = again[index];
        stamp(at);
        tree.put(keys, at * KEY_BYTES, KEY_BYTES, value, 0, VALUE_BYTES, ++seq, 0);
        if (index % GROUP === GROUP - 1) publishTrees(arena, seq);
      }
      publishTrees(arena, seq);
    },
    rows,
  );

  const find = new BTreeReader(reader, 0, 0);
  const key = new Uint8Array(KEY_BYTES);
  let bad = 0;
  const lookups = shuffled(count, next);
  const findAll = (copy) => {
    for (let index = 0; index < count; index++) {
      const at = lookups[index];
      for (let byte = 0; byte < KEY_BYTES; byte++) key[byte] = keys[at * KEY_BYTES + byte];
      const metaUnit = reader.pin(0);
      if (!find.find(metaUnit, key, KEY_BYTES, Infinity, 0)) bad++;
      else if (copy) {
        const bytes = find.copyValue();
        if (bytes[0] !== (at & 255) || bytes[99] !== (at & 255) || bytes.length !== VALUE_BYTES) bad++;
      }
      reader.unpin(0);
    }
  };
  findAll(true);
  timed('find + copy, random', count, () => findAll(true), rows);
  timed('find, random', count, () => findAll(false), rows);

  const cursor = new BTreeCursor(reader, 0, 0);
  const scan = () => {
    const metaUnit = reader.pin(0);
    let entries = 0;
    for (let more = cursor.seek(metaUnit, undefined, 0, Infinity, false, 0); more; more = cursor.next()) {
      cursor.copyKey(key, 0);
      if (cursor.copyValue().length !== VALUE_BYTES) bad++;
      entries++;
    }
    reader.unpin(0);
    if (entries !== count) bad++;
  };
  scan();
  timed('scan, keys and values', count, scan, rows);
  timed(
    'scan backwards',
    count,
    () => {
      const metaUnit = reader.pin(0);
      let entries = 0;
      for (let more = cursor.seek(metaUnit, undefined, 0, Infinity, true, 0); more; more = cursor.prev()) {
        cursor.copyKey(key, 0);
        if (cursor.copyValue().length !== VALUE_BYTES) bad++;
        entries++;
      }
      reader.unpin(0);
      if (entries !== count) bad++;
    },
    rows,
  );
  timed(
    'count',
    count,
    () => {
      const metaUnit = reader.pin(0);
      cursor.seek(metaUnit, undefined, 0, Infinity, false, 0);
      if (cursor.count() !== count) bad++;
      reader.unpin(0);
    },
    rows,
  );
  timed(
    'del, random',
    count,
    () => {
      for (let index = 0; index < count; index++) {
        if (!tree.del(keys, again[index] * KEY_BYTES, KEY_BYTES, ++seq, 0)) bad++;
        if (index % GROUP === GROUP - 1) publishTrees(arena, seq);
      }
      publishTrees(arena, seq);
    },
    rows,
  );
  if (tree.counts().leafPages !== 0) bad++;
  timed(
    'put, new, ascending',
    count,
    () => {
      for (let at = 0; at < count; at++) {
        tree.put(keys, at * KEY_BYTES, KEY_BYTES, value, 0, VALUE_BYTES, ++seq, 0);
        if (at % GROUP === GROUP - 1) publishTrees(arena, seq);
      }
      publishTrees(arena, seq);
    },
    rows,
  );
  arena.reclaim();
  const ascendingRatio = ((arena.usedUnits - 8) * 4096) / raw;

  const bulkArena = new ArenaWriter(createArena({ memoryBytes: Math.max(64 << 20, count * 300) }));
  const bulkTree = new BTreeWriter(bulkArena, 0);
  timed(
    'bulk load',
    count,
    () => {
      const loader = bulkTree.bulkLoader();
      for (let at = 0; at < count; at++) loader.add(keys, at * KEY_BYTES, KEY_BYTES, value, 0, VALUE_BYTES, at + 1, 0);
      loader.finish();
      publishTrees(bulkArena, count);
    },
    rows,
  );
  const bulkRatio = ((bulkArena.usedUnits - 8) * 4096) / raw;

  console.log(`\n${count} entries of ${KEY_BYTES} + ${VALUE_BYTES} bytes, groups of ${GROUP}, Node ${process.version}`);
  for (const [name, perOperation, rate] of rows)
    console.log(`  ${name.padEnd(24)}${perOperation.padStart(16)}${rate.padStart(14)}`);
  console.log(
    `  memory / raw bytes: random ${memoryRatio.toFixed(3)} (high water ${highWaterRatio.toFixed(3)}), ` +
      `ascending ${ascendingRatio.toFixed(3)}, bulk ${bulkRatio.toFixed(3)}`,
  );
  if (bad > 0) {
    console.error(`  ${bad} wrong results`);
    process.exitCode = 1;
  }
}

const counts = process.argv.slice(2).map(Number);
for (const count of counts.length > 0 ? counts : [100_000, 1_000_000]) measure(count);
