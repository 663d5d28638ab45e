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
