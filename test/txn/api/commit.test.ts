/** The state machine of commits that several shards have part in: all orders of answers, failures and interruptions, over a port that is a script. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { PromisedAnswer, type Caller } from '../../../dist/actors/client/caller.js';
import { CommitRun, CommitState, type CommitPart, type CommitPort } from '../../../dist/actors/transaction/commit.js';
import { ConcordError, type ErrorCode } from '../../../dist/shared/errors.js';

const TXN = 77;

interface Call {
  readonly what: 'prepare' | 'commitOne' | 'decide' | 'release';
  readonly shard: number;
  readonly masks?: readonly [number, number];
  readonly level?: number;
  readonly voteEpoch?: number;
  isSettled: boolean;
  resolve(): void;
  reject(code: ErrorCode): void;
}

/** Records what it is told; the test settles the answers. */
class ScriptedPort implements CommitPort<string> {
  readonly calls: Call[] = [];
  throwsAt: { what: string; shard: number; code: ErrorCode } | undefined;

  #call(what: Call['what'], shard: number, caller: Caller | undefined, more: Partial<Call> = {}): void {
    if (this.throwsAt?.what === what && this.throwsAt.shard === shard) throw new ConcordError(this.throwsAt.code, 'x');
    const call: Call = {
      what,
      shard,
      isSettled: caller === undefined,
      resolve: () => {
        call.isSettled = true;
        caller?.answered(true);
      },
      reject: (code) => {
        call.isSettled = true;
        caller?.failed(new ConcordError(code, `scripted ${code}`));
      },
      ...more,
    };
    this.calls.push(call);
  }

  prepare(shard: number, _: string, level: number, caller: Caller): void {
    this.#call('prepare', shard, caller, { level });
  }

  commitOne(shard: number, _: string, level: number, caller: Caller): void {
    this.#call('commitOne', shard, caller, { level });
  }

  decide(txn: number, low: number, high: number, level: number, voteEpoch: number, caller: Caller): void {
    expect(txn).toBe(TXN);
    this.#call('decide', -1, caller, { masks: [low, high], level, voteEpoch });
  }

  release(shard: number, txn: number): void {
    expect(txn).toBe(TXN);
    this.#call('release', shard, undefined);
  }

  get open(): Call[] {
    return this.calls.filter(({ isSettled }) => !isSettled);
  }

  names(): string[] {
    return this.calls.map(({ what, shard }) => (shard < 0 ? what : `${what} ${shard}`));
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function parts(writers: readonly number[], readers: readonly number[] = []): CommitPart<string>[] {
  const all = [
    ...writers.map((shard) => ({ shard, writes: true })),
    ...readers.map((shard) => ({ shard, writes: false })),
  ];
  return all.sort((a, b) => a.shard - b.shard).map((part) => ({ ...part, body: `body ${part.shard}` }));
}

function outcomeOf(run: CommitRun<string>): Promise<boolean> {
  const answer = new PromisedAnswer();
  run.run(answer);
  return answer.promise;
}

function start(writers: readonly number[], readers: readonly number[] = [], level = 2) {
  const port = new ScriptedPort();
  const run = new CommitRun(port, TXN, parts(writers, readers), level, 5);
  let outcome: 'committed' | Error | undefined;
  const done = outcomeOf(run).then(
    () => {
      outcome = 'committed';
    },
    (error: unknown) => {
      outcome = error as Error;
    },
  );
  return { port, run, done, outcome: () => outcome };
}

async function answer(port: ScriptedPort, what: string, shard: number, code?: ErrorCode): Promise<void> {
  const call = port.open.find((open) => open.what === what && open.shard === shard)!;
  if (code === undefined) call.resolve();
  else call.reject(code);
  await turn();
}

describe('several writers', () => {
  test('vote, are decided with the mask of those that write, and readers are let go when that is done', async () => {
    const { port, run, done, outcome } = start([1, 33], [5], 0);
    expect(port.names()).toEqual(['prepare 1', 'prepare 5', 'prepare 33']);
    // Votes are on their way to the disk whatever the level of the transaction.
    expect(port.calls.every(({ level }) => level === 1)).toBe(true);
    await answer(port, 'prepare', 33);
    await answer(port, 'prepare', 1);
    expect(run.state).toBe(CommitState.AllVote);
    await answer(port, 'prepare', 5);
    expect(port.names().slice(3)).toEqual(['decide']);
    expect(port.calls.at(-1)).toMatchObject({ masks: [2, 2], level: 1, voteEpoch: 5 });
    expect(outcome()).toBeUndefined();
    await answer(port, 'decide', -1);
    await done;
    expect(outcome()).toBe('committed');
    expect(port.names().slice(4)).toEqual(['release 5']);
  });

  test('a no lets everybody go, those whose answer is not here yet once more when it comes', async () => {
    const { port, done, outcome } = start([0, 1, 2]);
    await answer(port, 'prepare', 0);
    await answer(port, 'prepare', 2, 'ERR_CONFLICT');
    await done;
    expect(outcome()).toMatchObject({ code: 'ERR_CONFLICT' });
    expect(port.names().slice(3)).toEqual(['release 0', 'release 1', 'release 2']);
    await answer(port, 'prepare', 1);
    expect(port.names().slice(6)).toEqual(['release 1']);
  });

  test('a shard that was replaced before it voted makes a conflict: nothing was applied', async () => {
    const { port, run, done, outcome } = start([0, 1]);
    await answer(port, 'prepare', 1, 'ERR_SHARD_RESTARTED');
    await done;
    expect(outcome()).toMatchObject({ code: 'ERR_CONFLICT', retryable: true });
    expect(run.isUnknown).toBe(false);
    expect(port.names()).toContain('release 0');
  });

  test.each(['ERR_CONFLICT', 'ERR_DISK_FULL', 'ERR_READ_ONLY'] as const)(
    'a decision refused with %s is an abort',
    async (code) => {
      const { port, run, done, outcome } = start([0, 1]);
      await answer(port, 'prepare', 0);
      await answer(port, 'prepare', 1);
      await answer(port, 'decide', -1, code);
      await done;
      expect(outcome()).toMatchObject({ code });
      expect(run.state).toBe(CommitState.Aborted);
      expect(port.names().slice(3)).toEqual(['release 0', 'release 1']);
    },
  );

  test.each(['ERR_SHARD_FAILED', 'ERR_IO', 'ERR_CLOSED', 'ERR_SHARD_RESTARTED'] as const)(
    'a decision that ends with %s is unknown: nobody is told anything',
    async (code) => {
      const { port, run, done, outcome } = start([0, 1]);
      await answer(port, 'prepare', 0);
      await answer(port, 'prepare', 1);
      await answer(port, 'decide', -1, code);
      await done;
      expect(outcome()).toMatchObject({ code });
      expect(run.isUnknown).toBe(true);
      expect(port.names()).toEqual(['prepare 0', 'prepare 1', 'decide']);
    },
  );

  test('can be given up until the decision is asked for, not after', async () => {
    const first = start([0, 1]);
    await answer(first.port, 'prepare', 0);
    expect(first.run.abort(new Error('enough'))).toBe(true);
    await first.done;
    expect(first.outcome()).toMatchObject({ message: 'enough' });
    expect(first.port.names().slice(2)).toEqual(['release 0', 'release 1']);
    expect(first.run.abort(new Error('again'))).toBe(false);

    const second = start([0, 1]);
    await answer(second.port, 'prepare', 0);
    await answer(second.port, 'prepare', 1);
    expect(second.run.abort(new Error('too late'))).toBe(false);
    await answer(second.port, 'decide', -1);
    await second.done;
    expect(second.outcome()).toBe('committed');
  });

  test('a shard that cannot be asked at all is a no', async () => {
    const port = new ScriptedPort();
    port.throwsAt = { what: 'prepare', shard: 1, code: 'ERR_SHARD_FAILED' };
    const run = new CommitRun(port, TXN, parts([0, 1, 2]), 1);
    await expect(outcomeOf(run)).rejects.toMatchObject({ code: 'ERR_SHARD_FAILED' });
    expect(port.names()).toEqual(['prepare 0', 'release 0']);
  });

  test('whose decision cannot be asked for release all', async () => {
    const port = new ScriptedPort();
    port.throwsAt = { what: 'decide', shard: -1, code: 'ERR_SHARD_FAILED' };
    const run = new CommitRun(port, TXN, parts([0, 1]), 1);
    const failed = expect(outcomeOf(run)).rejects.toMatchObject({ code: 'ERR_SHARD_FAILED' });
    for (const shard of [0, 1]) await answer(port, 'prepare', shard);
    await failed;
    expect(run.state).toBe(CommitState.Aborted);
    expect(port.names()).toEqual(['prepare 0', 'prepare 1', 'release 0', 'release 1']);
  });
});

describe('a shard that only reads, replaced after its yes', () => {
  test.each([[[3]], [[1, 3]], [[]]])('lets nothing be applied by the writers %j', async (writers) => {
    const port = new ScriptedPort();
    let areKept = true;
    const run = new CommitRun(port, TXN, parts(writers, [0, 2]), 1, 1, () => areKept);
    const failed = expect(outcomeOf(run)).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
    for (const shard of [0, ...(writers.length === 1 ? [] : writers)]) await answer(port, 'prepare', shard);
    areKept = false;
    const asked = port.names().length;
    await answer(port, 'prepare', 2);
    await failed;
    expect(run.state).toBe(CommitState.Aborted);
    expect(port.names().slice(asked)).toEqual(
      port
        .names()
        .slice(0, asked)
        .map((name) => name.replace('prepare', 'release')),
    );
  });
});

describe('one writer', () => {
  test('applies when the others have voted, and they are let go when it has answered', async () => {
    const { port, done, outcome } = start([3], [0, 1], 0);
    expect(port.names()).toEqual(['prepare 0', 'prepare 1']);
    await answer(port, 'prepare', 1);
    await answer(port, 'prepare', 0);
    expect(port.names().slice(2)).toEqual(['commitOne 3']);
    expect(port.calls.at(-1)).toMatchObject({ level: 0 });
    await answer(port, 'commitOne', 3);
    await done;
    expect(outcome()).toBe('committed');
    expect(port.names().slice(3)).toEqual(['release 0', 'release 1']);
  });

  test('that refuses is an abort, that was replaced is unknown; the others are let go either way', async () => {
    for (const [code, state] of [
      ['ERR_CONFLICT', CommitState.Aborted],
      ['ERR_SHARD_RESTARTED', CommitState.Unknown],
    ] as const) {
      const { port, run, done, outcome } = start([3], [0]);
      await answer(port, 'prepare', 0);
      await answer(port, 'commitOne', 3, code);
      await done;
      expect(outcome()).toMatchObject({ code });
      expect(run.state).toBe(state);
      expect(port.names().slice(2)).toEqual(['release 0']);
    }
  });
});

test('no writer: the votes are all there is', async () => {
  const { port, done, outcome } = start([], [0, 2]);
  await answer(port, 'prepare', 0);
  await answer(port, 'prepare', 2);
  await done;
  expect(outcome()).toBe('committed');
  expect(port.names()).toEqual(['prepare 0', 'prepare 2', 'release 0', 'release 2']);
});

test('whatever the order of answers, failures and interruptions: one outcome, and nobody who may hold locks is forgotten', async () => {
  const code = fc.constantFrom<ErrorCode>('ERR_CONFLICT', 'ERR_SHARD_RESTARTED', 'ERR_IO', 'ERR_DISK_FULL');
  const step = fc.record({ pick: fc.nat(1000), fails: fc.option(code, { freq: 4 }), aborts: fc.nat(12) });
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.nat(63), { minLength: 1, maxLength: 6 }),
      fc.nat(6),
      fc.array(step, { minLength: 14, maxLength: 14 }),
      async (shards, writerCount, steps) => {
        const writers = shards.slice(0, writerCount);
        const { port, run, outcome } = start(writers, shards.slice(writerCount));
        for (const { pick, fails, aborts } of steps) {
          if (aborts === 0) {
            const before = run.state;
            const isGivenUp = run.abort(new Error('given up'));
            expect(isGivenUp).toBe(before === CommitState.AllVote || before === CommitState.ReadersVote);
          }
          const { open } = port;
          if (open.length > 0) {
            const call = open[pick % open.length]!;
            if (fails === null) call.resolve();
            else call.reject(fails);
          }
          await turn();
        }
        expect(port.open).toEqual([]);
        const decided = port.calls.findIndex(({ what }) => what === 'decide' || what === 'commitOne');
        const voters = port.calls.filter(({ what }) => what === 'prepare').map(({ shard }) => shard);
        const released = (shard: number): number => port.names().lastIndexOf(`release ${shard}`);
        expect(outcome()).toBeDefined();
        expect(outcome() === 'committed').toBe(run.state === CommitState.Committed);
        // Nothing is decided before all have voted, and only once.
        if (decided >= 0) {
          expect(port.calls.filter(({ what }) => what === 'decide' || what === 'commitOne')).toHaveLength(1);
          expect(voters.sort()).toEqual((writers.length === 1 ? shards.slice(writerCount) : [...shards]).sort());
        }
        if (run.state === CommitState.Aborted) {
          for (const shard of voters) expect(released(shard)).toBeGreaterThanOrEqual(0);
        } else {
          const readers = shards.slice(writerCount);
          for (const shard of readers) expect(released(shard)).toBeGreaterThanOrEqual(0);
          // A writer that may have to apply it is told nothing.
          for (const shard of writers) expect(released(shard)).toBe(-1);
        }
      },
    ),
    { numRuns: 400 },
  );
});
