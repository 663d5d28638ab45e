/** Reads of a space that a dead writer has locked: who tries again and again must not keep the host from hearing of the death. */
import { expect, onTestFinished, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { ConcordError } from '../../dist/shared/errors.js';

test.each(['get', 'has', 'getEntry'] as const)(
  'a call of %s that fails because a writer died lets the event loop come round',
  async (method) => {
    const db = await ConcordPool.open(':memory:', { shards: 1, engine: 'rbtree' });
    onTestFinished(() => db.close());
    await db.put('k', 'v');
    expect(await db.getEntry('k')).toMatchObject({ value: 'v' });
    for (const view of db.source.views) {
      view.find = () => {
        throw new ConcordError('ERR_OWNER_DIED', 'the space is locked by a thread that died');
      };
    }
    let hasTurned = false;
    setImmediate(() => {
      hasTurned = true;
    });
    let failures = 0;
    while (!hasTurned && failures < 1000) {
      await db[method]('k').catch((error: unknown) => {
        expect((error as ConcordError).code).toBe('ERR_OWNER_DIED');
        failures++;
      });
    }
    expect(failures).toBeGreaterThan(0);
    expect(hasTurned).toBe(true);
  },
);
