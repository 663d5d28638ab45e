/** Page files with any bytes in them: the right answer or a coded error that names the file, never a hang, a crash or a wrong value. */
import { beforeAll, expect, test } from 'vitest';
import {
  FIRST_SLOT,
  SLOT_BYTES,
  checkHeader,
  classOf,
  coldReference,
  decodeRoot,
  encodeRoot,
  sealPage,
  slotOf,
} from '../../../dist/engines/btree/paged/format.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { STORE_ID, overwrite, readFile } from '../wal/wal-scene.js';
import { DIRECTORY, PagedScene, type SavedCheckpoint } from './support.js';

const PATH = `${DIRECTORY}/tree-00001.pages`;
const COUNT = 700;
const keyOf = (n: number): Buffer => Buffer.from(`key-${String(n).padStart(5, '0')}`);
const valueOf = (n: number): Buffer => Buffer.alloc(n % 20 === 0 ? 6000 : 100 + (n % 300), `${n}.`);

let file: Buffer;
let saved: SavedCheckpoint;
let identityCrc: number;

beforeAll(() => {
  const scene = new PagedScene({ budgetBytes: 64 << 10 });
  for (let n = 0; n < COUNT; n++) {
    scene.put(keyOf(n), valueOf(n));
    if (n % 20 === 19) scene.publish();
  }
  saved = scene.checkpoint();
  file = readFile(scene.env, PATH);
  identityCrc = checkHeader(file, file.length, { storeId: STORE_ID, shard: 0, number: 1 }, PATH);
});

/** Opens the file as it was changed and uses the tree in every way. Returns the errors that were met. */
function use(
  change: (env: MemEnv) => void,
  checkpoint = saved,
): { errors: ConcordError[]; right: number; wrong: number } {
  const errors: ConcordError[] = [];
  const attempt = <T>(work: () => T): T | undefined => {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      expect(['ERR_CORRUPT', 'ERR_FORMAT_VERSION', 'ERR_MEMORY_FULL']).toContain(error.code);
      errors.push(error);
      return undefined;
    }
  };
  const env = new MemEnv();
  env.makeDirectory(DIRECTORY);
  const target = env.open(PATH, 'create');
  target.write(file, 0, file.length, 0);
  target.close();
  change(env);
  const scene = new PagedScene({ budgetBytes: 64 << 10, env, memoryBytes: 4 << 20 });
  const isOpen = attempt(() => {
    scene.reopen(env, checkpoint);
    return true;
  });
  let right = 0;
  let wrong = 0;
  if (isOpen === undefined) return { errors, right, wrong };
  const meta = scene.reader.pin(0);
  for (let n = 0; n < COUNT; n += 3) {
    const value = attempt(() => {
      const key = keyOf(n);
      return scene.find.find(meta, key, key.length, Infinity, 0) ? scene.find.copyValue() : undefined;
    });
    if (value === undefined) continue;
    if (value.equals(valueOf(n))) right++;
    else wrong++;
  }
  attempt(() => {
    let visited = 0;
    for (let more = scene.cursor.seek(meta, undefined, 0, Infinity, false, 1); more; more = scene.cursor.next()) {
      scene.cursor.copyValue();
      expect(++visited).toBeLessThan(100_000);
    }
  });
  attempt(() => {
    let visited = 0;
    for (let more = scene.cursor.seek(meta, undefined, 0, Infinity, true, 1); more; more = scene.cursor.prev()) {
      expect(++visited).toBeLessThan(100_000);
    }
  });
  scene.reader.unpin(0);
  scene.tree.check();
  for (let n = 0; n < COUNT; n += 40) {
    const key = keyOf(n);
    attempt(() => scene.tree.put(key, 0, key.length, key, 0, key.length, 100_000 + n, 0));
    attempt(() => scene.tree.del(keyOf(n + 1), 0, key.length, 100_001 + n));
  }
  return { errors, right, wrong };
}

test('untouched, everything is there', () => {
  expect(use(() => undefined)).toEqual({ errors: [], right: Math.ceil(COUNT / 3), wrong: 0 });
});

test('changed bytes give right values or errors that name the file', () => {
  const random = new Random(3);
  let damaged = 0;
  for (let round = 0; round < 40; round++) {
    const { errors, wrong } = use((env) => {
      for (let i = 0; i < 1 + (round % 5); i++)
        overwrite(env, PATH, random.below(file.length), random.bytes(1 + random.below(8)));
    });
    expect(wrong).toBe(0);
    for (const error of errors) expect(error.details['file']).toBe(PATH);
    if (errors.length > 0) damaged++;
  }
  expect(damaged).toBeGreaterThan(20);
});

test('a file cut anywhere gives right values or errors', () => {
  const random = new Random(4);
  for (let round = 0; round < 15; round++) {
    const { wrong, errors } = use((env) => {
      const target = env.open(PATH, 'write');
      target.truncate(random.below(file.length));
      target.close();
    });
    expect(wrong).toBe(0);
    expect(errors.length).toBeGreaterThan(0);
  }
});

test('pages sealed over nonsense lead to no crash and no endless walk', () => {
  const random = new Random(5);
  let met = 0;
  for (let round = 0; round < 60; round++) {
    const { errors } = use((env) => {
      for (let i = 0; i < 3; i++) {
        const slot = FIRST_SLOT + random.below(file.length / SLOT_BYTES - FIRST_SLOT);
        const at = slot * SLOT_BYTES;
        const pageClass = file[at + 2]!;
        if (pageClass > 3 || at + (SLOT_BYTES << pageClass) > file.length) continue;
        const page = Buffer.from(file.subarray(at, at + (SLOT_BYTES << pageClass)));
        const area = round % 2 === 0 ? 200 : page.length;
        for (let j = 0; j < 1 + random.below(12); j++) page[random.below(area)] = random.below(256);
        page[2] = pageClass;
        sealPage(page, 0, coldReference(slot, pageClass), identityCrc);
        overwrite(env, PATH, at, page);
      }
    });
    if (errors.length > 0) met++;
  }
  expect(met).toBeGreaterThan(10);
});

test('branches that lead in circles, to one page twice or to other places are refused', () => {
  const random = new Random(6);
  const root = decodeRoot(saved.roots[0]!);
  const rootAt = slotOf(root.row.rootUnit) * SLOT_BYTES;
  const rootBytes = SLOT_BYTES << classOf(root.row.rootUnit);
  let refused = 0;
  for (let round = 0; round < 30; round++) {
    const { errors } = use((env) => {
      const page = Buffer.from(file.subarray(rootAt, rootAt + rootBytes));
      const count = page.readUInt16LE(10);
      const children = (24 + page.readUInt16LE(12) + 3) & ~3;
      const at = children + 4 * count + 4 * random.below(count);
      const other = children + 4 * count + 4 * random.below(count);
      const lies = [
        root.row.rootUnit,
        page.readUInt32LE(other),
        0,
        77,
        coldReference(random.below(4000), random.below(4)),
      ];
      const lie = lies[round % lies.length]!;
      if (lie === page.readUInt32LE(at)) return;
      page.writeUInt32LE(lie, at);
      sealPage(page, 0, root.row.rootUnit, identityCrc);
      overwrite(env, PATH, rootAt, page);
    });
    if (errors.length > 0) refused++;
  }
  expect(refused).toBeGreaterThan(20);
});

test('a root that is wrong in any field is refused', () => {
  const root = decodeRoot(saved.roots[0]!);
  const roots = [
    { ...root, number: 2 },
    { ...root, spaceId: 9 },
    { ...root, row: { ...root.row, height: root.row.height + 1 } },
    { ...root, row: { ...root.row, height: 1 } },
    { ...root, row: { ...root.row, leafPages: root.row.leafPages + 1 } },
    { ...root, row: { ...root.row, overflowUnits: root.row.overflowUnits - 1 } },
    { ...root, row: { ...root.row, rootUnit: coldReference(FIRST_SLOT, 0) } },
  ];
  for (const wrong of roots) {
    const { errors } = use(() => undefined, { ...saved, roots: [encodeRoot(wrong)] });
    expect(errors.length).toBeGreaterThan(0);
  }
  expect(use(() => undefined, { ...saved, roots: [] }).errors[0]!.message).toContain('has no root of space 0');
});
