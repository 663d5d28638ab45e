/** Any bytes in a table's memory: readers answer, or say ERR_CORRUPT; they never hang, leave the arena or throw anything else. */
import { expect, test } from 'vitest';
import { EngineScene, keyOf, newSeed } from '../contract-scene.js';
import { StaleViewError } from '../../../dist/engines/engine.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { HEADER_UNITS } from '../../../dist/shared/memory/arena.js';
import { Random } from '../../../dist/shared/random.js';

const FILE = 'hash/hostile.test.ts';

const scene = new EngineScene('hash', { memoryBytes: 1 << 20 });
scene.group(() => {
  for (let index = 0; index < 900; index++)
    scene.put(keyOf(index), Buffer.alloc(index % 100 === 50 ? 9000 : index % 60, index), index % 7 === 0 ? 5 : 0);
});
const snapshot = scene.snapshot();
scene.group(() => {
  for (let index = 0; index < 900; index += 4) scene.put(keyOf(index), Buffer.from('second'));
  for (let index = 1; index < 900; index += 9) scene.del(keyOf(index));
});
const metaUnit = scene.view.published();
const memory = Buffer.from(scene.layout.segments[0]!);
const clean = Buffer.from(memory);
const end = scene.arena.stats().highWaterUnits * 4096;

function orCorrupt(run: () => void): boolean {
  try {
    run();
    return false;
  } catch (error) {
    if (error instanceof StaleViewError) return true;
    expect(error).toBeInstanceOf(ConcordError);
    expect((error as ConcordError).code).toBe('ERR_CORRUPT');
    return true;
  }
}

function readEverything(): number {
  let refused = 0;
  const { reader, cursor } = scene;
  for (const atSeq of [Infinity, snapshot]) {
    for (let index = 0; index < 920; index += 3) {
      if (
        orCorrupt(() => {
          const key = keyOf(index);
          if (reader.find(metaUnit, key, key.length, atSeq, 4)) reader.copyValue();
        })
      )
        refused++;
    }
    if (
      orCorrupt(() => {
        cursor.setRange(undefined, undefined);
        let entries = 0;
        for (let more = cursor.seek(metaUnit, undefined, 0, atSeq, false, 4); more; more = cursor.next()) {
          const key = Buffer.alloc(cursor.keyLength);
          cursor.copyKey(key, 0);
          cursor.copyValue();
          expect(++entries).toBeLessThan(100_000);
        }
      })
    )
      refused++;
  }
  return refused;
}

test('bytes written over anywhere in the table', () => {
  const random = new Random(newSeed(FILE));
  expect(readEverything()).toBe(0);
  let refused = 0;
  for (let round = 0; round < 60; round++) {
    const from = HEADER_UNITS * 4096;
    for (let count = random.between(1, 200); count > 0; count--) {
      const at = random.between(from, end - 1);
      memory[at] = random.chance(0.3) ? 0xff : random.below(256);
    }
    refused += readEverything();
    clean.copy(memory);
  }
  expect(refused).toBeGreaterThan(20);
  expect(readEverything()).toBe(0);
});

test('links that lead anywhere, and in circles', () => {
  const random = new Random(newSeed(FILE));
  const words = new Uint32Array(scene.layout.segments[0]!);
  let refused = 0;
  for (let round = 0; round < 12; round++) {
    for (let count = random.between(1, 2000); count > 0; count--) {
      const word = random.between((HEADER_UNITS + 1) * 1024, end / 4 - 1);
      const address = random.between(HEADER_UNITS * 512, end / 8 - 1);
      // Words that could be links get other cells, themselves, or nonsense.
      if (words[word]! >= HEADER_UNITS * 512 && words[word]! < end / 8)
        words[word] = random.chance(0.4) ? word >>> 1 : random.chance(0.8) ? address : random.nextU32();
    }
    refused += readEverything();
    clean.copy(memory);
  }
  expect(refused).toBeGreaterThan(10);
});
