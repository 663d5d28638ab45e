/** What a recovery makes of a log that the checkpoint covers and tables hold in part: it may be cut off at any point and begun again. */
import { expect, test } from 'vitest';
import { Random } from '../../../../dist/shared/random.js';
import { LsmScene } from './scene.js';

const VALUE = 'v'.repeat(300);

test('a memtable that fills up while covered log is replayed takes no later operations along in its number', () => {
  const scene = new LsmScene();
  // The checkpoint is to name the tree.
  scene.put('first', VALUE);
  scene.flush();
  for (let index = 0; index < 600; index++) scene.put(`key-${index}`, VALUE);
  // No job has run: the checkpoint covers what only memtables, and so the log, have.
  scene.checkpoint();
  scene.kill(new Random(1));
  expect(scene.difference(true)).toBe(undefined);
  scene.settle();
  expect(scene.writer.storedSeq).toBeGreaterThan(0);
  scene.kill(new Random(2));
  expect(scene.difference(true)).toBe(undefined);
  scene.close();
});
