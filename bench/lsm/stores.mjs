/**
 * The engines of the LSM bench behind one face: batches acknowledged by the operating system, synchronous reads where there are any, scans.
 * All have the same budget for blocks (cacheBytes) and the same kind of compression. What is being written (writeBytes: a memtable) is ConcordKV's default;
 * classic-level has its own default of 4 MiB, classic-level-tuned as much as ConcordKV. LevelDB does not look at the checksums of blocks that reads read;
 * ConcordKV does, always or only the first time (verify). Threads: one.
 */
import { packageVersion } from '../support/package-version.mjs';

const MIB = 2 ** 20;

export const stores = {
  concordkv: openConcord,
  'classic-level': openLevel,
  'classic-level-tuned': openLevel,
  'rocksdb-native': openRocks,
};

export const packageOf = (name) => (name === 'classic-level-tuned' ? 'classic-level' : name);

export function versionOf(name) {
  return packageVersion(packageOf(name));
}

async function openConcord(directory, { cacheBytes, writeBytes, compression, verify, threads, lsm }) {
  const { ConcordPool } = await import('concordkv');
  const db = await ConcordPool.open(directory, {
    engine: 'lsm',
    shards: 1,
    durability: 'os',
    keyEncoding: 'utf8',
    valueEncoding: 'binary',
    memoryBytes: Math.max(256 * MIB, 8 * writeBytes),
    blockCacheBytes: Math.max(MIB, cacheBytes),
    backgroundThreads: threads,
    // The others keep no log for change feeds.
    feed: { retainBytes: 0 },
    lsm: { memtableBytes: writeBytes, compression: compression ? 'lz4' : 'none', verifyBlocks: verify, ...lsm },
  });
  return {
    getSync: (key) => db.getSync(key),
    batch: (entries) => db.batch(entries.map(([key, value]) => ({ type: 'put', key, value }))),
    scan(range, visit) {
      let count = 0;
      for (const [key, value] of db.iterateSync(range)) {
        visit(key, value);
        count++;
      }
      return count;
    },
    compact: () => db.compact(),
    stats: () => db.stats(),
    close: () => db.close(),
  };
}

async function openLevel(directory, { engine, cacheBytes, writeBytes, compression }) {
  const { ClassicLevel } = await import('classic-level');
  const db = new ClassicLevel(directory, {
    keyEncoding: 'utf8',
    valueEncoding: 'buffer',
    compression,
    cacheSize: cacheBytes,
    ...(engine === 'classic-level-tuned' ? { writeBufferSize: writeBytes } : {}),
  });
  await db.open();
  return {
    getSync: (key) => db.getSync(key),
    batch: (entries) => db.batch(entries.map(([key, value]) => ({ type: 'put', key, value }))),
    async scan(range, visit) {
      const iterator = db.iterator({ ...rangeOf(range), highWaterMarkBytes: MIB });
      let count = 0;
      try {
        for (;;) {
          const entries = await iterator.nextv(Math.min(1000, range.limit ?? 1000));
          if (entries.length === 0) return count;
          for (const [key, value] of entries) visit(key, value);
          count += entries.length;
        }
      } finally {
        await iterator.close();
      }
    },
    compact: () => db.compactRange('', '~'),
    stats: () => ({ leveldb: db.getProperty('leveldb.stats') }),
    close: () => db.close(),
  };
}

/** Reads are asynchronous only; options that the binding does not pass on (block cache, write buffer) stay as they are. */
async function openRocks(directory) {
  const { default: RocksDB } = await import('rocksdb-native');
  const db = new RocksDB(directory);
  await db.ready();
  return {
    async getMany(keys) {
      const read = db.read();
      const values = keys.map((key) => read.get(key));
      await read.flush();
      const found = await Promise.all(values);
      read.destroy();
      return found.map((value) => value ?? undefined);
    },
    async batch(entries) {
      const write = db.write();
      for (const [key, value] of entries) void write.put(key, value);
      await write.flush();
      write.destroy();
    },
    async scan(range, visit) {
      let count = 0;
      for await (const { key, value } of db.iterator(rangeOf(range))) {
        visit(key.toString('latin1'), value);
        count++;
      }
      return count;
    },
    compact: () => db.compactRange(),
    stats: () => ({}),
    close: () => db.close(),
  };
}

function rangeOf({ prefix, gte, limit }) {
  const range = {};
  if (prefix !== undefined) Object.assign(range, { gte: prefix, lt: `${prefix}\x7f` });
  if (gte !== undefined) range.gte = gte;
  if (limit !== undefined) range.limit = limit;
  return range;
}
