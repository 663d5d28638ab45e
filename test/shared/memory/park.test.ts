import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { Doorbell, DOORBELL_WORDS } from '../../../dist/shared/memory/park.js';
import { ended, sharedWords, sleep, startScene } from '../../support/memory-scene.js';

describe('scenes', () => {
  test('unpark finds nobody while the bell is down', () => {
    const bell = new Doorbell(sharedWords(16), 0);
    expect(bell.parked).toBe(false);
    expect(bell.unpark()).toBe(false);
  });

  test('a ring between raise and park is not lost, blocking or not', async () => {
    const words = sharedWords(16);
    const parker = new Doorbell(words, 0);
    const ringer = new Doorbell(words, 0);
    parker.raise();
    expect(parker.parked).toBe(true);
    expect(ringer.unpark()).toBe(true);
    expect(ringer.unpark()).toBe(false);
    expect(parker.parkSync(0)).toBe('rung');
    parker.raise();
    ringer.unpark();
    expect(await parker.parkAsync(0)).toBe('rung');
  });

  test('a park that nobody ends times out and takes the flag down', async () => {
    const bell = new Doorbell(sharedWords(16), 0);
    bell.raise();
    expect(bell.parkSync(5)).toBe('timed-out');
    expect(bell.parked).toBe(false);
    bell.raise();
    expect(await bell.parkAsync(5)).toBe('timed-out');
    expect(bell.parked).toBe(false);
    expect(bell.unpark()).toBe(false);
  });

  test('a waiting event loop is woken by unpark', async () => {
    const words = sharedWords(32);
    const bell = new Doorbell(words, 16);
    bell.raise();
    const parked = bell.parkAsync(20_000);
    await sleep(5);
    expect(new Doorbell(words, 16).unpark()).toBe(true);
    expect(await parked).toBe('rung');
    expect(bell.parked).toBe(false);
  });

  test('an abandoned parkAsync neither takes the next wake-up nor the next flag', async () => {
    const words = sharedWords(16);
    const bell = new Doorbell(words, 0);
    const ringer = new Doorbell(words, 0);
    bell.raise();
    const abandoned = bell.parkAsync(20_000);
    bell.lower();
    bell.raise();
    const parked = bell.parkAsync(20_000);
    expect(ringer.unpark()).toBe(true);
    expect(await parked).toBe('rung');
    bell.raise();
    await abandoned;
    expect(bell.parked).toBe(true);
    expect(ringer.unpark()).toBe(true);
    expect(bell.parkSync(0)).toBe('rung');
  });

  test('a ringer that died before it took the flag down does not silence the bell', () => {
    const words = sharedWords(16);
    const bell = new Doorbell(words, 0);
    bell.raise();
    // The half of unpark() that the dead thread came to: the epoch has moved, the flag is still up.
    Atomics.add(words, 1, 1);
    expect(bell.unpark()).toBe(true);
    expect(bell.parkSync(0)).toBe('rung');
  });

  test('a pending parkAsync does not keep the process alive', async () => {
    const park = new URL('../../../dist/shared/memory/park.js', import.meta.url).href;
    const program = `import { Doorbell } from '${park}';
      const bell = new Doorbell(new Int32Array(new SharedArrayBuffer(64)), 0);
      bell.raise();
      void bell.parkAsync(100_000);
      process.on('exit', () => console.log(bell.parked));`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
      timeout: 30_000,
    });
    expect(stdout.trim()).toBe('true');
  });

  test('park without raise is a broken invariant', async () => {
    const bell = new Doorbell(sharedWords(16), 0);
    expect(() => bell.parkSync(0)).toThrow(/without raise/);
    await expect(bell.parkAsync(0)).rejects.toThrow(/without raise/);
    bell.raise();
    bell.lower();
    expect(() => bell.parkSync(0)).toThrow(/without raise/);
  });

  test('a doorbell takes one aligned line', () => {
    for (const index of [1, 8, -16, 16, 0.5]) expect(() => new Doorbell(sharedWords(16), index)).toThrow(TypeError);
    expect(DOORBELL_WORDS).toBe(16);
  });
});

describe('threads', () => {
  test('no wake-up is lost in a ping-pong of two parking threads', async () => {
    const words = sharedWords(48);
    const rounds = 20_000;
    const players = [0, 1].map((me) => startScene('pingPong', { words, me, rounds, seed: 77 + me }));
    const results = await Promise.all(players.map((p) => p.message()));
    // Otherwise the race this is about was never run.
    expect(Number(results[0]!['parkCount']) + Number(results[1]!['parkCount'])).toBeGreaterThan(rounds / 20);
    await Promise.all(players.map(ended));
  });

  test('no wake-up is lost between an event loop and a blocking thread', async () => {
    const words = sharedWords(48);
    const rounds = 5_000;
    const worker = startScene('pingPong', { words, me: 1, rounds, seed: 5 });
    const mine = new Doorbell(words, 0);
    const other = new Doorbell(words, 16);
    let parkCount = 0;
    for (let i = 0; i < rounds; i++) {
      while (Atomics.load(words, 32) !== 0) {
        mine.raise();
        if (Atomics.load(words, 32) === 0) mine.lower();
        else {
          parkCount++;
          expect(await mine.parkAsync(150_000)).toBe('rung');
        }
      }
      Atomics.store(words, 32, 1);
      other.unpark();
    }
    await worker.message();
    expect(parkCount).toBeGreaterThan(rounds / 20);
    await ended(worker);
  });
});
