/** The red–black tree by itself: its rules after any history, and a writer that dies between any two stores. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { JOURNAL_WORD, VERSION_WORD } from '../../../dist/engines/rbtree/links.js';
import { JOURNAL_WORDS, RedBlackTree, rollBack } from '../../../dist/engines/rbtree/tree.js';
import { LooseNodes, randomFrom } from './loose-nodes.js';

class Scene {
  readonly nodes = new LooseNodes(8 << 20, 2);
  tree = new RedBlackTree(this.nodes.arena, this.nodes.descriptorUnit);
  readonly model = new Map<string, number>();
  /** A node on its way in: its bytes are nobody's when the writer dies. */
  freshNode = 0;

  locate(key: string): number {
    return this.tree.locate(Buffer.from(key), 0, Buffer.byteLength(key));
  }

  put(key: string): void {
    const found = this.locate(key);
    if (found !== (this.model.get(key) ?? 0)) throw new Error(`${key} is found at ${found}`);
    const node = this.nodes.make(key);
    if (found === 0) this.tree.insert(node);
    else this.tree.replace(node);
    this.model.set(key, node);
  }

  del(key: string): void {
    const found = this.locate(key);
    if (found !== (this.model.get(key) ?? 0)) throw new Error(`${key} is found at ${found}`);
    if (found === 0) return;
    this.tree.remove();
    this.model.delete(key);
  }

  walk(side: 0 | 1): string[] {
    const keys: string[] = [];
    for (let node = this.tree.edge(this.tree.root, side); node !== 0; node = this.tree.step(side === 0 ? 1 : 0)) {
      keys.push(this.nodes.keyOf(node));
      if (keys.length > this.model.size + 1) throw new Error('the walk does not end');
    }
    this.tree.forgetPlace();
    return keys;
  }

  verify(): void {
    const problems: string[] = [];
    expect(this.tree.check(problems)).toBe(this.model.size);
    expect(problems).toEqual([]);
    const keys = [...this.model.keys()].sort();
    expect(this.walk(0)).toEqual(keys);
    expect(this.walk(1)).toEqual(keys.reverse());
  }
}

const keyOf = (index: number): string => `k${String(index).padStart(6, '0')}`;

describe('after any history', () => {
  const step = fc.record({ put: fc.boolean(), key: fc.nat(120), run: fc.integer({ min: -6, max: 6 }) });
  it('the tree is a sound red–black tree of the right keys', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 50, maxLength: 400, size: 'max' }), (steps) => {
        const scene = new Scene();
        for (const { put, key, run } of steps) {
          // Runs of neighbours, up or down, go by the finger.
          for (let offset = 0; Math.abs(offset) <= Math.abs(run); offset += run < 0 ? -1 : 1) {
            if (put) scene.put(keyOf(key + offset));
            else scene.del(keyOf(key + offset));
          }
        }
        scene.verify();
      }),
      { numRuns: 60 },
    );
  });

  for (const [name, order] of [
    ['ascending', (index: number) => index],
    ['descending', (index: number) => 9999 - index],
    ['shuffled', (index: number) => (index * 7919) % 10_000],
  ] as const) {
    it(`10,000 ${name} keys in and out again`, () => {
      const scene = new Scene();
      for (let index = 0; index < 10_000; index++) scene.put(keyOf(order(index)));
      scene.verify();
      for (let index = 0; index < 10_000; index += 2) scene.del(keyOf(order(index)));
      scene.verify();
      for (let index = 0; index < 10_000; index++) scene.del(keyOf(order(9999 - index)));
      scene.verify();
      expect(scene.tree.root).toBe(0);
    });
  }

  it('a search that misses ends beside its neighbours', () => {
    const scene = new Scene();
    for (let index = 1; index < 200; index += 2) scene.put(keyOf(index));
    for (let index = 0; index <= 200; index += 2) {
      for (const side of [0, 1] as const) {
        expect(scene.locate(keyOf(index))).toBe(0);
        const node = scene.tree.neighbour(side);
        scene.tree.forgetPlace();
        const wanted = index + (side === 0 ? -1 : 1);
        if (wanted < 0 || wanted > 200) expect(node).toBe(0);
        else expect(scene.nodes.keyOf(node)).toBe(keyOf(wanted));
      }
    }
  });
});

describe('a writer that dies', () => {
  class Killed extends Error {}

  /** Runs the operation as often as it has stores, killed after each; what is left must be the state before, word for word. */
  function killEverywhere(scene: Scene, operation: (tree: RedBlackTree) => void): number {
    const keysBefore = scene.walk(0);
    for (let stores = 1; ; stores++) {
      scene.nodes.remember();
      const before = Buffer.from(scene.nodes.arena.u8[0]!.slice(0, 1 << 17));
      let left = stores;
      scene.tree.onStore = () => {
        if (--left === 0) throw new Killed();
      };
      try {
        operation(scene.tree);
        scene.tree.onStore = undefined;
        return stores - 1;
      } catch (error) {
        if (!(error instanceof Killed)) throw error;
      }
      const { arena, descriptorUnit } = scene.nodes;
      rollBack(arena, descriptorUnit);
      rollBack(arena, descriptorUnit);
      scene.tree = new RedBlackTree(arena, descriptorUnit);
      const problems: string[] = [];
      // The last store empties the journal: the operation is done then.
      const keys = scene.walk(0);
      expect(scene.tree.check(problems)).toBe(keys.length);
      expect(problems).toEqual([]);
      if (keys.length !== keysBefore.length) {
        scene.nodes.restore();
        scene.tree = new RedBlackTree(arena, descriptorUnit);
        continue;
      }
      expect(keys).toEqual(keysBefore);
      const after = Buffer.from(arena.u8[0]!.slice(0, 1 << 17));
      // Records of the journal that nothing counts any more may differ.
      const journal = descriptorUnit * 4096 + JOURNAL_WORD * 4;
      const version = descriptorUnit * 4096 + VERSION_WORD * 4;
      before.fill(0, version, version + 4);
      after.fill(0, version, version + 4);
      before.fill(0, journal + 4, journal + JOURNAL_WORDS * 4);
      after.fill(0, journal + 4, journal + JOURNAL_WORDS * 4);
      if (scene.freshNode !== 0) {
        // The node that was to come in is nobody's.
        before.fill(0, scene.freshNode * 8, scene.freshNode * 8 + 64);
        after.fill(0, scene.freshNode * 8, scene.freshNode * 8 + 64);
      }
      expect(after.equals(before)).toBe(true);
    }
  }

  it('leaves the tree as it was before the operation, whatever store was its last', () => {
    const seed = (Date.now() & 0xffff) | 1;
    console.log(`seed ${seed}`);
    const random = randomFrom(seed);
    const scene = new Scene();
    let stores = 0;
    for (let turn = 0; turn < 500; turn++) {
      const key = keyOf(random(turn < 250 ? 90 : 60));
      const isPut = random(10) < (turn < 250 ? 7 : 3);
      const found = scene.locate(key);
      scene.tree.forgetPlace();
      if (isPut === (found !== 0)) continue;
      const node = isPut ? scene.nodes.make(key) : 0;
      scene.freshNode = node;
      const bytes = Buffer.from(key);
      stores += killEverywhere(scene, (tree) => {
        tree.locate(bytes, 0, bytes.length);
        if (isPut) tree.insert(node);
        else tree.remove();
      });
      if (isPut) scene.model.set(key, node);
      else scene.model.delete(key);
      scene.verify();
    }
    expect(stores).toBeGreaterThan(2000);
  });
});

it('a journal that names a place outside the arena is refused', () => {
  const scene = new Scene();
  scene.put('a');
  const words = scene.nodes.arena.u32[0]!;
  const journal = scene.nodes.descriptorUnit * 1024 + JOURNAL_WORD;
  for (const record of [
    [1, 0xffffffff, 1],
    [1, 0, 5000],
    [1, 4096, 9],
    [100_000, 1, 1],
  ]) {
    words.set(record, journal);
    expect(() => {
      rollBack(scene.nodes.arena, scene.nodes.descriptorUnit);
    }).toThrowError(expect.objectContaining({ code: 'ERR_CORRUPT' }));
  }
});
