import { describe, expect, test, vi } from 'vitest';
import { Coordinator } from '../../../dist/engines/txn/coordinator.js';
import type { DecisionLog } from '../../../dist/engines/txn/decision-log.js';
import { FenceTable, createFenceTable } from '../../../dist/engines/txn/fence-table.js';
import type { CommitBoard } from '../../../dist/actors/commit-board.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { SHARDS, idsOf, newBoard, openLog, type Answer } from './scene.js';

const OS = 1;
const SYNC = 2;
/** Shards 0 and 1. */
const BOTH = 0b011;
const CLIENT = 4;

/** A coordinator whose shards are names in sets. */
class Scene {
  readonly disk = new MemEnv();
  readonly env = new FaultEnv(this.disk);
  board: CommitBoard = newBoard();
  log!: DecisionLog;
  coordinator!: Coordinator;
  nextNumber = 1000;
  nowMs = 0;
  readonly answers = new Map<number, Answer>();
  readonly outcomes: string[] = [];
  readonly wakes: number[] = [];
  readonly failed = new Set<number>();
  readonly neededFrom = [Infinity, Infinity, Infinity];
  /** By shard, in the order in which they were applied. */
  readonly applied: number[][] = [[], [], []];
  /** How long decisions took until they were applied; its clock goes on with every look. */
  readonly applyMs: number[] = [];
  #clockMs = 0;
  readonly #cursors = [0, 0, 0];
  /** Of shards. */
  restarts = 0;
  #requests = 0;
  readonly #idOf = new Map<number, number>();
  #answered: number[] = [];

  constructor(isKept = true) {
    this.disk.makeDirectory('/store');
    this.disk.syncDirectory('/');
    this.start({ isKept });
  }

  /** Of stores without a log, where fences outlive threads; undefined: nothing does. */
  fences: SharedArrayBuffer | undefined;

  logBytesMax: number | undefined;

  start({ isKept = true, isRestart = false } = {}): void {
    const { logBytesMax } = this;
    const kept = logBytesMax === undefined ? {} : { logBytesMax };
    this.log = openLog(this.env, isKept ? kept : { directory: undefined, fences: this.fences });
    this.coordinator = new Coordinator(
      this.log,
      this.board,
      {
        count: SHARDS,
        restarts: () => this.restarts,
        isFailed: (shard) => this.failed.has(shard),
        decisionsNeededFrom: (shard) => this.neededFrom[shard]!,
      },
      {
        takeNumber: () => this.nextNumber++,
        wakeShards: (maskLow) => this.wakes.push(maskLow),
        answer: (_, request, error) => {
          this.answers.set(request, error ?? 'done');
          this.#answered.push(this.#idOf.get(request)!);
        },
        tellOutcome: (shard, id, isCommitted) =>
          this.outcomes.push(`${shard}: ${id} ${isCommitted ? 'committed' : 'aborted'}`),
        clock: {
          nowMs: () => ++this.#clockMs,
          decided: () => undefined,
          applied: (ms) => this.applyMs.push(ms),
        },
      },
      isKept,
      isRestart,
    );
    this.coordinator.sessionBegun(CLIENT);
    this.coordinator.begin();
  }

  /** The thread is gone; nothing of the machine is. */
  restartThread(isKept = true): void {
    this.answers.clear();
    this.start({ isKept, isRestart: true });
    this.coordinator.caughtUp();
  }

  /** The process is gone: shared memory is. */
  restartProcess(): void {
    this.answers.clear();
    this.board = newBoard();
    this.#cursors.fill(0);
    this.start();
  }

  decide(id: number, mask = BOTH, level = OS, client = CLIENT, voteEpoch = 0): number {
    const request = ++this.#requests;
    this.#idOf.set(request, id);
    this.coordinator.decide(client, request, id, mask, 0, level, voteEpoch);
    return request;
  }

  step(ms = 1): number {
    this.nowMs += ms;
    const changed = this.coordinator.step(this.nowMs);
    this.complete();
    return changed;
  }

  /** What was answered is no more in the rings. */
  complete(): void {
    for (const id of this.#answered.splice(0)) this.coordinator.completed(id);
  }

  /** The shard applies what is on the board. */
  apply(...shards: number[]): void {
    for (const shard of shards) {
      this.#cursors[shard] = this.board.due(shard, this.#cursors[shard]!, Infinity, (id, _, index) => {
        this.applied[shard]!.push(id);
        this.board.setApplied(shard, index);
      });
    }
  }

  onBoard(): number[] {
    const ids: number[] = [];
    this.board.forEach(({ id }) => ids.push(id));
    return ids;
  }

  codeOf(request: number): unknown {
    const answer = this.answers.get(request);
    return answer === undefined || answer === 'done' ? answer : [answer.code, answer.details['outcome']];
  }
}

describe('a decision', () => {
  test('goes to the board, and is answered when every shard has applied it', () => {
    const scene = new Scene();
    const request = scene.decide(7, 0b101);
    scene.step();
    expect(scene.onBoard()).toEqual([7]);
    expect(scene.wakes).toEqual([0b101]);
    scene.apply(0);
    scene.step();
    expect(scene.answers.size).toBe(0);
    scene.apply(2);
    scene.step();
    expect(scene.codeOf(request)).toBe('done');
    expect(scene.applied).toEqual([[7], [], [7]]);
  });

  test('is in the log before it is on the board, and synced if that was asked for', () => {
    const scene = new Scene();
    scene.decide(7, BOTH, SYNC);
    scene.step();
    const lost = scene.disk.crash(new Random(1), 'drop-all');
    expect(idsOf(openLog(lost)).decided).toEqual([7]);
    expect(scene.coordinator.counts).toMatchObject({ decisions: 1, syncs: 1, groups: 1 });
  });

  test('of many becomes one frame and one sync', () => {
    const scene = new Scene();
    for (let id = 1; id <= 100; id++) scene.decide(id, BOTH, id === 50 ? SYNC : OS);
    scene.step();
    expect(scene.coordinator.counts).toMatchObject({ decisions: 100, syncs: 1, groups: 1 });
    expect(scene.onBoard()).toHaveLength(100);
  });

  test('that comes twice has one outcome and one place', () => {
    const scene = new Scene();
    const requests = [scene.decide(7), scene.decide(7)];
    scene.step();
    requests.push(scene.decide(7));
    scene.step();
    expect(scene.onBoard()).toEqual([7]);
    scene.apply(0, 1);
    scene.step();
    requests.push(scene.decide(7));
    expect(requests.map((request) => scene.codeOf(request))).toEqual(['done', 'done', 'done', 'done']);
    expect(scene.applied[0]).toEqual([7]);
  });

  test('numbers on the board ascend in the order of the requests', () => {
    const scene = new Scene();
    for (const id of [9, 3, 5]) scene.decide(id);
    scene.step();
    expect(scene.onBoard()).toEqual([9, 3, 5]);
    const numbers: number[] = [];
    scene.board.forEach(({ number }) => numbers.push(number));
    expect(numbers).toEqual([1000, 1001, 1002]);
  });

  test('waits while the board is full, and nothing is lost', () => {
    const scene = new Scene();
    const requests = Array.from({ length: 2500 }, (_, i) => scene.decide(i + 1));
    scene.step();
    expect(scene.board.isFull).toBe(true);
    expect(scene.coordinator.isFull).toBe(true);
    for (let i = 0; i < 6; i++) {
      scene.apply(0, 1);
      scene.step();
    }
    expect(requests.every((request) => scene.codeOf(request) === 'done')).toBe(true);
    expect(scene.applied[1]).toEqual(requests.map((_, i) => i + 1));
  });

  test('is refused when a shard was replaced that may have voted for it and only read; what was decided before goes on', () => {
    const scene = new Scene();
    scene.decide(7, BOTH, OS, CLIENT, 1);
    scene.step();
    scene.restarts = 1;
    expect(scene.codeOf(scene.decide(8, BOTH, OS, CLIENT, 1))).toEqual(['ERR_CONFLICT', 'aborted']);
    // Its votes are younger; all of its participants write, and what they have voted for is in their logs.
    const others = [scene.decide(9, BOTH, OS, CLIENT, 2), scene.decide(10, BOTH, OS, CLIENT, 0)];
    scene.step();
    scene.restartThread();
    others.push(scene.decide(7, BOTH, OS, CLIENT, 1));
    scene.apply(0, 1);
    scene.step();
    expect(scene.codeOf(others[2]!)).toBe('done');
    expect(scene.applied[0]).toEqual([7, 9, 10]);
  });

  test('that needs shards which only read begins a round; the round is over when it has its number, whichever thread gives it', () => {
    const scene = new Scene();
    scene.decide(6, BOTH, OS, CLIENT, 0);
    expect(scene.board.isRoundOver(scene.board.round)).toBe(true);
    scene.decide(7, BOTH, OS, CLIENT, 1);
    const seen = scene.board.round;
    expect(scene.board.isRoundOver(seen)).toBe(false);
    vi.spyOn(scene.board, 'claim').mockImplementationOnce(() => {
      throw new Error('the thread ends');
    });
    expect(() => scene.step()).toThrow('the thread ends');
    scene.restartThread();
    expect([scene.onBoard(), scene.board.isRoundOver(seen)]).toEqual([[], false]);
    scene.step();
    expect([scene.onBoard(), scene.board.isRoundOver(seen)]).toEqual([[6, 7], true]);
  });

  test('is timed until it is applied, also behind one of a predecessor', () => {
    const scene = new Scene();
    scene.decide(6);
    scene.step();
    scene.restartThread();
    scene.decide(7);
    scene.step();
    expect(scene.onBoard()).toEqual([6, 7]);
    scene.apply(0, 1);
    scene.step();
    expect(scene.applyMs).toEqual([1]);
  });

  test('that is refused leaves no round behind', () => {
    const scene = new Scene();
    scene.restarts = 1;
    scene.decide(7, BOTH, OS, CLIENT, 1);
    const seen = scene.board.round;
    scene.step();
    expect(scene.board.isRoundOver(seen)).toBe(true);
  });

  test.each([
    ['for a shard that does not exist', 7, 0b1000],
    ['for no shard', 7, 0],
    ['with an id that is none', 0.5, BOTH],
  ])('%s is refused', (_, id, mask) => {
    const scene = new Scene();
    expect(scene.codeOf(scene.decide(id, mask))).toEqual(['ERR_INTERNAL', 'aborted']);
    scene.step();
    expect(scene.onBoard()).toEqual([]);
  });
});

describe('an end', () => {
  function endsOf(scene: Scene): number[] {
    return idsOf(openLog(scene.disk.crash(new Random(1), 'keep-all'))).decided;
  }

  test('is told lazily, with a later frame or after a second', () => {
    const scene = new Scene();
    scene.decide(7);
    scene.step();
    scene.apply(0, 1);
    scene.step();
    scene.step();
    expect(endsOf(scene)).toEqual([7]);
    scene.decide(8);
    scene.step();
    expect(endsOf(scene)).toEqual([8]);
    scene.apply(0, 1);
    scene.step();
    scene.step();
    scene.step(2000);
    expect(endsOf(scene)).toEqual([]);
    expect(scene.coordinator.known).toBe(0);
  });

  test('is not told while a shard could forget what it has applied', () => {
    const scene = new Scene();
    scene.decide(7);
    scene.step();
    // Number 1000.
    scene.neededFrom[1] = 1000;
    scene.apply(0, 1);
    for (let i = 0; i < 5; i++) scene.step(2000);
    expect(endsOf(scene)).toEqual([7]);
    scene.neededFrom[1] = 1001;
    scene.step();
    scene.step(2000);
    expect(endsOf(scene)).toEqual([]);
  });

  test('is told of what nobody needs behind something that a shard will always need', () => {
    const scene = new Scene();
    const others: number[] = [];
    scene.decide(7, 0b101);
    scene.step();
    // Number 1000, for ever: its log has failed.
    scene.neededFrom[2] = 1000;
    scene.apply(0, 2);
    scene.step();
    for (let id = 8; id < 600; id++) {
      others.push(scene.decide(id, id === 8 ? 0b110 : BOTH));
      scene.step();
      scene.apply(0, 1, 2);
      scene.step();
    }
    scene.step();
    scene.step(2000);
    expect(others.every((request) => scene.codeOf(request) === 'done')).toBe(true);
    expect(scene.coordinator.known).toBe(2);
    expect(endsOf(scene)).toEqual([7, 8]);
    scene.neededFrom[2] = Infinity;
    scene.step();
    scene.step(2000);
    expect(scene.coordinator.known).toBe(0);
  });

  test('is followed by nothing: a late copy of the decision is done, and applied by nobody who does not know it', () => {
    const scene = new Scene();
    scene.decide(7);
    scene.step();
    scene.apply(0, 1);
    scene.step();
    scene.step();
    scene.step(2000);
    const late = scene.decide(7);
    scene.step();
    scene.apply(0, 1);
    scene.step();
    expect(scene.codeOf(late)).toBe('done');
  });

  test('is told of all at the end of an orderly life, whatever shards had synced before', () => {
    const scene = new Scene();
    for (let id = 1; id <= 500; id++) scene.decide(id, 0b101);
    scene.neededFrom[0] = 1;
    scene.step();
    scene.apply(0, 2);
    scene.step();
    scene.decide(501);
    scene.step();
    expect(endsOf(scene)).toHaveLength(501);
    scene.coordinator.endApplied();
    // Nobody has applied this one.
    expect(endsOf(scene)).toEqual([501]);
  });

  test('keeps the log short over a hundred thousand decisions, whatever the shards sync', () => {
    const scene = new Scene();
    for (let id = 1; id <= 100_000; id++) {
      scene.decide(id);
      if (id % 200 !== 0) continue;
      scene.step();
      scene.apply(0, 1);
      scene.neededFrom[0] = scene.nextNumber - 2000;
      scene.step();
    }
    expect(scene.log.sizeBytes).toBeLessThan(9 << 20);
    expect(scene.coordinator.known).toBeLessThan(3000);
    expect(endsOf(scene).length).toBeLessThan(3000);
  });
});

describe('a shard that asks', () => {
  test('about what is decided hears "committed"', () => {
    const scene = new Scene();
    scene.decide(7);
    scene.coordinator.ask(1, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual(['1: 7 committed']);
  });

  test('about what is not decided hears "aborted", and so it stays', () => {
    const scene = new Scene();
    scene.coordinator.ask(1, 7, CLIENT);
    expect(scene.outcomes).toEqual([]);
    scene.step();
    expect(scene.outcomes).toEqual(['1: 7 aborted']);
    expect(scene.codeOf(scene.decide(7))).toEqual(['ERR_CONFLICT', 'aborted']);
    scene.restartThread();
    expect(scene.codeOf(scene.decide(7))).toEqual(['ERR_CONFLICT', 'aborted']);
    scene.coordinator.ask(0, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual(['1: 7 aborted', '0: 7 aborted']);
    expect(scene.coordinator.counts.fences).toBe(0);
  });

  test('twice costs one record', () => {
    const scene = new Scene();
    scene.coordinator.ask(1, 7, CLIENT);
    scene.coordinator.ask(0, 7, CLIENT);
    scene.step();
    scene.coordinator.ask(0, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toHaveLength(3);
    expect(scene.coordinator.counts.fences).toBe(1);
  });

  test('about a transaction of a client that is gone hears "aborted", without a record', () => {
    const scene = new Scene();
    scene.coordinator.ask(1, 7, CLIENT + 1);
    scene.step();
    expect(scene.outcomes).toEqual(['1: 7 aborted']);
    expect(scene.disk.exists('/store/coordinator')).toBe(false);
  });

  test('is heard again when the session ends: what was given up is forgotten', () => {
    const scene = new Scene();
    scene.coordinator.ask(1, 7, CLIENT);
    scene.step();
    expect(scene.coordinator.known).toBe(1);
    scene.coordinator.sessionEnded(CLIENT);
    scene.step(2000);
    expect(scene.coordinator.known).toBe(0);
    expect(idsOf(openLog(scene.disk.crash(new Random(1), 'keep-all'))).fenced).toEqual([]);
  });

  test('hears nothing while the record of it cannot be written', () => {
    const scene = new Scene();
    scene.env.fillDisk();
    scene.coordinator.ask(1, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual([]);
    scene.env.freeDisk();
    // It was not given up: it may be decided.
    const request = scene.decide(7);
    scene.step();
    scene.apply(0, 1);
    scene.step();
    expect(scene.codeOf(request)).toBe('done');
  });

  test('in a store without a log is not told of an abort that a successor would not know', () => {
    const scene = new Scene(false);
    scene.coordinator.ask(1, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual([]);
    scene.coordinator.sessionEnded(CLIENT);
    scene.coordinator.ask(1, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual(['1: 7 aborted']);
  });
});

describe('fences of a store without a log', () => {
  test('hold for a successor too: what a shard was told is never decided', () => {
    const scene = new Scene(false);
    scene.fences = createFenceTable();
    scene.restartThread(false);
    scene.coordinator.ask(1, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual(['1: 7 aborted']);
    expect(scene.codeOf(scene.decide(7))).toEqual(['ERR_CONFLICT', 'aborted']);
    scene.restartThread(false);
    const late = scene.decide(7);
    const other = scene.decide(8);
    scene.step();
    expect(scene.codeOf(late)).toEqual(['ERR_CONFLICT', 'aborted']);
    scene.apply(0, 1);
    scene.step();
    expect(scene.codeOf(other)).toBe('done');
    expect(scene.applied[1]).toEqual([8]);
    scene.coordinator.sessionEnded(CLIENT);
    scene.step(2000);
    expect(scene.coordinator.known).toBe(0);
    expect(new FenceTable(scene.fences).recovered.size).toBe(0);
  });

  test('are as many as there is room for: a shard that is one too many is not told, and asks again', () => {
    const scene = new Scene(false);
    scene.fences = createFenceTable(2);
    scene.restartThread(false);
    for (const id of [7, 8, 9]) scene.coordinator.ask(1, id, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual(['1: 7 aborted', '1: 8 aborted']);
    scene.decide(9);
    scene.step();
    expect(scene.onBoard()).toEqual([9]);
  });
});

describe('a disk that fails', () => {
  test('full: what is asked is refused, for ever, and decided later is what comes later', () => {
    const scene = new Scene();
    scene.decide(1);
    scene.step();
    const full = scene.env.addRule({ operation: 'write', path: /\.log$/, error: 'ENOSPC' });
    const refused = scene.decide(7);
    scene.step();
    expect(scene.codeOf(refused)).toEqual(['ERR_DISK_FULL', 'aborted']);
    full.remove();
    expect(scene.codeOf(scene.decide(7))).toEqual(['ERR_CONFLICT', 'aborted']);
    const later = scene.decide(8);
    scene.step();
    scene.apply(0, 1);
    scene.step();
    expect(scene.codeOf(later)).toBe('done');
    expect(scene.applied[0]).toEqual([1, 8]);
  });

  test('so full that nothing can be cut off: nothing is said before it is known', () => {
    const scene = new Scene();
    scene.decide(1);
    scene.step();
    scene.env.addRule({ operation: 'write', path: /\.log$/, times: 1, error: 'ENOSPC', shortWriteBytes: 88 });
    const cut = scene.env.addRule({ operation: 'truncate', error: 'ENOSPC' });
    const doubtful = scene.decide(7);
    scene.step();
    scene.coordinator.ask(0, 7, CLIENT);
    const other = scene.decide(8);
    scene.step(200);
    expect(scene.codeOf(doubtful)).toBeUndefined();
    expect(scene.codeOf(other)).toEqual(['ERR_DISK_FULL', 'aborted']);
    expect(scene.outcomes).toEqual([]);
    cut.remove();
    scene.step(200);
    expect(scene.codeOf(doubtful)).toEqual(['ERR_DISK_FULL', 'aborted']);
    expect(scene.onBoard()).toEqual([1]);
    scene.coordinator.ask(0, 7, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual(['0: 7 aborted']);
  });

  test('a sync that fails: the outcome is unknown, nothing is decided any more, what was decided goes on', () => {
    const scene = new Scene();
    const before = scene.decide(1);
    scene.step();
    scene.env.addRule({ operation: 'sync', path: /\.log$/, times: 1, error: 'EIO' });
    const doubtful = scene.decide(7, BOTH, SYNC);
    scene.step();
    expect(scene.codeOf(doubtful)).toEqual(['ERR_IO', 'unknown']);
    expect(scene.codeOf(scene.decide(8))).toEqual(['ERR_READ_ONLY', 'aborted']);
    expect(scene.codeOf(scene.decide(7))).toEqual(['ERR_IO', 'unknown']);
    scene.coordinator.ask(0, 7, CLIENT);
    scene.coordinator.ask(0, 1, CLIENT);
    scene.step();
    expect(scene.outcomes).toEqual(['0: 1 committed']);
    scene.apply(0, 1);
    scene.step();
    expect(scene.codeOf(before)).toBe('done');
    expect(scene.applied[0]).toEqual([1]);
    // The next process finds what the disk has: all or nothing of it.
    scene.restartProcess();
    scene.step();
    expect(scene.onBoard()).toEqual([1, 7]);
  });

  test('a client that goes while an outcome of its is unknown leaves what shards must keep, whoever has its slot', () => {
    const scene = new Scene();
    scene.env.addRule({ operation: 'sync', path: /\.log$/, times: 1, error: 'EIO' });
    scene.decide(7, BOTH, SYNC);
    scene.step();
    expect(scene.coordinator.sessionEnded(CLIENT + 1)).toBe(true);
    expect(scene.coordinator.sessionEnded(CLIENT)).toBe(false);
    // Shards release by slots.
    scene.coordinator.sessionBegun(CLIENT);
    expect(scene.coordinator.sessionEnded(CLIENT)).toBe(false);
  });
});

describe('a shard that stays down', () => {
  test('takes part in nothing new', () => {
    const scene = new Scene();
    scene.failed.add(1);
    expect(scene.codeOf(scene.decide(7, BOTH))).toEqual(['ERR_SHARD_FAILED', 'aborted']);
    expect(scene.codeOf(scene.decide(8, 0b101))).toBeUndefined();
  });

  test('does not keep those waiting who are through with the others', () => {
    const scene = new Scene();
    const stuck = scene.decide(7, BOTH);
    const behind = scene.decide(8, 0b101);
    scene.step();
    scene.apply(0, 2);
    scene.step();
    expect(scene.answers.size).toBe(0);
    scene.failed.add(1);
    scene.step(100);
    expect(scene.codeOf(stuck)).toEqual(['ERR_SHARD_FAILED', 'committed']);
    expect(scene.codeOf(behind)).toBe('done');
    expect(scene.codeOf(scene.decide(7))).toEqual(['ERR_SHARD_FAILED', 'committed']);
    // The next process carries it out.
    scene.failed.clear();
    scene.restartProcess();
    scene.step();
    scene.apply(0, 1, 2);
    expect(scene.applied[1]).toEqual([7]);
  });

  test('with a full board means that nothing more is decided, rather than that all wait', () => {
    const scene = new Scene();
    for (let id = 1; id <= 1024; id++) scene.decide(id, BOTH);
    scene.step();
    scene.failed.add(1);
    expect(scene.codeOf(scene.decide(5000, 0b101))).toEqual(['ERR_SHARD_FAILED', 'aborted']);
  });
});

describe('a successor', () => {
  test('of a thread finds the board, and puts nothing there twice', () => {
    const scene = new Scene();
    scene.decide(7);
    scene.decide(8);
    scene.step();
    scene.apply(0);
    scene.restartThread();
    const again = scene.decide(7);
    scene.step();
    expect(scene.onBoard()).toEqual([7, 8]);
    scene.apply(1);
    scene.step();
    expect(scene.codeOf(again)).toBe('done');
    expect(scene.applied).toEqual([[7, 8], [7, 8], []]);
  });

  test('of a process puts what was decided on the board again; who has applied it passes over it', () => {
    const scene = new Scene();
    scene.decide(7, BOTH, SYNC);
    scene.step();
    scene.apply(0);
    scene.restartProcess();
    scene.step();
    expect(scene.onBoard()).toEqual([7]);
    const numbers: number[] = [];
    scene.board.forEach(({ number }) => numbers.push(number));
    expect(numbers).toEqual([1001]);
    scene.apply(0, 1);
    scene.step();
    scene.step();
    scene.step(2000);
    expect(scene.coordinator.known).toBe(0);
  });

  test('of a process puts it there in the order in which it was decided, however often the log was written anew', () => {
    const scene = new Scene();
    scene.logBytesMax = 1;
    scene.restartProcess();
    // No shard has synced its log.
    scene.neededFrom.fill(1);
    const restate = vi.spyOn(scene.log, 'restate');
    const ids: number[] = [];
    for (let i = 0; i < 400; i++) {
      ids.push(i % 2 === 0 ? 1000 - i : 1 + i);
      scene.decide(ids[i]!);
      scene.step(100);
      if (i < 380) scene.apply(0, 1);
    }
    scene.step(1000);
    expect(restate.mock.calls.length).toBeGreaterThan(1);
    expect(scene.applied[0]!.length).toBe(380);
    scene.restartProcess();
    scene.step();
    expect(scene.onBoard()).toEqual(ids);
  });

  test('of a process forgets what was given up: no client is left that could decide it', () => {
    const scene = new Scene();
    scene.coordinator.ask(1, 7, CLIENT);
    scene.step();
    scene.restartProcess();
    scene.step(2000);
    expect(scene.coordinator.known).toBe(0);
  });

  test('takes over more decisions than the board has room for', () => {
    const scene = new Scene();
    for (let round = 0; round < 3; round++) {
      for (let i = 1; i <= 1000; i++) scene.decide(round * 1000 + i);
      scene.neededFrom[0] = 1;
      scene.step();
      scene.apply(0, 1);
      scene.step();
    }
    scene.restartProcess();
    scene.step();
    expect(scene.coordinator.offBoard).toBe(3000 - 1024);
    for (let i = 0; i < 4; i++) {
      scene.apply(0, 1);
      scene.step();
    }
    expect(scene.coordinator.offBoard).toBe(0);
    expect(scene.applied[1]).toHaveLength(6000);
  });

  test('in a store without a log meets what was on the board, and decides what was not', () => {
    const scene = new Scene(false);
    scene.decide(7);
    scene.step();
    scene.restartThread(false);
    const [known, unknown] = [scene.decide(7), scene.decide(8)];
    scene.step();
    expect(scene.onBoard()).toEqual([7, 8]);
    scene.apply(0, 1);
    scene.step();
    expect([scene.codeOf(known), scene.codeOf(unknown)]).toEqual(['done', 'done']);
    expect(scene.coordinator.known).toBe(0);
  });
});
