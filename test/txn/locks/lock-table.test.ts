/** The rules of the lock table, one scene each. */
import { describe, expect, it } from 'vitest';
import { LockTable, type DeadlockPolicy } from '../../../dist/engines/txn/locks/lock-table.js';
import { LockMode } from '../../../dist/engines/txn/locks/mode.js';
import { hashBytes } from '../../../dist/shared/hash.js';
import { LockScene, modeOf } from './lock-scene.js';
import type { ModeLetter } from './lock-scene.js';

describe('modes', () => {
  const compatible: [ModeLetter, ModeLetter, boolean][] = [
    ['s', 's', true],
    ['s', 'u', true],
    ['s', 'x', false],
    ['u', 's', true],
    ['u', 'u', false],
    ['u', 'x', false],
    ['x', 's', false],
    ['x', 'u', false],
    ['x', 'x', false],
  ];
  it.each(compatible)('of a key: held %s, wanted %s: %s', (held, wanted, isCompatible) => {
    const scene = new LockScene();
    expect(scene.lock(1, held, 'a')).toBe('got');
    expect(scene.try(2, wanted, 'a')).toBe(isCompatible ? 0 : 1);
    expect(scene.lock(2, wanted, 'a')).toBe(isCompatible ? 'got' : 'waits');
  });

  it.each(compatible.filter(([held]) => held !== 'u'))(
    'of a key under a range: held %s, wanted %s: %s',
    (held, wanted, isCompatible) => {
      const scene = new LockScene();
      expect(scene.lock(1, held, 'a..c')).toBe('got');
      expect(scene.lock(2, wanted, 'b')).toBe(isCompatible ? 'got' : 'waits');
    },
  );

  it.each(compatible.filter(([, wanted]) => wanted !== 'u'))(
    'of a range over a key: held %s, wanted %s: %s',
    (held, wanted, isCompatible) => {
      const scene = new LockScene();
      expect(scene.lock(1, held, 'b')).toBe('got');
      expect(scene.lock(2, wanted, 'a..c')).toBe(isCompatible ? 'got' : 'waits');
    },
  );

  it.each(compatible.filter(([held, wanted]) => held !== 'u' && wanted !== 'u'))(
    'of two ranges: held %s, wanted %s: %s',
    (held, wanted, isCompatible) => {
      const scene = new LockScene();
      expect(scene.lock(1, held, 'a..c')).toBe('got');
      expect(scene.lock(2, wanted, 'b..d')).toBe(isCompatible ? 'got' : 'waits');
      expect(scene.lock(3, wanted, 'c..d')).toBe(isCompatible || wanted === 's' ? 'got' : 'waits');
    },
  );

  it('the same key in another space is another key', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a', Infinity, 1);
    expect(scene.lock(2, 'x', 'a', Infinity, 2)).toBe('got');
    scene.lock(1, 'x', '..', Infinity, 3);
    expect(scene.lock(2, 'x', 'b', Infinity, 2)).toBe('got');
    expect(scene.lock(2, 'x', 'b', Infinity, 3)).toBe('waits');
  });
});

describe("one's own locks", () => {
  it('are never in the way', () => {
    const scene = new LockScene();
    for (const [mode, what] of [
      ['s', 'a'],
      ['u', 'a'],
      ['x', 'a'],
      ['s', '..'],
      ['x', 'a..c'],
      ['x', 'b'],
      ['s', 'b'],
    ] as const)
      expect(scene.lock(1, mode, what)).toBe('got');
  });

  it('that are stronger or wider make a lock of its own unnecessary', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a..m');
    for (const what of ['b', 'c', 'd..f']) scene.lock(1, 's', what);
    expect(scene.held()).toEqual(['1: e [a, m)']);
    scene.lock(1, 's', 'c..z');
    expect(scene.held()).toEqual(['1: e [a, m) s [c, z)']);
  });

  it('cover a key or a range when they are strong enough', () => {
    const scene = new LockScene();
    scene.lock(1, 'u', 'a');
    scene.lock(1, 's', 'k..m');
    expect([scene.covers(1, 's', 'a'), scene.covers(1, 'u', 'a'), scene.covers(1, 'x', 'a')]).toEqual([
      true,
      true,
      false,
    ]);
    expect([scene.covers(1, 's', 'k'), scene.covers(1, 's', 'm'), scene.covers(1, 'u', 'k')]).toEqual([
      true,
      false,
      false,
    ]);
    expect([scene.covers(1, 's', 'k..l'), scene.covers(1, 's', 'k..n'), scene.covers(1, 's', 'k..')]).toEqual([
      true,
      false,
      false,
    ]);
    expect(scene.covers(2, 's', 'a')).toBe(false);
  });

  it("an empty range is everybody's", () => {
    const scene = new LockScene();
    scene.lock(1, 'x', '..');
    expect(scene.lock(2, 'x', 'c..c')).toBe('got');
    expect(scene.covers(2, 'x', 'd..c')).toBe(true);
    expect(scene.held()).toEqual(['1: e [, )']);
  });
});

describe('queues', () => {
  it('are served in the order of age, whoever came first', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    for (const txn of [5, 3, 4, 2]) scene.lock(txn, 'x', 'a');
    scene.release(1, 2, 3, 4);
    expect(scene.lines()).toEqual(['2 got a', '3 got a', '4 got a', '5 got a']);
  });

  it('are served by priority before age', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.lock(scene.owner(2, { priority: -1 }), 'x', 'a');
    scene.lock(scene.owner(3, { priority: 0 }), 'x', 'a');
    scene.lock(scene.owner(4, { priority: 7 }), 'x', 'a');
    scene.release(1, 4, 3);
    expect(scene.lines()).toEqual(['4 got a', '3 got a', '2 got a']);
  });

  it('of equals are served in the order of arrival', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    for (const txn of [9, 7, 8]) scene.lock(scene.owner(txn, { age: 5 }), 'x', 'a');
    scene.release(1, 9, 7);
    expect(scene.lines()).toEqual(['9 got a', '7 got a', '8 got a']);
  });

  it('let those in together who get along', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.lock(2, 's', 'a');
    scene.lock(3, 'u', 'a');
    scene.lock(4, 's', 'a');
    scene.lock(5, 'u', 'a');
    scene.release(1);
    expect(scene.lines()).toEqual(['2 got a', '3 got a', '4 got a']);
    scene.release(2, 4);
    expect(scene.lines()).toEqual([]);
    scene.release(3);
    expect(scene.lines()).toEqual(['5 got a']);
  });

  it('are not overtaken by a later request that the holders would let pass', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.lock(2, 'x', 'a');
    expect(scene.lock(3, 's', 'a')).toBe('waits');
    expect(scene.try(4, 's', 'a')).toBe(2);
    expect(scene.conflict('s', 'a')).toBe(2);
    scene.release(1);
    expect(scene.lines()).toEqual(['2 got a']);
    scene.release(2);
    expect(scene.lines()).toEqual(['3 got a']);
  });

  it('are passed by who comes before', () => {
    const scene = new LockScene();
    scene.lock(2, 's', 'a');
    scene.lock(3, 'x', 'a');
    expect(scene.lock(1, 's', 'a')).toBe('got');
    scene.release(2);
    expect(scene.lines()).toEqual([]);
    scene.release(1);
    expect(scene.lines()).toEqual(['3 got a']);
  });

  it('close up when somebody in the middle gives up', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.lock(2, 'x', 'a');
    scene.lock(3, 's', 'a');
    scene.release(2);
    expect(scene.lines()).toEqual(['2 failed ERR_TRANSACTION_CLOSED', '3 got a']);
  });

  it('of a key and of ranges over it are one', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'b');
    scene.lock(2, 'x', 'a..c');
    expect(scene.lock(3, 's', 'b')).toBe('waits');
    expect(scene.lock(4, 's', 'b..')).toBe('waits');
    expect(scene.lock(5, 's', 'c')).toBe('got');
    scene.release(1);
    expect(scene.lines()).toEqual(['2 got a..c']);
    scene.release(2);
    expect(scene.lines().sort()).toEqual(['3 got b', '4 got b..']);
  });
});

describe('upgrades', () => {
  it('go before everybody who waits', () => {
    const scene = new LockScene();
    scene.lock(4, 's', 'a');
    scene.lock(5, 's', 'a');
    scene.lock(1, 'x', 'a');
    scene.lock(2, 's', 'a');
    scene.lock(4, 'x', 'a');
    scene.release(5);
    expect(scene.lines()).toEqual(['4 got a']);
    scene.release(4);
    expect(scene.lines()).toEqual(['1 got a']);
  });

  it('of an update lock wait for the readers, and let no new ones in', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.lock(2, 'u', 'a');
    expect(scene.lock(2, 'x', 'a')).toBe('waits');
    expect(scene.lock(3, 's', 'a')).toBe('waits');
    scene.release(1);
    expect(scene.lines()).toEqual(['2 got a']);
    expect(scene.held()).toEqual(['2: e a']);
  });

  it('of two readers wait for each other: one must give way', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.lock(2, 's', 'a');
    scene.lock(1, 'x', 'a');
    scene.lock(2, 'x', 'a');
    expect(scene.lines(true)).toEqual(['1 waits for 2', '2 waits for 1']);
    scene.release(2);
    expect(scene.lines()).toEqual(['2 failed ERR_TRANSACTION_CLOSED', '1 got a']);
  });

  it("of a key under one's own shared range pass who waits for that range", () => {
    const scene = new LockScene();
    scene.lock(2, 's', 'a..z');
    scene.lock(1, 'x', 'k');
    expect(scene.lock(2, 'x', 'k')).toBe('got');
    expect(scene.lines()).toEqual([]);
    scene.release(2);
    expect(scene.lines()).toEqual(['1 got k']);
  });

  it("of a range over one's own key pass who waits for the key", () => {
    const scene = new LockScene();
    scene.lock(2, 'x', 'k');
    scene.lock(1, 'x', 'k');
    expect(scene.lock(2, 's', 'a..z')).toBe('got');
    scene.release(2);
    expect(scene.lines()).toEqual(['1 got k']);
  });

  it('are what a request becomes when its owner gets another lock there', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.lock(3, 's', 'a');
    scene.lock(2, 'x', 'a');
    scene.lock(3, 'x', 'a');
    scene.lock(scene.owner(4, { priority: -1 }), 's', 'a');
    scene.release(1);
    expect(scene.lines()).toEqual(['2 got a']);
    scene.release(2);
    expect(scene.lines()).toEqual(['3 got a', '3 got a']);
    expect(scene.held()).toEqual(['3: e a']);
  });

  it('are counted', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.lock(1, 'u', 'a');
    scene.lock(1, 'x', 'a');
    expect(scene.table.figures).toMatchObject({ upgrades: 2, held: 1, grants: 1 });
  });
});

describe('a waiter that waits for me', () => {
  it('never holds me up elsewhere', () => {
    const scene = new LockScene();
    scene.lock(3, 'x', 'b');
    scene.lock(1, 'x', 'a..d');
    expect(scene.lock(3, 's', 'c')).toBe('got');
  });

  it('even when it is a plain write of several keys', () => {
    const scene = new LockScene();
    scene.lock(3, 'x', 'a');
    expect(scene.plain('batch', ['a', 'b'], { age: 1 })).toBe('waits');
    expect(scene.lock(3, 'x', 'b')).toBe('got');
    expect(scene.lock(4, 'x', 'b')).toBe('waits');
    scene.release(3);
    expect(scene.lines()).toEqual(['plain got batch', '4 got b']);
  });
});

describe('plain writes', () => {
  it('meet nothing where nothing is locked', () => {
    const scene = new LockScene();
    const hash = hashBytes(Buffer.from('a'), 0, 1);
    expect(scene.table.isFree(hash)).toBe(true);
    scene.lock(1, 's', 'a');
    expect(scene.table.isFree(hash)).toBe(false);
    expect(scene.conflict('x', 'a')).toBe(1);
    expect(scene.conflict('s', 'a')).toBe(0);
    scene.release(1);
    expect(scene.table.isFree(hash)).toBe(true);
    scene.lock(1, 's', '..', Infinity, 9);
    expect(scene.table.isFree(hash)).toBe(false);
    expect(scene.conflict('x', 'a')).toBe(0);
  });

  it('of a cleared range meet every lock inside', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'c');
    expect([scene.conflict('x', 'a..c'), scene.conflict('x', 'a..d'), scene.conflict('x', '..')]).toEqual([0, 1, 1]);
    scene.lock(2, 's', 'm..p');
    expect([scene.conflict('x', 'd..m'), scene.conflict('x', 'o..'), scene.conflict('s', '..')]).toEqual([0, 2, 0]);
    expect(scene.plain('clear', ['d..z'])).toBe('waits');
    scene.release(2);
    expect(scene.lines()).toEqual(['plain got clear']);
  });

  it('are called when all their keys are free at once', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.lock(2, 'x', 'b');
    scene.plain('batch', ['a', 'b', 'c']);
    scene.release(1);
    expect(scene.lines()).toEqual([]);
    scene.release(2);
    expect(scene.lines()).toEqual(['plain got batch']);
    expect(scene.table.isEmpty).toBe(true);
  });

  it('stand in the queue of each of their keys', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.plain('batch', ['a', 'b'], { age: 5 });
    expect(scene.lock(7, 's', 'b')).toBe('waits');
    expect(scene.lock(4, 's', 'b')).toBe('got');
    scene.release(4);
    scene.release(1);
    expect(scene.lines()).toEqual(['plain got batch', '7 got b']);
  });

  it('do their work before the next in the queue has the lock', () => {
    const scene = new LockScene();
    const seen: string[] = [];
    scene.onGrant = (wait): void => {
      seen.push(`${wait.context}: ${scene.held().join()}`);
    };
    scene.lock(1, 'x', 'a');
    scene.plain('put', ['a'], { age: 2 });
    scene.lock(3, 'x', 'a');
    scene.release(1);
    expect(seen).toEqual(['put: ', 'a: 3: e a']);
  });

  it('may take locks when they are called', () => {
    const scene = new LockScene();
    scene.onGrant = (wait): void => {
      if (wait.owner !== undefined) return;
      const owner = scene.owner(-1, { age: wait.age });
      for (const { key, mode, hash } of wait.wanted())
        expect(scene.table.tryKey(owner, 1, key!, 0, key!.length, hash!, mode)).toBe(0);
    };
    scene.lock(1, 'x', 'a');
    scene.plain('put', ['a', 'b'], { age: 2 });
    scene.lock(3, 'x', 'a');
    scene.release(1);
    expect(scene.lines()).toEqual(['plain got put']);
    expect(scene.held()).toEqual(['-1: e a e b']);
    scene.release(-1);
    expect(scene.lines()).toEqual(['3 got a']);
  });

  it('that hold a transaction up stand for those they wait for', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.plain('batch', ['a', 'b'], { age: 2 });
    scene.lock(3, 'x', 'b');
    expect(scene.lines(true)).toEqual(['3 waits for 1']);
    scene.release(1);
    expect(scene.lines(true)).toEqual(['plain got batch', '3 waits no more', '3 got b']);
  });

  it('are no blockers that could be named when they alone are in the way', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.plain('put', ['a'], { age: 2 });
    expect(scene.try(3, 's', 'a')).toBe(1);
    scene.onGrant = (wait): void => {
      if (wait.owner === undefined) expect(scene.try(4, 's', 'a')).toBe(0);
    };
    scene.release(1);
    expect(scene.lines()).toEqual(['plain got put']);
  });
});

describe('deadlines', () => {
  it('end a wait with ERR_LOCK_TIMEOUT, and the next moves up', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.lock(2, 'x', 'a', 100);
    scene.lock(3, 's', 'a', 300);
    expect(scene.table.nextDeadlineMs).toBe(100);
    scene.table.tick(99);
    expect(scene.lines()).toEqual([]);
    scene.table.tick(100);
    expect(scene.lines()).toEqual(['2 failed ERR_LOCK_TIMEOUT', '3 got a']);
    expect(scene.table.figures).toMatchObject({ timeouts: 1, waiting: 0, held: 2 });
  });

  it('that have passed when the lock is asked for fail at once, and leave nothing', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    expect(scene.lock(2, 'x', 'a', 0)).toBe('ERR_LOCK_TIMEOUT');
    expect(scene.lock(2, 'x', 'b', 0)).toBe('got');
    scene.release(1, 2);
    expect(scene.table.isEmpty).toBe(true);
  });

  it('hold for plain writes, too', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.plain('put', ['a'], { timeoutMs: 10 });
    scene.table.tick(10);
    expect(scene.lines()).toEqual(['plain failed ERR_LOCK_TIMEOUT']);
  });

  it('of thousands of waits that ended are forgotten', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    for (let txn = 2; txn < 20_000; txn++) {
      scene.lock(txn, 's', 'a', 1_000_000 - txn);
      scene.release(txn);
    }
    scene.lock(30_000, 's', 'a', 5);
    scene.lines();
    scene.table.tick(5);
    expect(scene.lines()).toEqual(['30000 failed ERR_LOCK_TIMEOUT']);
    scene.table.tick(2_000_000);
    expect(scene.lines()).toEqual([]);
    expect(scene.table.nextDeadlineMs).toBe(Infinity);
  });
});

describe('wait-die', () => {
  it('fails who is junior to a holder, and lets the senior wait', () => {
    const scene = new LockScene('wait-die');
    scene.lock(5, 'x', 'a');
    expect(scene.lock(6, 'x', 'a')).toBe('ERR_DEADLOCK');
    expect(scene.lock(4, 'x', 'a')).toBe('waits');
    expect(scene.lock(scene.owner(7, { priority: 1 }), 'x', 'a')).toBe('waits');
    scene.release(5);
    expect(scene.lines()).toEqual(['7 got a', '4 failed ERR_DEADLOCK']);
  });

  it('fails who would wait behind somebody for a senior holder it could share with', () => {
    const scene = new LockScene('wait-die');
    scene.lock(5, 's', 'a');
    expect(scene.lock(3, 'x', 'a')).toBe('waits');
    expect(scene.lock(6, 's', 'a')).toBe('ERR_DEADLOCK');
    expect(scene.lock(4, 's', 'a')).toBe('waits');
  });

  it('fails who waits when a senior gets the lock', () => {
    const scene = new LockScene('wait-die');
    scene.lock(9, 'x', 'a');
    scene.lock(1, 'x', 'a');
    scene.lock(2, 'x', 'a');
    scene.release(9);
    expect(scene.lines()).toEqual(['1 got a', '2 failed ERR_DEADLOCK']);
  });

  it('lets everybody wait for a prepared holder', () => {
    const scene = new LockScene('wait-die');
    scene.lock(1, 'x', 'a');
    scene.table.markPrepared(scene.owner(1));
    expect(scene.lock(2, 'x', 'a')).toBe('waits');
    scene.release(1);
    expect(scene.lines()).toEqual(['2 got a']);
  });

  it('tells the policy in the error', () => {
    const scene = new LockScene('wait-die');
    scene.lock(1, 'x', 'a');
    expect(() => scene.acquire(scene.owner(2), 'x', 'a')).toThrow(
      expect.objectContaining({
        code: 'ERR_DEADLOCK',
        retryable: true,
        details: { txn: 2, policy: 'wait-die', waitsFor: 1 },
      }),
    );
  });
});

describe('wound-wait', () => {
  it('takes the locks of juniors, and waits for seniors', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(5, 'x', 'a');
    scene.lock(5, 'x', 'b');
    expect(scene.lock(6, 'x', 'a')).toBe('waits');
    expect(scene.lock(4, 'x', 'a')).toBe('got');
    expect(scene.held()).toEqual(['4: e a']);
    expect(scene.lines()).toEqual(['5 wounded by 4']);
    expect(scene.lock(5, 'x', 'c')).toBe('ERR_DEADLOCK');
    expect(scene.try(5, 'x', 'c')).toBe(4);
    expect(scene.covers(5, 'x', 'b')).toBe(false);
    scene.release(5, 4);
    expect(scene.lines()).toEqual(['6 got a']);
  });

  it('ends the waits of who is wounded', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(3, 'x', 'a');
    scene.lock(5, 'x', 'b');
    scene.lock(5, 'x', 'a');
    expect(scene.lock(4, 'x', 'b')).toBe('got');
    expect(scene.lines()).toEqual(['5 wounded by 4', '5 failed ERR_DEADLOCK']);
  });

  it('never takes a lock of a prepared owner', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(5, 'x', 'a');
    scene.table.markPrepared(scene.owner(5));
    expect(scene.lock(4, 'x', 'a')).toBe('waits');
    expect(scene.lines()).toEqual([]);
    scene.release(5);
    expect(scene.lines()).toEqual(['4 got a']);
  });

  it('goes by priority before age', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(scene.owner(5, { priority: 3 }), 'x', 'a');
    expect(scene.lock(4, 'x', 'a')).toBe('waits');
    expect(scene.lock(scene.owner(9, { priority: 4 }), 'x', 'a')).toBe('got');
    expect(scene.lines()).toEqual(['5 wounded by 9']);
  });

  it('takes the locks of a junior that passed a waiting senior by an upgrade', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(1, 's', 'a');
    scene.lock(5, 's', 'a');
    scene.table.markPrepared(scene.owner(1));
    expect(scene.lock(5, 'x', 'a')).toBe('waits');
    expect(scene.lock(3, 's', 'a')).toBe('got');
    expect(scene.lines()).toEqual(['5 wounded by 3', '5 failed ERR_DEADLOCK']);
  });

  it('what was taken away for one that did not wait goes to who waits behind it', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(5, 'u', 'a');
    expect(scene.lock(6, 'u', 'a')).toBe('waits');
    scene.lock(scene.owner(9, { priority: 1 }), 's', 'a');
    // It wounds 5, and 9 goes before it.
    expect(scene.lock(4, 'x', 'a', 0)).toBe('ERR_LOCK_TIMEOUT');
    expect(scene.lines()).toEqual(['5 wounded by 4', '6 got a']);
  });

  it('plain writes neither wound nor are wounded', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(5, 'x', 'a');
    expect(scene.plain('put', ['a', 'b'], { age: 1 })).toBe('waits');
    // It wounds 5 behind the plain write, which goes first.
    expect(scene.lock(4, 'x', 'b')).toBe('waits');
    expect(scene.lines()).toEqual(['5 wounded by 4', 'plain got put', '4 got b']);
  });
});

describe('edges', () => {
  it('of a queue are one for each, and change hands with the lock', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    for (const txn of [2, 3, 4]) scene.lock(txn, 'x', 'a');
    expect(scene.lines(true)).toEqual(['2 waits for 1', '3 waits for 2', '4 waits for 3']);
    scene.release(1);
    expect(scene.lines(true)).toEqual(['2 waits no more', '2 got a']);
    scene.release(3);
    expect(scene.lines(true)).toEqual(['3 waits no more', '3 failed ERR_TRANSACTION_CLOSED', '4 waits for 2']);
  });

  it('are told anew when somebody moves in between', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.lock(4, 'x', 'a');
    scene.lock(3, 'x', 'a');
    expect(scene.lines(true)).toEqual(['4 waits for 1', '3 waits for 1', '4 waits for 3']);
  });

  it('name every holder and every range in the way', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'b');
    scene.lock(2, 's', 'b');
    scene.lock(3, 's', 'a..c');
    scene.lock(4, 'x', 'b');
    scene.lock(5, 's', 'a..c');
    expect(scene.lines(true)).toEqual(['4 waits for 1,2,3', '5 waits for 4']);
  });

  it('are confirmed while they stand without a break', () => {
    const scene = new LockScene();
    scene.lock(1, 's', 'a');
    scene.lock(2, 's', 'a');
    const wait = scene.acquire(scene.owner(3), 'x', 'a')!;
    const { table } = scene;
    expect([wait.number, wait.revision, wait.blockers]).toEqual([1, 1, [2, 1]]);
    expect([table.isWaitingFor(1, 1, 1), table.isWaitingFor(1, 2, 1), table.isWaitingFor(1, 4, 1)]).toEqual([
      true,
      true,
      false,
    ]);
    scene.release(1);
    expect([table.isWaitingFor(1, 1, 1), table.isWaitingFor(1, 2, 1)]).toEqual([false, true]);
    expect(scene.lock(scene.owner(1, { age: 1 }), 's', 'a')).toBe('got');
    expect([wait.revision, table.isWaitingFor(1, 1, 1), table.isWaitingFor(1, 1, 3)]).toEqual([3, false, true]);
    scene.release(1, 2);
    expect(table.isWaitingFor(1, 2, 3)).toBe(false);
  });

  it('are not told by policies that prevent deadlocks', () => {
    const scene = new LockScene('wound-wait');
    scene.lock(1, 'x', 'a');
    scene.lock(2, 'x', 'a');
    scene.release(1);
    expect(scene.lines(true)).toEqual(['2 got a']);
  });

  it('of what waits can be told again', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.lock(2, 'x', 'a');
    scene.plain('put', ['a']);
    const told: string[] = [];
    scene.table.forEachWait((wait) => told.push(`${wait.owner!.id}: ${wait.blockers.join()}`));
    expect(told).toEqual(['2: 1']);
  });
});

describe('kill and cancel', () => {
  it('end the wait they name, once', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    const wait = scene.acquire(scene.owner(2), 'x', 'a')!;
    expect(scene.table.kill(wait.number, 'gave way', { cycle: '[]' })).toBe(true);
    expect(scene.table.kill(wait.number, 'gave way', { cycle: '[]' })).toBe(false);
    expect(scene.lines(true)).toEqual(['2 waits for 1', '2 waits no more', '2 failed ERR_DEADLOCK']);
    expect(scene.table.figures.deadlocks).toBe(1);
  });

  it('leave what the owner holds', () => {
    const scene = new LockScene();
    scene.lock(1, 'x', 'a');
    scene.lock(2, 'x', 'b');
    const wait = scene.acquire(scene.owner(2), 'x', 'a')!;
    scene.table.kill(wait.number, 'gave way', {});
    expect(scene.held()).toEqual(['1: e a', '2: e b']);
  });
});

describe('owners', () => {
  it('of a client that went away go, but for the prepared ones', () => {
    const scene = new LockScene();
    scene.lock(scene.owner(1, { client: 7 }), 'x', 'a');
    scene.lock(scene.owner(2, { client: 7 }), 'x', 'b');
    scene.table.markPrepared(scene.owner(2));
    scene.lock(3, 'x', 'a');
    scene.lock(4, 'x', 'b');
    scene.plain('mine', ['b'], { client: 7 });
    scene.table.releaseClient(7);
    expect(scene.lines()).toEqual(['plain failed ERR_TRANSACTION_CLOSED', '3 got a']);
    expect(scene.held()).toEqual(['2: e b', '3: e a']);
  });

  it('may hold as many locks as the option says', () => {
    const scene = new LockScene('detect', { locksPerOwnerMax: 2 });
    scene.lock(1, 's', 'a');
    scene.lock(1, 's', 'k..m');
    expect(scene.lock(1, 's', 'b')).toBe('ERR_TRANSACTION_TOO_LARGE');
    expect(scene.lock(1, 's', 'c..d')).toBe('ERR_TRANSACTION_TOO_LARGE');
    expect([scene.lock(1, 'x', 'a'), scene.lock(1, 's', 'l')]).toEqual(['got', 'got']);
  });

  it('are listed with what they hold and await', () => {
    const scene = new LockScene();
    scene.lock(scene.owner(1, { client: 3, priority: 2, age: 9 }), 'x', 'a');
    scene.lock(1, 's', 'k..');
    scene.nowMs = 50;
    scene.lock(2, 'u', 'a');
    expect(scene.table.list(1)).toEqual([
      {
        txn: 1,
        client: 3,
        priority: 2,
        age: 9,
        isPrepared: false,
        isWounded: false,
        heldCount: 2,
        held: [{ space: 1, low: Uint8Array.from(Buffer.from('k')), mode: 'shared' }],
        awaited: [],
      },
      {
        txn: 2,
        client: 1,
        priority: 0,
        age: 2,
        isPrepared: false,
        isWounded: false,
        heldCount: 0,
        held: [],
        awaited: [{ space: 1, key: Uint8Array.from(Buffer.from('a')), mode: 'update', sinceMs: 50, waitsFor: [1] }],
      },
    ]);
  });

  it('of 100,000 locks give all of them back', () => {
    const table = new LockTable<number>({ policy: 'detect' }, { onGrant: () => undefined, onFail: () => undefined });
    const lockAll = (low: number, high: number, mode: ModeLetter): void => {
      const owner = table.owner(1, 1, 0, 1);
      for (let i = low; i < high; i++) {
        // Long keys and short ones.
        const key = Buffer.from(`key ${i}`.padEnd(i % 3 === 0 ? 50 : 12, '.'));
        const wait = table.acquireKey(
          owner,
          1 + (i % 2),
          key,
          0,
          key.length,
          hashBytes(key, 0, key.length),
          modeOf(mode),
          Infinity,
          0,
          i,
        );
        if (wait !== undefined) expect.fail(`lock ${i} waits`);
      }
    };
    lockAll(0, 100_000, 's');
    expect(table.figures.held).toBe(100_000);
    lockAll(0, 100_000, 'x');
    expect(table.figures).toMatchObject({ held: 100_000, upgrades: 100_000 });
    const other = table.owner(2, 2, 0, 1);
    for (let i = 0; i < 50; i++)
      expect(table.tryRange(other, 1, Buffer.from(`key ${i}`), Buffer.from(`key ${i}~`), LockMode.Shared)).toBe(1);
    expect(table.tryRange(other, 1, Buffer.from('z'), undefined, LockMode.Exclusive)).toBe(0);
    table.release(1);
    table.release(2);
    expect(table.isEmpty).toBe(true);
    expect(table.figures.held).toBe(0);
    lockAll(0, 1000, 'u');
    table.release(1);
    expect(table.isEmpty).toBe(true);
  });

  it('keep keys of their own: the bytes may change after the call', () => {
    const scene = new LockScene();
    const bytes = Buffer.from('..key..');
    const hash = hashBytes(bytes, 2, 3);
    scene.table.acquireKey(scene.owner(1), 1, bytes, 2, 3, hash, LockMode.Exclusive, Infinity, 0, '');
    const low = Buffer.from('m');
    scene.table.acquireRange(scene.owner(1), 1, low, undefined, LockMode.Exclusive, Infinity, 0, '');
    const wait = scene.table.acquireKey(scene.owner(2), 1, bytes, 2, 3, hash, LockMode.Exclusive, Infinity, 0, '')!;
    bytes.fill(0);
    low.fill(0);
    expect(scene.held()).toEqual(['1: e [m, ) e key']);
    scene.release(1, 2);
    scene.lock(3, 'x', 'other');
    expect(Buffer.from(wait.describe().key!).toString()).toBe('key');
  });
});

describe('a key that 20,000 wait for', () => {
  const WAITERS = 20_000;
  /** Wants the key for everybody, then hands it on until nobody is left. Whatever looks at all who wait each time it is handed on does not come to its end. */
  const handOn = (want: (scene: LockScene, who: number) => void, policy: DeadlockPolicy = 'detect'): number => {
    const scene = new LockScene(policy);
    const { table } = scene;
    scene.lock(scene.owner(WAITERS + 1, { priority: 1 }), 'x', 'a');
    table.markPrepared(scene.owner(WAITERS + 1));
    for (let who = WAITERS; who > 0; who--) want(scene, who);
    expect(table.figures.waiting + table.figures.waitingAnonymous).toBe(WAITERS);
    const granted: number[] = [];
    // As writes do: they take the lock when it is free, and give it back later.
    scene.onGrant = (wait): void => {
      const id = wait.owner?.id ?? -wait.number;
      granted.push(id);
      if (wait.owner !== undefined) return;
      const writer = scene.owner(id, { age: wait.age });
      table.markPrepared(writer);
      if (scene.try(writer, 'x', 'a') !== 0) throw new Error(`${id} was called, and the key was not free`);
    };
    table.release(WAITERS + 1);
    for (let next = 0; next < granted.length; next++) table.release(granted[next]!);
    expect(table.isEmpty).toBe(true);
    return granted.length;
  };
  const modes: readonly ModeLetter[] = ['s', 'u', 'x'];

  it.each(modes)('is handed on in mode %s, each time at the cost of one', (mode) => {
    expect(handOn((scene, who) => void scene.lock(who, mode, 'a'))).toBe(WAITERS);
  });

  it.each<DeadlockPolicy>(['detect', 'wait-die', 'wound-wait'])('is handed on among plain writes (%s)', (policy) => {
    expect(handOn((scene, who) => void scene.plain('put', ['a'], { age: who }), policy)).toBe(WAITERS);
  });

  it('is handed on where batches, plain writes and transactions wait', () => {
    const count = handOn((scene, who) => {
      if (who % 4 === 0) scene.lock(who, modes[(who / 4) % 3]!, 'a');
      else scene.plain('put', who % 4 === 1 ? ['a', `b${who}`] : ['a'], { age: who });
    });
    expect(count).toBe(WAITERS);
  });

  it('is given back by as many readers before one who wants it alone', () => {
    const scene = new LockScene();
    for (let reader = 1; reader <= WAITERS; reader++) scene.lock(reader, 's', 'a');
    scene.lock(WAITERS + 1, 'x', 'a');
    for (let reader = 1; reader <= WAITERS; reader++) scene.release(reader);
    expect(scene.lines()).toEqual([`${WAITERS + 1} got a`]);
  });
});
