/** Clears, one after the other: what remembers them does not grow without end. */
import { expect, test } from 'vitest';
import { LsmScene } from './scene.js';

test('a thousand clears leave a few range tombstones, whatever little was written between them', () => {
  const scene = new LsmScene();
  for (let round = 0; round < 1000; round++) {
    const key = `key-${String(round).padStart(4, '0')}`;
    scene.commit([
      { kind: 'put', key, value: `${round}` },
      { kind: 'clear', low: `key-${String(Math.max(0, round - 5)).padStart(4, '0')}`, high: key },
    ]);
    if (round % 50 === 0) {
      scene.settle();
      expect(scene.writer.figures().rangeTombstones).toBeLessThan(200);
    }
  }
  scene.settle();
  expect(scene.writer.figures().rangeTombstones).toBeLessThan(200);
  expect(scene.difference(true)).toBeUndefined();
  scene.reopen();
  expect(scene.difference(true)).toBeUndefined();
});

test.each([
  ['to behind the longest key', undefined, `m${'m'.repeat(4095)}\0`, ['n', 'z']],
  ['from behind the longest key', `m${'m'.repeat(4095)}\0`, undefined, ['a', 'm'.repeat(4096)]],
  ['between two of them', `b${'\x7f'.repeat(4095)}\0`, `n${'\x01'.repeat(4095)}\0`, ['a', 'z']],
])('a clear %s takes what the log has just before it, now and after a recovery', (_name, low, high, left) => {
  const scene = new LsmScene();
  const keys = ['a', 'm'.repeat(4096), 'n', 'z'];
  scene.commit([
    ...keys.map((key) => ({ kind: 'put', key, value: 'v' }) as const),
    { kind: 'clear', low, high },
    { kind: 'put', key: 'last', value: 'v' },
  ]);
  const found = (): string[] => keys.filter((key) => scene.get(key) !== undefined);
  expect(found()).toEqual(left);
  expect(scene.difference(true)).toBeUndefined();
  scene.reopen();
  expect(found()).toEqual(left);
  scene.flush();
  scene.compact();
  expect(found()).toEqual(left);
  expect(scene.difference(true)).toBeUndefined();
});
