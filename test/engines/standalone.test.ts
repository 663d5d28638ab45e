/** One engine by itself: reads by the thread that is writing a group. */
import { describe, expect, it } from 'vitest';
import '../../dist/engines/built-in.js';
import { engineNamed } from '../../dist/engines/engine.js';
import { StandaloneEngine } from '../../dist/engines/standalone.js';
import { ENGINES } from './contract-scene.js';

describe.each(ENGINES)('%s', (name) => {
  it('shows within a group what was published before it', () => {
    const engine = new StandaloneEngine(engineNamed(name), { memoryBytes: 4 << 20 });
    const [key, other] = [Buffer.from('a'), Buffer.from('b')];
    engine.set(key, Buffer.from('old'));
    engine.group(() => {
      engine.set(key, Buffer.from('new'));
      expect(engine.get(key)?.toString()).toBe('old');
      engine.set(other, Buffer.from('new'));
      expect(engine.has(other)).toBe(false);
      engine.delete(key);
      expect([...engine.iterate()].map(String)).toEqual(['a,old']);
    });
    expect([...engine.iterate()].map(String)).toEqual(['b,new']);
    expect(engine.check()).toEqual([]);
  });
});
