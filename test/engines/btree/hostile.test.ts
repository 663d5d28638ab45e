/** Any bytes in any page: readers answer, or say ERR_CORRUPT; they never hang, never leave the arena, never throw anything else. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkPublished, validatePage } from '../../../dist/engines/btree/check.js';
import { markTrees, treeCounts } from '../../../dist/engines/btree/meta.js';
import { writeImage } from '../../../dist/engines/btree/image.js';
import { ArenaReader } from '../../../dist/shared/memory/arena.js';
import { StaleViewError } from '../../../dist/engines/engine.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { Scene } from './support.js';

const keyOf = (index: number): Buffer => Buffer.from(`key ${String(index).padStart(6, '0')}`);

function orCorrupt(run: () => void): void {
  try {
    run();
  } catch (error) {
    // Another tag in the row: the reader takes it for another engine's.
    if (error instanceof StaleViewError) return;
    expect(error).toBeInstanceOf(ConcordError);
    expect((error as ConcordError).code).toBe('ERR_CORRUPT');
  }
}

const scene = new Scene({ order: 12 }, 4 << 20);
for (let index = 0; index < 600; index++)
  scene.put(keyOf(index), Buffer.alloc(index % 100 === 50 ? 12_000 : index % 60, index));
scene.snapshot();
for (let index = 0; index < 600; index += 4) scene.put(keyOf(index), Buffer.from('second'));
scene.publish();
const metaUnit = scene.meta;
const pages: { unit: number; units: number }[] = [];
markTrees(scene.reader, metaUnit, (unit, units) => pages.push({ unit, units }));
const clean = Buffer.from(Buffer.from(scene.arena.layout.segments[0]!));

function readEverything(reader: ArenaReader): void {
  for (const atSeq of [Infinity, 300]) {
    for (let index = 0; index < 620; index += 7) {
      orCorrupt(() => {
        const key = keyOf(index);
        if (scene.find.find(metaUnit, key, key.length, atSeq, 0)) scene.find.copyValue();
      });
    }
    for (const reverse of [false, true]) {
      orCorrupt(() => {
        const key = Buffer.alloc(4096 + 64);
        let entries = 0;
        for (
          let more = scene.cursor.seek(metaUnit, undefined, 0, atSeq, reverse, 0);
          more;
          more = reverse ? scene.cursor.prev() : scene.cursor.next()
        ) {
          if (scene.cursor.keyLength <= key.length) scene.cursor.copyKey(key, 0);
          scene.cursor.copyValue();
          // A tree of 600 entries over these pages cannot hold more, whatever its bytes say.
          expect(++entries).toBeLessThan(100_000);
        }
      });
    }
  }
  orCorrupt(() => {
    let bytes = 0;
    writeImage(reader, metaUnit, (chunk) => (bytes += chunk.length));
  });
  orCorrupt(() => expect(Array.isArray(checkPublished(reader, metaUnit))).toBe(true));
}

describe('hostile page bytes', () => {
  const reset = (): Buffer => {
    const bytes = Buffer.from(scene.arena.layout.segments[0]!);
    bytes.set(clean);
    return bytes;
  };

  it('a few changed bytes in any page', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(pages.length - 1), fc.nat(32767), fc.nat(255), fc.boolean()), {
          minLength: 1,
          maxLength: 8,
        }),
        (changes) => {
          const bytes = reset();
          for (const [page, at, byte, header] of changes) {
            const { unit, units } = pages[page]!;
            bytes[unit * 4096 + (header ? at % 320 : at % (units * 4096))] = byte;
          }
          readEverything(scene.reader);
        },
      ),
      { numRuns: 100, endOnFailure: true },
    );
    reset();
  });

  it('a page of random bytes in place of any page', () => {
    fc.assert(
      fc.property(
        fc.nat(pages.length - 1),
        fc.uint8Array({ minLength: 4096, maxLength: 4096, size: 'max' }),
        fc.boolean(),
        (page, noise, keepHead) => {
          const bytes = reset();
          const at = pages[page]!.unit * 4096;
          bytes.set(keepHead ? noise.subarray(4) : noise, at + (keepHead ? 4 : 0));
          readEverything(scene.reader);
        },
      ),
      { numRuns: 60, endOnFailure: true },
    );
    reset();
  });

  it('pages that point at their own ancestors or at each other', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(pages.length - 1), fc.nat(40), fc.nat(pages.length - 1)), {
          minLength: 1,
          maxLength: 20,
        }),
        (links) => {
          const bytes = reset();
          for (const [page, word, target] of links)
            bytes.writeUInt32LE(pages[target]!.unit, pages[page]!.unit * 4096 + 20 + 4 * word);
          readEverything(scene.reader);
        },
      ),
      { numRuns: 60, endOnFailure: true },
    );
    reset();
  });

  it('a page check finds any changed byte that matters to the order of its entries', () => {
    const bytes = reset();
    const leaf = pages.find(({ unit }) => bytes[unit * 4096] === 1)!;
    const at = leaf.unit * 4096;
    const prefixLength = bytes.readUInt16LE(at + 12);
    const count = bytes.readUInt16LE(at + 10);
    const slots = 24 + ((prefixLength + 3) & ~3);
    for (let byte = slots; byte < slots + count * 6; byte++) {
      bytes[at + byte]! ^= 0x55;
      expect(() => {
        validatePage(scene.reader, leaf.unit, 0);
      }).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
      bytes[at + byte]! ^= 0x55;
    }
    validatePage(scene.reader, leaf.unit, 0);
    expect(checkPublished(scene.reader, metaUnit)).toEqual([]);
    expect(treeCounts(scene.reader, metaUnit, 0).liveEntries).toBe(600);
  });
});
