/** The inspector's report, and what it finds that a reader does not look for. */
import { describe, expect, test } from 'vitest';
import { inspectTable } from '../../../../dist/engines/lsm/table/inspect.js';
import { TABLE_KIND, identitySeed, sealBlock } from '../../../../dist/engines/lsm/table/format.js';
import { overwrite, readFile } from '../../wal/wal-scene.js';
import { IDENTITY, NUMBER, PATH, decimals, newEnv, writeTable } from './support.js';

describe('an inspection', () => {
  test('shows footer, properties, filters, index and blocks', () => {
    const env = newEnv();
    const info = writeTable(env, decimals(5000), { compression: 'lz4', prefixFilterBytes: 13 }, { level: 3 });
    const report = inspectTable(env, PATH, { listBlocks: true });
    expect(report).toMatchObject({
      path: PATH,
      formatVersion: 1,
      identity: { shard: 3, tree: 2 },
      info,
      layout: { compression: 'lz4', blockBytes: 4096, restartInterval: 16, prefixFilterBytes: 13 },
      filter: { keys: 5000, probes: 7 },
      prefixFilter: { keys: 10 },
      problems: [],
      problemCount: 0,
    });
    expect(report.filter!.bitsPerKey).toBeGreaterThanOrEqual(10);
    expect(report.filter!.fill).toBeGreaterThan(0.4);
    expect(report.filter!.fill).toBeLessThan(0.6);
    expect(report.filter!.falsePositiveRate).toBeLessThan(0.011);
    const [first] = report.blocks;
    expect(first).toMatchObject({ offset: 0, compression: 'lz4', tombstones: 0 });
    expect(Buffer.from(first!.firstKey).toString()).toBe('0000000000000000');
    const blocks = report.blocks.length;
    expect(blocks).toBe(report.layout.dataBlocks);
    expect(report.index.map(({ blocks: count }) => count)).toEqual([blocks]);
    expect(inspectTable(env, PATH).blocks).toEqual([]);
  });

  test('finds a key that is not in the filter, and a count that is not so', () => {
    const env = newEnv();
    writeTable(env, decimals(50));
    const { layout, blocks } = inspectTable(env, PATH, { listBlocks: true });
    const seed = identitySeed(TABLE_KIND, IDENTITY, NUMBER);
    const bytes = readFile(env, PATH);

    const { offset, partitionLines } = layout.filter!;
    const filter = Buffer.alloc(partitionLines * 64 + 5);
    sealBlock(filter, 0, partitionLines * 64, 0, offset, seed);
    overwrite(env, PATH, offset, filter);
    const empty = inspectTable(env, PATH);
    expect(empty.problemCount).toBe(50);
    expect(empty.problems[0]).toMatchObject({ file: PATH, offset: 0 });
    expect(empty.problems[0]!.text).toMatch(/a key \(entry 0 of the table\) is not in the filter/);
    overwrite(env, PATH, offset, bytes.subarray(offset, offset + filter.length));

    const { storedBytes } = blocks[0]!;
    const block = Buffer.from(bytes.subarray(0, storedBytes));
    // A byte of the first entry's value: nothing but the checksum knows it. Then the block's count.
    block[80]! ^= 1;
    sealBlock(block, 0, storedBytes - 5, 0, 0, seed);
    overwrite(env, PATH, 0, block);
    expect(inspectTable(env, PATH).problems).toEqual([]);
    const tail = storedBytes - 5 - 16;
    block.writeUInt32LE(block.readUInt32LE(tail + 8) + 1, tail + 8);
    sealBlock(block, 0, storedBytes - 5, 0, 0, seed);
    overwrite(env, PATH, 0, block);
    expect(inspectTable(env, PATH).problems.map(({ text }) => text)).toEqual([
      `${PATH} at 0: data block: ${blocks[0]!.entries} entries, ${blocks[0]!.entries + 1} in its tail`,
    ]);
  });

  test('lists a hundred problems and counts the rest', () => {
    const env = newEnv();
    writeTable(env, decimals(4000));
    const { layout } = inspectTable(env, PATH);
    const { offset, partitionLines, partitions } = layout.filter!;
    const stored = partitionLines * 64 + 5;
    for (let partition = 0; partition < partitions; partition++) {
      const at = offset + partition * stored;
      const filter = Buffer.alloc(stored);
      sealBlock(filter, 0, stored - 5, 0, at, identitySeed(TABLE_KIND, IDENTITY, NUMBER));
      overwrite(env, PATH, at, filter);
    }
    const { problems, problemCount } = inspectTable(env, PATH);
    expect(problems.length).toBe(100);
    expect(problemCount).toBe(4000);
  });
});
