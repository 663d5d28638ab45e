/** Files of a manifest that are missing, cut or changed at any place: a coded error that names the file, never another state. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  FRAME_HEADER_BYTES,
  FrameKind,
  HEADER_BYTES,
  decodeHeader,
  encodeEdit,
  frameBytes,
  sealFrame,
} from '../../../../dist/engines/lsm/manifest/format.js';
import { LsmManifest } from '../../../../dist/engines/lsm/manifest/manifest.js';
import { manifestName } from '../../../../dist/engines/lsm/manifest/names.js';
import { readCurrentManifest, readManifest } from '../../../../dist/engines/lsm/manifest/read.js';
import type { VersionEdit } from '../../../../dist/engines/lsm/manifest/state.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, IDENTITY, bytesOf, failure, randomEdit, replace, textOf } from './scene.js';

const PATH = `${DIRECTORY}/${manifestName(1)}`;

function written(edits: number, seed = 7): { env: MemEnv; bytes: Buffer; states: string[] } {
  const env = new MemEnv();
  const random = new Random(seed);
  const manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, { create: true, rollBytes: 1 << 20 });
  const states = [textOf(manifest.state)];
  for (let edit = 0; edit < edits; edit++) {
    manifest.append(randomEdit(random, manifest.state, (count) => manifest.takeFiles(count)));
    states.push(textOf(manifest.state));
  }
  manifest.close();
  return { env, bytes: bytesOf(env, PATH), states };
}

function read(env: MemEnv): string {
  const manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, { readOnly: true });
  manifest.close();
  return textOf(manifest.state);
}

describe('damage to a manifest', () => {
  const { env, bytes, states } = written(12);
  const { end } = readCurrentManifest(env, DIRECTORY, IDENTITY);

  test('in any bit of its header and frames is found, and named with file and offset', () => {
    for (let offset = 0; offset < end; offset++) {
      for (const mask of [1 << (offset & 7), 0xff]) {
        const changed = Buffer.from(bytes);
        changed[offset]! ^= mask;
        replace(env, PATH, changed);
        const error = failure(() => read(env));
        expect(error.code, `offset ${offset}`).toBe('ERR_CORRUPT');
        expect(error.details['file']).toBe(PATH);
        expect(error.details['offset']).toBeLessThanOrEqual(Math.max(offset, HEADER_BYTES));
      }
    }
  });

  test('behind the last frame changes nothing, and the next opening leaves it behind', () => {
    const state = states.at(-1);
    const offsets = [...Array(FRAME_HEADER_BYTES * 2).keys()].map((at) => end + at).concat([bytes.length - 1]);
    for (const offset of offsets) {
      const changed = Buffer.from(bytes);
      changed[offset]! ^= 1 << (offset & 7);
      const disk = env.crash(new Random(1), 'keep-all');
      replace(disk, PATH, changed);
      expect(read(disk)).toBe(state);
      const manifest = LsmManifest.open(disk, DIRECTORY, IDENTITY);
      expect(textOf(manifest.state)).toBe(state);
      manifest.append({ storedSeq: 2 ** 40 });
      manifest.close();
      expect(LsmManifest.open(disk, DIRECTORY, IDENTITY, { readOnly: true }).state.storedSeq).toBe(2 ** 40);
    }
  });

  test('is never a wrong state where bytes of one frame stand in another', () => {
    for (let seed = 0; seed < 300; seed++) {
      const random = new Random(seed);
      const changed = Buffer.from(bytes);
      const length = 1 + random.below(600);
      const from = random.below(end - length);
      const to = random.below(end - length);
      if (changed.compare(changed, from, from + length, to, to + length) === 0) continue;
      changed.copy(changed, to, from, from + length);
      replace(env, PATH, changed);
      expect(failure(() => read(env)).code, `seed ${seed}`).toBe('ERR_CORRUPT');
    }
  });

  test('a file cut at any place is found', () => {
    for (let length = 0; length < bytes.length; length += length < end + 40 ? 1 : 97) {
      replace(env, PATH, bytes.subarray(0, length));
      const error = failure(() => read(env));
      expect(error, `length ${length}`).toMatchObject({ code: 'ERR_CORRUPT', details: { file: PATH } });
    }
  });

  test('a file of several parts, cut where one ends, is found', () => {
    const long = written(400, 3);
    expect(long.bytes.length).toBeGreaterThan(2 * 16384);
    for (let length = 16384; length < long.bytes.length; length += 16384) {
      replace(long.env, PATH, long.bytes.subarray(0, length));
      expect(
        failure(() => read(long.env)),
        `length ${length}`,
      ).toMatchObject({ code: 'ERR_CORRUPT', details: { file: PATH } });
    }
  });

  test('without a seal, only the last edit can be lost, as if it had never been finished', () => {
    const offsets: number[] = [];
    replace(env, PATH, bytes);
    readCurrentManifest(env, DIRECTORY, IDENTITY, ({ offset }) => offsets.push(offset));
    const last = offsets.at(-1)!;
    for (let offset = HEADER_BYTES; offset < end; offset++) {
      const changed = Buffer.from(bytes);
      changed.fill(0, end, end + FRAME_HEADER_BYTES);
      changed[offset]! ^= 1 << (offset & 7);
      replace(env, PATH, changed);
      if (offset >= last)
        expect(textOf(LsmManifest.open(env, DIRECTORY, IDENTITY, { readOnly: true }).state)).toBe(states.at(-2));
      else expect(failure(() => read(env)).code).toBe('ERR_CORRUPT');
    }
  });

  test('a pointer that is cut or changed at any place is found', () => {
    replace(env, PATH, bytes);
    const path = `${DIRECTORY}/CURRENT`;
    const whole = bytesOf(env, path);
    const isFound = (changed: Uint8Array): void => {
      replace(env, path, changed);
      expect(failure(() => read(env))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
    };
    for (let offset = 0; offset < whole.length; offset++) {
      isFound(whole.subarray(0, offset));
      for (let bit = 0; bit < 8; bit++) {
        const changed = Buffer.from(whole);
        changed[offset]! ^= 1 << bit;
        isFound(changed);
      }
    }
    isFound(Buffer.concat([whole, whole]));
    isFound(Buffer.alloc(10_000));
    env.remove(path);
    expect(failure(() => read(env))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
    replace(env, path, whole);
    env.remove(PATH);
    expect(failure(() => read(env))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: PATH } });
  });
});

describe('frames of any content, with good checksums', () => {
  /** A sound manifest, and behind its state a frame of these bytes. */
  function withFrame(payload: Uint8Array): MemEnv {
    const env = new MemEnv();
    const manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, { create: true });
    const end = manifest.bytes;
    manifest.close();
    const bytes = bytesOf(env, PATH);
    const { seed } = decodeHeader(bytes, PATH);
    const whole = Buffer.alloc(Math.ceil((end + payload.length + 100) / 16384) * 16384);
    bytes.copy(whole, 0, 0, end);
    whole.set(payload, end + FRAME_HEADER_BYTES);
    sealFrame(whole, end, payload.length, FrameKind.Edit, 2, seed);
    sealFrame(whole, end + frameBytes(payload.length), 0, FrameKind.Seal, 2, seed);
    replace(env, PATH, whole);
    return env;
  }

  function outcome(env: MemEnv): string {
    try {
      readManifest(env, PATH, undefined);
      return 'read';
    } catch (error) {
      return (error as { code: string }).code;
    }
  }

  test('are an edit or a coded error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (payload) => {
        expect(['read', 'ERR_CORRUPT']).toContain(outcome(withFrame(payload)));
      }),
      { numRuns: 1500, verbose: true },
    );
  });

  test('an edit with one byte changed is an edit or a coded error', () => {
    const env = new MemEnv();
    const manifest = LsmManifest.open(env, DIRECTORY, IDENTITY, { create: true });
    const random = new Random(5);
    const edits: VersionEdit[] = [];
    for (let i = 0; i < 40; i++) {
      const edit = randomEdit(random, manifest.state, (count) => manifest.takeFiles(count));
      manifest.append(edit);
      edits.push(edit);
    }
    const outcomes = new Set<string>();
    for (const edit of edits) {
      const { bytes, payloadBytes } = encodeEdit({ nextFile: 5000, ...edit }, 0);
      for (let round = 0; round < 60; round++) {
        const changed = bytes.slice(0, payloadBytes);
        changed[random.below(payloadBytes)] = random.below(256);
        outcomes.add(outcome(withFrame(changed)));
        outcomes.add(outcome(withFrame(changed.subarray(0, random.below(payloadBytes)))));
      }
    }
    expect([...outcomes].sort()).toEqual(['ERR_CORRUPT', 'read']);
  });
});
