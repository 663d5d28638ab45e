/** Any bytes in any page of a memtable: readers answer, or say ERR_CORRUPT; they never hang, never leave the arena, never throw anything else. */
import { afterEach, describe, expect, it } from 'vitest';
import { ConcordError } from '../../../dist/shared/errors.js';
import { memtableEngine } from '../../../dist/engines/memtable/engine.js';
import { IS_FROZEN_WORD } from '../../../dist/engines/memtable/node.js';
import { TableWalk } from '../../../dist/engines/memtable/walk.js';
import type { MemtableWriter } from '../../../dist/engines/memtable/writer.js';
import { markRows } from '../../../dist/engines/store/space-table.js';
import { ArenaWriter, UNIT_BYTES } from '../../../dist/shared/memory/arena.js';
import { Random } from '../../../dist/shared/random.js';
import { EngineScene, keyOf, newSeed } from '../contract-scene.js';

const scene = new EngineScene('memtable', { memoryBytes: 1 << 20 });
scene.group(() => {
  for (let index = 0; index < 900; index++) {
    scene.put(keyOf(index), Buffer.alloc(index % 300 === 50 ? 9_000 : index % 60, index), index % 5 === 0 ? 2e12 : 0);
  }
});
scene.snapshot();
scene.group(() => {
  for (let index = 0; index < 900; index += 4) scene.put(keyOf(index), Buffer.from('second'));
  for (let index = 1; index < 900; index += 40) scene.del(keyOf(index));
});
const writer = scene.writer as MemtableWriter;
writer.freeze();
const atSeq = scene.snapshots[0]!;
const metaUnit = scene.view.published();
const pages: { unit: number; units: number }[] = [];
memtableEngine.mark(scene.view, metaUnit, 0, (unit, units) => pages.push({ unit, units }));
const memory = Buffer.from(scene.layout.segments[0]!);
const clean = Buffer.from(memory);
/** No arena of this size holds more entries than that, whatever its bytes say. */
const STEPS_MAX = (scene.view.totalUnits * UNIT_BYTES) / 8;

/** True if it told of corruption. */
function orCorrupt(run: () => void): boolean {
  try {
    run();
    return false;
  } catch (error) {
    expect(error).toBeInstanceOf(ConcordError);
    expect((error as ConcordError).code).toBe('ERR_CORRUPT');
    return true;
  }
}

function readEverything(): number {
  const { reader, cursor } = scene;
  let corrupt = 0;
  let versions = 0;
  const told = (isCorrupt: boolean): void => {
    if (isCorrupt) corrupt++;
  };
  for (const seq of [Infinity, atSeq]) {
    for (let index = 0; index < 920; index += 13) {
      told(
        orCorrupt(() => {
          const key = keyOf(index);
          if (reader.find(metaUnit, key, key.length, seq, 0)) reader.copyValue();
        }),
      );
    }
    for (const reverse of [false, true]) {
      told(
        orCorrupt(() => {
          let steps = 0;
          cursor.seek(metaUnit, undefined, 0, seq, reverse, 0);
          while (cursor.valid) {
            if (++steps > STEPS_MAX) expect.fail('a walk without end');
            if (reverse) cursor.prev();
            else cursor.next();
          }
        }),
      );
    }
  }
  told(
    orCorrupt(() => {
      const walk = new TableWalk(scene.view, writer.descriptorUnit);
      while (walk.next()) versions++;
    }),
  );
  expect(versions).toBeLessThan((scene.view.totalUnits * UNIT_BYTES) / 8 + 1);
  return corrupt;
}

describe('hostile bytes in a memtable', () => {
  afterEach(() => {
    clean.copy(memory);
  });

  it('are answered or told, whichever words are wrong', () => {
    const random = new Random(newSeed('memtable/hostile.test.ts'));
    expect(readEverything()).toBe(0);
    let corrupt = 0;
    for (let round = 0; round < 120; round++) {
      for (let count = random.between(1, 12); count > 0; count--) {
        const { unit, units } = random.pick(pages);
        const at = unit * UNIT_BYTES + 4 * random.below((units * UNIT_BYTES) / 4);
        const kind = random.below(4);
        // Any word; a small number, as heights and counts are; one that names a node or block; one bit.
        if (kind === 0) memory.writeUInt32LE(random.nextU32(), at);
        else if (kind === 1) memory.writeUInt32LE(random.below(300), at);
        else if (kind === 2) memory.writeUInt32LE(random.pick(pages).unit * 512 + random.below(512), at);
        else memory.writeUInt32LE((memory.readUInt32LE(at) ^ (1 << random.below(32))) >>> 0, at);
      }
      corrupt += readEverything();
      clean.copy(memory);
    }
    expect(corrupt).toBeGreaterThan(50);
  });

  it('in links that close the list to a circle end a search and a walk', () => {
    const words = new Int32Array(memory.buffer, memory.byteOffset, memory.length / 4);
    const head = (writer.descriptorUnit * UNIT_BYTES) / 4 + 32;
    // No lane, and the first node of each level leads to itself.
    words[(writer.descriptorUnit * UNIT_BYTES) / 4 + 16] = 0;
    for (let level = 0; level < 12; level++) {
      const node = words[head + 2 + level]!;
      if (node !== 0) words[node * 2 + 2 + level] = node;
    }
    expect(readEverything()).toBeGreaterThan(100);
  });

  it('in the word that says whether it is frozen are told by a walk', () => {
    const word = (writer.descriptorUnit * UNIT_BYTES) / 4 + IS_FROZEN_WORD;
    for (const wrong of [0, 2, 0xffffffff]) {
      memory.writeUInt32LE(wrong, 4 * word);
      expect(readEverything()).toBe(1);
    }
  });

  it('leave a successor with ERR_CORRUPT or a table it calls sound or not', () => {
    const random = new Random(newSeed('memtable/hostile.test.ts'));
    for (let round = 0; round < 150; round++) {
      for (let count = random.between(1, 6); count > 0; count--) {
        const { unit, units } = random.pick(pages);
        memory.writeUInt32LE(
          random.nextU32(),
          unit * UNIT_BYTES + 24 + 4 * random.below((units * UNIT_BYTES - 24) / 4),
        );
      }
      orCorrupt(() => {
        const arena = ArenaWriter.adopt(scene.layout, markRows);
        memtableEngine.openWriter(arena, 0, 0, {}).check();
      });
      clean.copy(memory);
    }
  });
});
