/**
 * Power loss at every file operation of a manifest's life, rolls and openings among them. Each moment is looked at as several disks; each disk is opened, goes
 * on, loses power again and is opened once more. What is found is the state before or after the edit that was being made.
 */
import { describe, expect, test } from 'vitest';
import { LsmManifest, removeOrphans } from '../../../../dist/engines/lsm/manifest/manifest.js';
import { MemEnv, type DataSurvival, type NameSurvival } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, IDENTITY, after, randomEdit, replace, textOf } from './scene.js';

const DATA: DataSurvival[] = ['drop-all', 'keep-all', 'prefix', 'sectors', 'writes'];
const NAMES: NameSurvival[] = ['drop-all', 'keep-all', 'ordered', 'arbitrary'];
const OPTIONS = { create: true, rollBytes: 1500 };

interface Knowledge {
  /** Of the last edit that was acknowledged, and of the one on its way. */
  states: string[];
  /** The highest number of a file that was given. */
  lastFile: number;
}

function judge(disk: MemEnv, known: Knowledge, random: Random, deeper: number): string | undefined {
  let manifest;
  try {
    manifest = LsmManifest.open(disk, DIRECTORY, IDENTITY, OPTIONS);
  } catch (error) {
    return String(error);
  }
  const found = textOf(manifest.state, false);
  if (!known.states.includes(found)) return `found ${found}, expected ${known.states.join(' or ')}`;
  // What the state does not name goes: no later crash may bring back a state that needs it.
  removeOrphans(disk, DIRECTORY, manifest.state);
  const next = { states: [found], lastFile: known.lastFile };
  if (deeper === 0) {
    if (random.chance(0.5)) manifest.close();
    const again = disk.crash(random, { data: random.pick(DATA), names: random.pick(NAMES) });
    return judge(again, next, random, -1);
  }
  if (deeper < 0) return undefined;
  const first = manifest.takeFiles(3);
  if (first <= known.lastFile) return `file ${first} is given twice`;
  const edit = randomEdit(random, manifest.state, (count) => manifest.takeFiles(count));
  const wanted = textOf(after(manifest.state, edit), false);
  manifest.append(edit);
  const again = disk.crash(random, { data: random.pick(DATA), names: random.pick(NAMES) });
  return judge(again, { states: [wanted], lastFile: first + 2 }, random, 0);
}

function live(seed: number, steps: number, ignoreSync: boolean): { moments: number; problems: string[] } {
  const random = new Random(seed);
  const problems: string[] = [];
  const known: Knowledge = { states: [], lastFile: 0 };
  let moments = 0;
  const env: MemEnv = new MemEnv({
    seed,
    ignoreSync,
    onOperation(index, kind, path) {
      if (known.states.length === 0) return;
      moments++;
      for (let i = 0; i < 3; i++) {
        const policy = { data: random.pick(DATA), names: random.pick(NAMES) };
        const problem = judge(
          env.crash(random, policy, { onOperation: () => undefined }),
          known,
          random,
          random.below(2),
        );
        if (problem !== undefined)
          problems.push(`operation ${index}, ${kind} ${path}, ${JSON.stringify(policy)}: ${problem}`);
      }
    },
  });
  env.makeDirectory('/store/shard-003');
  for (const path of ['/', '/store', '/store/shard-003']) env.syncDirectory(path);
  known.states = [textOf({ tables: new Map(), blobs: new Map(), tombstones: [], storedSeq: 0, nextFile: 1 }, false)];
  let manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, OPTIONS);
  for (let step = 0; step < steps; step++) {
    const edit = randomEdit(random, manifest.state, (count) => {
      const first = manifest.takeFiles(count);
      known.lastFile = Math.max(known.lastFile, first + count - 1);
      return first;
    });
    known.states.push(textOf(after(manifest.state, edit), false));
    manifest.append(edit);
    known.states = [textOf(manifest.state, false)];
    if (random.chance(0.1)) {
      manifest.close();
      replace(env, `${DIRECTORY}/000123.sst.tmp`, Buffer.alloc(10));
      manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, OPTIONS);
      removeOrphans(env, DIRECTORY, manifest.state);
    }
  }
  expect(manifest.number).toBeGreaterThan(2);
  return { moments, problems };
}

describe('a manifest that loses power at any operation', () => {
  const seeds = process.env['SEED'] === undefined ? [1, 2, 3, 4] : [Number(process.env['SEED'])];

  test.each(seeds)('has the state before or after the edit, twice in a row (SEED=%i)', (seed) => {
    const { moments, problems } = live(seed, 60, false);
    expect(problems.slice(0, 3)).toEqual([]);
    expect(moments).toBeGreaterThan(200);
  });

  test('is lost on a disk that does not do what sync says: the crashes are real', () => {
    expect(live(1, 60, true).problems.length).toBeGreaterThan(10);
  });
});
