/**
 * Tables and filters alone, in one thread on the real disk: writing, a scan by jobs, searches in a block and in an index partition that lie in memory, filters.
 * Not answered here: caches, threads, compaction. 16-byte keys, 100-byte values of which half compresses.
 *
 *   node bench/micro/lsm-table.mjs [entries]     default 300000
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from '../../dist/engines/lsm/table/block.js';
import { KeyHash, filterLine, lineMayContain } from '../../dist/engines/lsm/table/filter.js';
import { TableFile } from '../../dist/engines/lsm/table/table-file.js';
import { TableIterator } from '../../dist/engines/lsm/table/table-iterator.js';
import { TableWriter } from '../../dist/engines/lsm/table/table-writer.js';
import { NodeEnv } from '../../dist/shared/env/node-env.js';

const entries = Number(process.argv[2] ?? 300_000);
const KEY_BYTES = 16;
const VALUE_BYTES = 100;
const SEARCHES = 1_000_000;
const identity = { storeId: Buffer.alloc(16, 7), shard: 1, tree: 1 };
const directory = mkdtempSync(join(tmpdir(), 'lsm-table-'));
const env = new NodeEnv();

const keys = Buffer.alloc(2 * entries * KEY_BYTES);
for (let index = 0; index < 2 * entries; index++) keys.write(String(index).padStart(KEY_BYTES, '0'), index * KEY_BYTES);
const key = Buffer.alloc(KEY_BYTES);
function useKey(index) {
  const from = index * KEY_BYTES;
  for (let at = 0; at < KEY_BYTES; at++) key[at] = keys[from + at];
}
/** Values that differ, one after the other: half noise, half one letter. */
const VALUES = 5000;
const values = Buffer.alloc(VALUES * VALUE_BYTES, 'a');
let state = 1;
for (let at = 0; at < values.length; at++) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  if (at % VALUE_BYTES < VALUE_BYTES / 2) values[at] = state >>> 24;
}

let checked = 0;
/** Nanoseconds per operation, the best of three. */
function timed(operations, run) {
  let best = Infinity;
  for (let round = 0; round < 3; round++) {
    const started = performance.now();
    checked += run();
    best = Math.min(best, ((performance.now() - started) * 1e6) / operations);
  }
  return best;
}
const rows = [];
const report = (what, nanoseconds) =>
  rows.push([
    what.padEnd(44),
    `${nanoseconds.toFixed(0)} ns`.padStart(9),
    `${(1000 / nanoseconds).toFixed(2)} M/s`.padStart(12),
  ]);

const keyCost = timed(SEARCHES, () => {
  for (let index = 0; index < SEARCHES; index++) useKey((index * 7919) % entries);
  return key[15];
});

for (const compression of ['none', 'lz4']) {
  const path = join(directory, `${compression}.sst`);
  const options = { blockBytes: 4096, restartInterval: 16, compression, bitsPerKey: 10, prefixFilterBytes: 0 };
  let info;
  const write = timed(entries, () => {
    rmSync(path, { force: true });
    const writer = TableWriter.create(env, path, { identity, number: 1, level: 1, run: 0, options, createdAt: 1 });
    for (let index = 0; index < entries; index++) {
      useKey(2 * index);
      // As if they had come in random order.
      writer.add(
        key,
        KEY_BYTES,
        values,
        (index % VALUES) * VALUE_BYTES,
        VALUE_BYTES,
        ((index * 7919) % entries) + 1,
        0,
        0,
      );
    }
    info = writer.finish();
    return 0;
  });
  report(`${compression}: write, synced, per entry`, write);
  rows.push([`${compression}: bytes per entry`.padEnd(44), (info.bytes / entries).toFixed(1).padStart(6)]);

  const table = TableFile.open(env, path, identity, 1);
  report(
    `${compression}: scan for jobs, per entry`,
    timed(entries, () => {
      const iterator = new TableIterator(table);
      let count = 0;
      for (let more = iterator.seek(undefined, undefined); more; more = iterator.next()) count++;
      if (count !== entries) throw new Error(`${count} entries`);
      return count;
    }),
  );

  const index = new BlockCursor();
  const indexBytes = new BlockBuffer();
  const [partition] = table.partitions;
  const partitionBytes = table.readBlock(partition.offset, partition.storedBytes, indexBytes);
  index.open(indexBytes.bytes, 0, partitionBytes, path, 0);
  const places = [];
  for (let more = index.seekToFirst(); more; more = index.next())
    places.push([handleOffset(index), handleBytes(index)]);
  const into = new BlockBuffer();
  report(
    `${compression}: read and verify a block`,
    timed(20_000, () => {
      let bytes = 0;
      for (let turn = 0; turn < 20_000; turn++) {
        const [offset, storedBytes] = places[(turn * 7919) % places.length];
        bytes += table.readBlock(offset, storedBytes, into);
      }
      return bytes;
    }),
  );
  if (compression !== 'none') continue;

  // A block of 4 KiB with what it takes to find a key in it.
  const blockBytes = table.readBlock(...places[3], into);
  const block = new BlockCursor();
  block.open(into.bytes, 0, blockBytes, path, 0);
  const inBlock = block.entryCount;
  block.seekToFirst();
  const first = Number(Buffer.from(block.key.subarray(0, KEY_BYTES)).toString());
  const find = timed(SEARCHES, () => {
    let found = 0;
    for (let turn = 0; turn < SEARCHES; turn++) {
      useKey(first + 2 * ((turn * 7919) % inBlock));
      block.open(into.bytes, 0, blockBytes, path, 0);
      if (block.seek(key, KEY_BYTES, Infinity)) found++;
    }
    if (found !== SEARCHES) throw new Error(`${found} found`);
    return found;
  });
  report(`find in a block of ${inBlock} entries`, find - keyCost);
  const span = places.length * inBlock;
  const search = timed(SEARCHES, () => {
    let sum = 0;
    for (let turn = 0; turn < SEARCHES; turn++) {
      useKey((turn * 7919) % span);
      index.open(indexBytes.bytes, 0, partitionBytes, path, 0);
      index.seek(key, KEY_BYTES, Infinity);
      sum += handleOffset(index) + handleBytes(index);
    }
    return sum;
  });
  report(`find in an index partition of ${places.length} blocks`, search - keyCost);
  const rounds = Math.ceil(SEARCHES / inBlock);
  report(
    'a step forward in a block',
    timed(rounds * inBlock, () => {
      let sum = 0;
      for (let round = 0; round < rounds; round++)
        for (let more = block.seekToFirst(); more; more = block.next()) sum += block.seq;
      return sum;
    }),
  );
  report(
    'a step back in a block',
    timed(rounds * inBlock, () => {
      let sum = 0;
      for (let round = 0; round < rounds; round++)
        for (let more = block.seekToLast(); more; more = block.prev()) sum += block.seq;
      return sum;
    }),
  );

  const shape = table.layout.filter;
  const partitions = [];
  for (let part = 0; part < shape.partitions; part++) {
    const bytes = table.readFilter(shape, part, into);
    partitions.push(into.bytes.slice(0, bytes));
  }
  const lines = shape.partitions * shape.partitionLines;
  const hash = new KeyHash();
  let positives = 0;
  const ask = timed(entries, () => {
    positives = 0;
    for (let turn = 0; turn < entries; turn++) {
      useKey(2 * turn + 1);
      hash.set(key, 0, KEY_BYTES);
      const line = filterLine(hash.h1, lines);
      const part = Math.floor(line / shape.partitionLines);
      if (lineMayContain(partitions[part], (line - part * shape.partitionLines) * 64, hash.h2, shape.probes))
        positives++;
    }
    return positives;
  });
  report('hash a key and ask the filter', ask - keyCost);
  rows.push([
    'false positives at 10 bits a key'.padEnd(44),
    `${((100 * positives) / entries).toFixed(2)} %`.padStart(8),
  ]);
  table.close();
}
rmSync(directory, { recursive: true, force: true });
for (const row of rows) console.log(row.join(' '));
if (!Number.isFinite(checked)) throw new Error('nothing was done');
