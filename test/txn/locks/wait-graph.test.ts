/** The wait-for graph: cycles, questions, answers, victims. */
import { describe, expect, it } from 'vitest';
import {
  CHECK_MS,
  CYCLE_TOLD_MAX,
  KEY_TOLD_MAX,
  KILL_MS,
  REFUTED_MS,
  WaitGraph,
} from '../../../dist/engines/txn/wait-graph.js';
import type { CycleEdge, EdgeQuestion } from '../../../dist/engines/txn/wait-graph.js';

interface Told {
  readonly wait?: number;
  readonly revision?: number;
  readonly priority?: number;
  readonly age?: number;
  readonly key?: string;
}

/** A graph whose questions and orders are noted; shards answer when the test says so. */
class GraphScene {
  readonly questions: { shard: number; check: number; edges: readonly EdgeQuestion[] }[] = [];
  readonly kills: { shard: number; txn: number; wait: number; cycle: readonly CycleEdge[] }[] = [];
  nowMs = 0;
  readonly graph = new WaitGraph({
    confirm: (shard, check, edges) => this.questions.push({ shard, check, edges }),
    kill: (shard, txn, wait, cycle) => this.kills.push({ shard, txn, wait, cycle }),
  });

  /** `txn` waits in `shard`; the wait's number is its own unless told. */
  wait(shard: number, txn: number, blockers: number[], told: Told = {}): void {
    const { wait = txn, revision = 1, priority = 0, age = txn, key = 'k' } = told;
    this.graph.wait(
      { shard, txn, wait, revision, blockers, priority, age, space: 1, key, mode: 'exclusive' },
      this.nowMs,
    );
  }

  unwait(shard: number, wait: number): void {
    this.graph.unwait(shard, wait, this.nowMs);
  }

  /** Answers all open questions. */
  answer(holds: boolean): void {
    for (const { shard, check } of this.questions.splice(0)) this.graph.confirmed(shard, check, holds, this.nowMs);
  }

  tick(): void {
    this.graph.tick(this.nowMs);
  }

  get victims(): number[] {
    return this.kills.map(({ txn }) => txn);
  }
}

describe('a cycle', () => {
  it('is asked for when the edge that closes it comes, once to each shard', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(1, 2, [3], { wait: 7, revision: 4 });
    expect(scene.questions).toEqual([]);
    scene.wait(0, 3, [9, 1]);
    expect(scene.questions.map(({ shard, edges }) => ({ shard, edges }))).toEqual([
      {
        shard: 0,
        edges: [
          { txn: 3, wait: 3, blocker: 1, revision: 1 },
          { txn: 1, wait: 1, blocker: 2, revision: 1 },
        ],
      },
      { shard: 1, edges: [{ txn: 2, wait: 7, blocker: 3, revision: 4 }] },
    ]);
    expect(scene.kills).toEqual([]);
  });

  it('costs its youngest the wait, when every shard says so', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2], { key: 'a' });
    scene.wait(1, 2, [1], { key: 'b' });
    const [first, second] = scene.questions.splice(0);
    scene.graph.confirmed(first!.shard, first!.check, true, 0);
    scene.graph.confirmed(first!.shard, first!.check, true, 0);
    expect(scene.kills).toEqual([]);
    scene.graph.confirmed(second!.shard, second!.check, true, 0);
    expect(scene.kills).toEqual([
      {
        shard: 1,
        txn: 2,
        wait: 2,
        cycle: [
          { txn: 2, waitsFor: 1, shard: 1, space: 1, key: 'b', mode: 'exclusive' },
          { txn: 1, waitsFor: 2, shard: 0, space: 1, key: 'a', mode: 'exclusive' },
        ],
      },
    ]);
  });

  it('costs the lowest priority first', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2], { priority: -5 });
    scene.wait(0, 2, [3]);
    scene.wait(0, 3, [1]);
    scene.answer(true);
    expect(scene.victims).toEqual([1]);
  });

  it('is found through transactions that wait in several places', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [5, 6], { wait: 1 });
    scene.wait(1, 1, [2], { wait: 1 });
    scene.wait(1, 2, [1], { wait: 2 });
    scene.answer(true);
    expect(scene.kills).toMatchObject([{ shard: 1, txn: 2, wait: 2 }]);
  });

  it('of the victim and others is looked for again without it', () => {
    const scene = new GraphScene();
    scene.wait(0, 2, [1]);
    scene.wait(0, 3, [1]);
    scene.wait(0, 1, [2, 3]);
    scene.answer(true);
    scene.answer(true);
    expect(scene.victims.sort()).toEqual([2, 3]);
    scene.unwait(0, 2);
    scene.unwait(0, 3);
    expect(scene.graph.figures).toMatchObject({ waits: 1, edges: 2, kills: 2 });
  });

  it('that another check has in hand is looked for when that is done', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(0, 2, [1]);
    scene.wait(0, 3, [2], { age: 0 });
    scene.wait(0, 2, [1, 3], { revision: 2 });
    expect(scene.questions.length).toBe(1);
    scene.answer(true);
    expect(scene.victims).toEqual([2]);
    expect(scene.questions).toEqual([]);
  });

  it('of one edge is none', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [1]);
    expect(scene.graph.figures).toMatchObject({ searches: 0, edges: 0 });
  });
});

describe('nobody is killed', () => {
  it('for an edge that a shard does not confirm', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(1, 2, [1]);
    scene.answer(false);
    expect(scene.kills).toEqual([]);
    expect(scene.graph.figures.refuted).toBe(1);
  });

  it('when a wait ends while it is asked for', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(1, 2, [1]);
    scene.unwait(0, 1);
    scene.answer(true);
    expect(scene.kills).toEqual([]);
  });

  it('when a shard restarts while it is asked', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(1, 2, [1]);
    scene.graph.forgetShard(1, 0);
    scene.answer(true);
    expect(scene.kills).toEqual([]);
    expect(scene.graph.figures).toMatchObject({ waits: 1, edges: 1 });
  });

  it('by news that are older than what is known', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [3], { revision: 2 });
    scene.wait(0, 1, [2], { revision: 1 });
    scene.wait(0, 2, [1]);
    expect(scene.questions).toEqual([]);
  });

  it('by news of a wait that has ended', () => {
    const scene = new GraphScene();
    scene.unwait(0, 1);
    scene.wait(0, 1, [2]);
    scene.wait(0, 2, [1]);
    expect(scene.questions).toEqual([]);
    scene.unwait(0, 2);
    expect(scene.graph.figures).toMatchObject({ waits: 0, edges: 0 });
  });

  it('twice', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(0, 2, [1]);
    const [question] = scene.questions;
    scene.answer(true);
    scene.graph.confirmed(question!.shard, question!.check, true, 0);
    scene.wait(0, 2, [1]);
    scene.wait(0, 1, [2, 3], { revision: 2 });
    expect(scene.victims).toEqual([2]);
    expect(scene.questions).toEqual([]);
  });
});

describe('time', () => {
  it('a cycle that was refuted and stands is asked for again a little later', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(0, 2, [1]);
    scene.answer(false);
    expect(scene.questions).toEqual([]);
    expect(scene.graph.nextTickMs).toBe(REFUTED_MS);
    scene.nowMs = REFUTED_MS;
    scene.tick();
    scene.answer(true);
    expect(scene.victims).toEqual([2]);
  });

  it('a question without an answer is put again', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(0, 2, [1]);
    scene.questions.length = 0;
    expect(scene.graph.nextTickMs).toBe(CHECK_MS);
    scene.nowMs = CHECK_MS;
    scene.tick();
    scene.nowMs += REFUTED_MS;
    scene.tick();
    scene.answer(true);
    expect(scene.victims).toEqual([2]);
  });

  it('a victim that goes on waiting is asked for and killed again', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(0, 2, [1]);
    scene.answer(true);
    scene.nowMs = KILL_MS - 1;
    scene.tick();
    expect(scene.questions).toEqual([]);
    scene.nowMs = KILL_MS;
    scene.tick();
    scene.answer(true);
    expect(scene.victims).toEqual([2, 2]);
  });

  it('has nothing to do where nothing is under way', () => {
    const scene = new GraphScene();
    scene.wait(0, 1, [2]);
    scene.wait(0, 2, [1]);
    scene.answer(true);
    scene.unwait(0, 2);
    expect(scene.graph.nextTickMs).toBe(Infinity);
    scene.unwait(0, 1);
    expect([...scene.graph.edges()]).toEqual([]);
  });
});

describe('many', () => {
  it('a cycle of 1,000 is found by its last edge', () => {
    const scene = new GraphScene();
    for (let txn = 1; txn < 1000; txn++) scene.wait(txn % 4, txn, [txn + 1]);
    expect(scene.questions).toEqual([]);
    scene.wait(0, 1000, [1]);
    expect(scene.questions.map(({ edges }) => edges.length)).toEqual([250, 250, 250, 250]);
    scene.answer(true);
    expect(scene.victims).toEqual([1000]);
    expect(scene.graph.figures.longestCycle).toBe(1000);
  });

  it('edges and long keys are told in part: an error must stay small', () => {
    const scene = new GraphScene();
    for (let txn = 1; txn <= 1000; txn++) scene.wait(0, txn, [(txn % 1000) + 1], { key: 'k'.repeat(8000) });
    scene.answer(true);
    const { cycle } = scene.kills[0]!;
    expect(cycle.length).toBe(CYCLE_TOLD_MAX);
    expect([cycle[0]!.txn, cycle[1]!.txn, cycle.at(-1)!.waitsFor]).toEqual([1000, 1, 1000]);
    expect(cycle.every(({ key }) => key === `${'k'.repeat(KEY_TOLD_MAX)}…`)).toBe(true);
    expect(JSON.stringify(cycle).length).toBeLessThan(16_000);
  });

  it('who waits at the end of a long queue costs no search', () => {
    const scene = new GraphScene();
    for (let txn = 2; txn < 5000; txn++) scene.wait(0, txn, [txn - 1]);
    expect(scene.graph.figures).toMatchObject({ searches: 0, waits: 4998 });
  });

  it('waits that ended are forgotten after a while', () => {
    const scene = new GraphScene();
    for (let wait = 1; wait < 20_000; wait++) {
      scene.wait(0, 1, [2], { wait });
      scene.unwait(0, wait);
    }
    expect(scene.graph.figures).toMatchObject({ waits: 0, edges: 0 });
    // One that nobody remembers is believed, and harmless: it is no deadlock until a shard says so.
    scene.wait(0, 1, [2], { wait: 1 });
    expect(scene.graph.figures.waits).toBe(1);
  });
});
