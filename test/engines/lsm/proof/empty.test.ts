/** Trees with nothing in them. */
import { expect, test } from 'vitest';
import { LsmScene } from '../store/scene.js';

test('a compaction of a tree that never had a file ends at once, of a range too', () => {
  const scene = new LsmScene();
  scene.compact();
  scene.compact('a', 'b');
  scene.flush();
  expect(scene.directories()).toEqual([]);
});

test('a compaction of a tree whose only entries are deleted leaves no entry', () => {
  const scene = new LsmScene();
  scene.del('never there');
  scene.compact();
  expect(scene.writer.counts().cells).toBe(0);
  scene.compact();
  scene.reopen();
  scene.compact();
  expect(scene.difference(true)).toBeUndefined();
});
