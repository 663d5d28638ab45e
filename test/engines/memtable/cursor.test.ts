/** Walks at the newest state while the writer is between two publications: what a lock-free cursor may never show. */
import { describe, expect, it } from 'vitest';
import { EngineScene } from '../contract-scene.js';

const bytes = (text: string): Buffer => Buffer.from(text);

/** Key and value of all entries; `during` runs when the cursor first asks whether something was published meanwhile. */
function walkWhile(scene: EngineScene, reverse: boolean, during: () => void): string[] {
  let isDone = false;
  const { view, cursor } = scene;
  const published = view.published.bind(view);
  view.published = (): number => {
    if (!isDone) {
      isDone = true;
      during();
    }
    return published();
  };
  const lines: string[] = [];
  const metaUnit = view.pin(1);
  const key = Buffer.alloc(16);
  for (
    let more = cursor.seek(metaUnit, undefined, 0, Infinity, reverse, scene.nowMs);
    more;
    more = reverse ? cursor.prev() : cursor.next()
  ) {
    lines.push(`${key.toString('latin1', 0, cursor.copyKey(key, 0))}=${cursor.valueUtf8()}`);
  }
  cursor.release();
  view.unpin(1);
  expect(isDone).toBe(true);
  return lines;
}

function sceneWith(...keys: string[]): EngineScene {
  const scene = new EngineScene('memtable');
  scene.group(() => {
    for (const key of keys) scene.put(bytes(key), bytes('old'));
  });
  return scene;
}

describe.each([false, true])('reverse %s', (reverse) => {
  const inOrder = (lines: string[]): string[] => (reverse ? lines.reverse() : lines);

  it('an entry that was put and deleted again by one group is never shown', () => {
    const scene = sceneWith('a', 'c');
    scene.begin();
    scene.put(bytes('b'), bytes('never published'));
    const lines = walkWhile(scene, reverse, () => {
      scene.del(bytes('b'));
      scene.publish();
    });
    expect(lines).toEqual(inOrder(['a=old', 'c=old']));
  });

  it('of two values that one group gives a key the first is never shown', () => {
    const scene = sceneWith('a', 'b', 'c');
    scene.begin();
    scene.put(bytes('b'), bytes('never published'));
    const lines = walkWhile(scene, reverse, () => {
      scene.put(bytes('b'), bytes('new'));
      scene.publish();
    });
    expect(lines).toEqual(inOrder(['a=old', 'b=new', 'c=old']));
  });

  it('a key that one group deletes and puts again is always there', () => {
    const scene = sceneWith('a', 'b', 'c');
    scene.begin();
    scene.del(bytes('b'));
    const lines = walkWhile(scene, reverse, () => {
      scene.put(bytes('b'), bytes('new'));
      scene.publish();
    });
    expect(lines).toEqual(inOrder(['a=old', 'b=new', 'c=old']));
  });
});
