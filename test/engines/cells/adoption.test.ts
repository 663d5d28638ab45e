/** A successor in an arena where a checkpoint has a publication pinned whose engines are gone. */
import { describe, expect, it } from 'vitest';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { markRows } from '../../../dist/engines/store/space-table.js';
import { ArenaWriter } from '../../../dist/shared/memory/arena.js';
import { ENGINES, EngineScene } from '../contract-scene.js';

const ENTRIES = 2000;

describe.each(ENGINES.filter((name) => name !== 'btree'))('%s', (name) => {
  it('a pinned publication does not lead a successor to what the pages of a dropped engine hold by now', () => {
    const kept = new EngineScene('hash', { memoryBytes: 4 << 20 });
    kept.group(() => kept.put(Buffer.from('key'), Buffer.from('value')));
    const dropped = new EngineScene(name, { beside: kept, row: 1, spaceId: 1 });
    const fill = (scene: EngineScene, from: number): void => {
      scene.begin();
      for (let index = from; index < from + ENTRIES; index++) {
        const key = Buffer.from(`key ${index}`);
        scene.writer.put(key, 0, key.length, key, 0, key.length, ++scene.seq, 0);
      }
      scene.publish();
    };
    const { arena, layout } = kept;
    fill(dropped, 0);
    arena.pinLong();
    // Pages that are younger than the pin.
    fill(dropped, ENTRIES);
    dropped.writer.destroy();
    for (let count = 0; count < 3; count++) publishTrees(arena, dropped.seq);
    arena.reclaim();
    const bytes = Buffer.alloc(4096 - 12);
    const reused = new Set<number>();
    while (arena.freeUnits() > 0) {
      const unit = arena.allocate(1);
      reused.add(unit);
      arena.u8[0]!.set(bytes, unit * 4096 + 12);
    }
    expect(reused.size).toBeGreaterThan(10);

    const successor = ArenaWriter.adopt(layout, markRows);
    const writer = kept.engine.openWriter(successor, 0, 0, {});
    expect(writer.check()).toEqual([]);
    expect(writer.counts().liveEntries).toBe(1);
    for (const pin of successor.longPins()) successor.unpinLong(pin);
    successor.reclaim();
    // All but the header, the kept table and what is published is free again.
    expect(successor.usedUnits).toBeLessThan(8 + 1 + writer.counts().treeUnits + 8);
  });
});
