/**
 * What threads under stress may see, and how each thread checks it. Shared by the test's own thread and by test/stress/thread.mjs.
 *
 *   g:<writer>:<n>      one writer each; values carry key, generation and a hash; generations only grow
 *   pair:<n> / …b       written in one batch on one shard: always equal
 *   step:<shard>        one number per shard, written in the order shard 0, 1, 2, 0, 1 …, each after the one before was acknowledged: in any
 *                       snapshot step:0 ≥ step:1 ≥ step:2 ≥ step:0 - 1
 *   fix:<n>             never changed: an iterator must list all of them, in order
 */
import { HASH_SLOTS, hashBytes, slotOf } from '../../dist/shared/hash.js';
import { generationOf, mulberry32, valueOf } from '../support/threads-load.mjs';

export const KEYS_PER_WRITER = 200;
export const PAIRS = 40;
export const FIXED = 1500;
export const SHARDS = 3;

/** Keys by shard: `count` keys with the prefix that live on the shard. */
export function keysOn(shard, prefix, count) {
  const keys = [];
  for (let i = 0; keys.length < count; i++) {
    const key = `${prefix}${i}`;
    const bytes = Buffer.from(key);
    if (Math.floor((slotOf(hashBytes(bytes, 0, bytes.length)) * SHARDS) / HASH_SLOTS) === shard) keys.push(key);
  }
  return keys;
}

/** Keys of pairs: both on one shard. */
export function pairKeys() {
  const pairs = [];
  for (let i = 0; pairs.length < PAIRS; i++) {
    const shard = i % SHARDS;
    const [left, right] = keysOn(shard, `pair:${i}:`, 2);
    pairs.push([left, right]);
  }
  return pairs;
}

export function stepKeys() {
  return Array.from({ length: SHARDS }, (_, shard) => keysOn(shard, `step:${shard}:`, 1)[0]);
}

export const fixedKey = (n) => `fix:${String(n).padStart(6, '0')}`;

class Checks {
  problems = [];
  counts = {};

  problem(text) {
    if (this.problems.length < 20) this.problems.push(text);
  }

  count(what, by = 1) {
    this.counts[what] = (this.counts[what] ?? 0) + by;
  }
}

/** Writes to keys of its own and sees its own writes. */
export class Writer extends Checks {
  constructor(db, { writer, seed, callers = 16, bytes = 400 }) {
    super();
    this.db = db;
    this.writer = writer;
    this.random = mulberry32(seed);
    this.callers = callers;
    this.bytes = bytes;
    this.generations = new Int32Array(KEYS_PER_WRITER);
  }

  async run(isOver) {
    const one = async (caller) => {
      while (!isOver()) {
        const n = caller + this.callers * Math.floor(this.random() * Math.floor(KEYS_PER_WRITER / this.callers));
        const key = `g:${this.writer}:${n}`;
        const generation = ++this.generations[n];
        await this.db.put(key, valueOf(key, generation, 30 + Math.floor(this.random() * this.bytes)));
        const seen = generationOf(key, this.db.getSync(key) ?? '');
        if (seen !== generation) this.problem(`${key}: its writer wrote ${generation} and reads ${seen}`);
        this.count('writes');
      }
    };
    await Promise.all(Array.from({ length: this.callers }, (_, caller) => one(caller)));
  }
}

/** Pairs by batch, steps in order over the shards. */
export class Weaver extends Checks {
  constructor(db, { seed }) {
    super();
    this.db = db;
    this.random = mulberry32(seed);
  }

  async run(isOver) {
    const pairs = pairKeys();
    const steps = stepKeys();
    const weave = async (from) => {
      for (let generation = 1; !isOver(); generation++) {
        const [left, right] = pairs[from + 4 * Math.floor(this.random() * (PAIRS / 4))];
        await this.db.batch([
          { type: 'put', key: left, value: valueOf(left, generation, 60) },
          { type: 'put', key: right, value: valueOf(right, generation, 60) },
        ]);
        this.count('batches');
      }
    };
    const step = async () => {
      for (let number = 1; !isOver(); number++) {
        for (const key of steps) await this.db.put(key, String(number));
        this.count('steps');
      }
    };
    await Promise.all([weave(0), weave(1), weave(2), weave(3), step()]);
  }
}

/** Point reads: whole values, generations that never go back. */
export class Reader extends Checks {
  constructor(db, { writers, seed }) {
    super();
    this.db = db;
    this.writers = writers;
    this.random = mulberry32(seed);
    this.seen = new Map();
  }

  async run(isOver, restMs = 0) {
    while (!isOver()) {
      const until = performance.now() + 2;
      while (performance.now() < until) {
        const writer = this.writers[Math.floor(this.random() * this.writers.length)];
        const key = `g:${writer}:${Math.floor(this.random() * KEYS_PER_WRITER)}`;
        const value = this.db.getSync(key);
        this.count('reads');
        const before = this.seen.get(key) ?? 0;
        if (value === undefined) {
          if (before > 0) this.problem(`${key} was at generation ${before} and is gone`);
          continue;
        }
        const generation = generationOf(key, value);
        if (generation === undefined) this.problem(`${key} is torn: ${value.slice(0, 60)}`);
        else if (generation < before) this.problem(`${key} went back from generation ${before} to ${generation}`);
        else this.seen.set(key, generation);
      }
      await new Promise((resolve) => setTimeout(resolve, restMs));
    }
  }
}

/** Snapshots: pairs are equal, steps are in order, what was acknowledged before is seen, reading twice gives the same. */
export class Photographer extends Checks {
  constructor(db, { seed }) {
    super();
    this.db = db;
    this.random = mulberry32(seed);
  }

  async run(isOver) {
    const { db } = this;
    const pairs = pairKeys();
    const steps = stepKeys();
    const own = keysOn(0, `own:${Math.floor(this.random() * 1e9)}:`, 1)[0];
    for (let turn = 1; !isOver(); turn++) {
      await db.put(own, String(turn));
      const snapshot = await db.snapshot();
      try {
        if (snapshot.getSync(own) !== String(turn))
          this.problem(`a snapshot misses what its opener had written before`);
        const [a, b, c] = steps.map((key) => Number(snapshot.getSync(key) ?? 0));
        if (!(a >= b && b >= c && c >= a - 1)) this.problem(`a snapshot shows steps ${a}, ${b}, ${c}`);
        const first = pairs.map(([left, right]) => [snapshot.getSync(left), snapshot.getSync(right)]);
        for (const [n, [left, right]] of first.entries()) {
          const [leftKey, rightKey] = pairs[n];
          const l = left === undefined ? 0 : generationOf(leftKey, left);
          const r = right === undefined ? 0 : generationOf(rightKey, right);
          if (l !== r || l === undefined)
            this.problem(`a snapshot shows half a batch: ${leftKey} ${l}, ${rightKey} ${r}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 1));
        const again = pairs.map(([left, right]) => [snapshot.getSync(left), snapshot.getSync(right)]);
        if (JSON.stringify(first) !== JSON.stringify(again)) this.problem('a snapshot read twice gives two states');
        this.count('snapshots');
      } finally {
        await snapshot.close();
      }
    }
  }
}

/** Iterators while others write: ordered, complete, one state. */
export class Walker extends Checks {
  constructor(db, { seed }) {
    super();
    this.db = db;
    this.random = mulberry32(seed);
  }

  async run(isOver) {
    while (!isOver()) {
      const reverse = this.random() < 0.5;
      const sync = this.random() < 0.3;
      let previous;
      let fixed = 0;
      const steps = new Map();
      const look = ([key, value]) => {
        if (previous !== undefined && (reverse ? key >= previous : key <= previous)) {
          this.problem(`an iterator lists ${key} behind ${previous}`);
        }
        previous = key;
        if (key.startsWith('fix:')) fixed++;
        else if (key.startsWith('step:')) steps.set(key.slice(0, 6), Number(value));
        else if (key.startsWith('g:') && generationOf(key, value) === undefined)
          this.problem(`an iterator shows ${key} torn`);
      };
      if (sync) for (const entry of this.db.iterateSync({ reverse })) look(entry);
      else for await (const entry of this.db.iterator({ reverse })) look(entry);
      if (fixed !== FIXED) this.problem(`an iterator lists ${fixed} of ${FIXED} entries that never change`);
      const [a, b, c] = ['step:0', 'step:1', 'step:2'].map((name) => steps.get(name) ?? 0);
      if (!(a >= b && b >= c && c >= a - 1)) this.problem(`an iterator shows steps ${a}, ${b}, ${c}`);
      this.count('walks');
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

const ROLES = { Writer, Weaver, Reader, Photographer, Walker };

/** Runs several roles in this thread until it is over; gives { problems, counts }. */
export async function play(db, roles, isOver) {
  const actors = roles.map(({ role, ...options }) => new ROLES[role](db, options));
  await Promise.all(actors.map((actor) => actor.run(isOver)));
  const counts = {};
  for (const actor of actors)
    for (const [what, n] of Object.entries(actor.counts)) counts[what] = (counts[what] ?? 0) + n;
  return { problems: actors.flatMap(({ problems }) => problems), counts };
}
