/**
 * The bytes of every page kind and of an image. Births and unit numbers are fixed by the fresh arena. UPDATE=1 rewrites the file;
 * review its diff as code, since images of these bytes are on disks.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { writeImage } from '../../../dist/engines/btree/image.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';

const text = (value: string): Buffer => Buffer.from(value);

function put(tree: BTreeWriter, key: string, value: Uint8Array, seq: number): void {
  tree.put(text(key), 0, key.length, value, 0, value.length, seq, 0);
}

/** Rows of 16 bytes with their offsets; runs of zero rows are left out. */
function dump(title: string, bytes: Uint8Array, bytesShown = bytes.length): string[] {
  const lines = [`# ${title}`];
  for (let at = 0; at < bytesShown; at += 16) {
    const row = bytes.subarray(at, Math.min(at + 16, bytesShown));
    if (row.every((byte) => byte === 0)) continue;
    const hex = Buffer.from(row)
      .toString('hex')
      .replace(/(.{8})(?=.)/g, '$1 ');
    lines.push(`${at.toString(16).padStart(4, '0')}  ${hex}`);
  }
  return lines;
}

/** A leaf of its own, so that the pages above stay as they are. */
function expiringLeaf(): string[] {
  const arena = new ArenaWriter(createArena({ memoryBytes: 1 << 20 }));
  const tree = new BTreeWriter(arena, 0);
  tree.put(text('a'), 0, 1, text('stays'), 0, 5, 1, 0);
  tree.put(text('b'), 0, 1, text('goes'), 0, 4, 2, 0x0102_0304_0506);
  tree.put(text('c'), 0, 1, Buffer.alloc(3000), 0, 3000, 3, 2 ** 48 - 1);
  publishTrees(arena, 3);
  const { rootUnit } = tree.counts();
  return dump(
    'leaf with entries that expire: the second at 0x010203040506, the third, in a chain, at the last possible time',
    arena.u8[0]!.subarray(rootUnit * 4096, (rootUnit + 1) * 4096),
  );
}

it('pages and images have their golden bytes', () => {
  const arena = new ArenaWriter(createArena({ memoryBytes: 1 << 20 }));
  const page = (unit: number): Uint8Array => arena.u8[0]!.subarray(unit * 4096, (unit + 1) * 4096);
  const tree = new BTreeWriter(arena, 0, { order: 3 });
  tree.setSnapshots(Float64Array.of(3, 4), 2);
  const large = Buffer.alloc(2100, 0xee);
  put(tree, 'user:1', text('ada'), 1);
  put(tree, 'user:2', text(''), 2);
  put(tree, 'user:1', text('ada lovelace'), 2 ** 40 + 5);
  tree.del(text('user:2'), 0, 6, 2 ** 40 + 6);
  put(tree, 'user:30', large, 2 ** 40 + 7);
  const meta = publishTrees(arena, 2 ** 40 + 7);
  expect(tree.check()).toEqual([]);
  const counts = tree.counts();
  const lines: string[] = [];
  const words = arena.u32[0]!;
  const root = counts.rootUnit;
  expect(counts.height).toBe(2);
  lines.push(
    ...dump('branch (root): two children, the separator cuts through the versions of one key or not', page(root)),
  );
  const childrenAt = root * 1024 + (24 >> 2) + ((arena.u16[0]![root * 2048 + 6]! + 3) >> 2);
  const childCount = arena.u16[0]![root * 2048 + 5]!;
  let overflow = 0;
  for (let child = 0; child < childCount; child++) {
    const unit = words[childrenAt + childCount + child]!;
    lines.push('', ...dump(`leaf ${child}`, page(unit)));
    for (let at = 8; at < 40; at++) if (arena.u8[0]![at * 4096] === 3) overflow = at;
  }
  lines.push('', ...dump('overflow, first 64 bytes', page(overflow), 64));
  lines.push('', ...dump('meta', page(meta)));
  const chunks: Buffer[] = [];
  writeImage(arena, meta, (chunk) => {
    chunks.push(Buffer.from(chunk));
  });
  const image = Buffer.concat(chunks);
  lines.push('', ...dump('image, first 64 bytes: header and the start of page 1', image, 64));
  lines.push('', ...dump('image, end record', image.subarray(image.length - 72)));
  lines.push('', ...expiringLeaf());
  const file = new URL('../../golden/btree-pages.txt', import.meta.url);
  const golden = `${lines.join('\n')}\n`;
  if (process.env['UPDATE'] === '1') writeFileSync(file, golden);
  expect(golden).toBe(readFileSync(file, 'utf8'));
});
