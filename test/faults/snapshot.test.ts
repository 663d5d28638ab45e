/**
 * The snapshot protocol of src/actors/control-block.ts under interleavings that threads would show once in a million runs: three shards and
 * several openers in one thread, and before any access of any of them to shared memory the others may take their turn. Everything follows
 * from the seed.
 *
 *   SNAPSHOT_SEEDS=200   more runs (default 20)
 *   SNAPSHOT_SEED=7      one
 */
import { afterEach, expect, test } from 'vitest';
import { ControlBlock, ShardState } from '../../dist/actors/control-block.js';
import { Shard } from '../../dist/actors/shard/shard.js';
import { Durability, ShardStore } from '../../dist/engines/store/shard-store.js';
import { BTreeCursor } from '../../dist/engines/btree/cursor.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { createArena } from '../../dist/shared/memory/arena.js';
import { createRing } from '../../dist/shared/memory/ring.js';
import { Random } from '../../dist/shared/random.js';
import { STORE_ID, applied, fingerprint, readState, stateText } from '../support/store-scene.js';
import type { Operation, State } from '../support/store-scene.js';
import { Client } from '../support/store-shard.js';

const { SNAPSHOT_SEEDS, SNAPSHOT_SEED } = process.env;
const SEEDS =
  SNAPSHOT_SEED === undefined
    ? Array.from({ length: Number(SNAPSHOT_SEEDS ?? 20) }, (_, index) => index + 1)
    : [Number(SNAPSHOT_SEED)];
const SHARDS = 3;
const TURNS = 700;
const OPEN_MAX = 6;
/** How deep turns are nested: an opener in the middle of a group in the middle of an opener. */
const DEPTH_MAX = 3;
/** Turns taken in the middle of one, so that runs stay short. */
const NESTED_MAX = 8;
/** An opener looks at few words; it must be interrupted often for every place to have its turn. */
const OPENER_CHANCE = 0.15;
const SHARD_CHANCE = 0.01;

const ATOMICS = ['load', 'store', 'add', 'sub', 'compareExchange', 'exchange'] as const;
const originals = new Map(ATOMICS.map((name) => [name, Atomics[name]]));

/** Calls `turn` before each atomic access, until restored. */
function interleave(turn: () => void): void {
  for (const name of ATOMICS) {
    const original = originals.get(name) as (...args: unknown[]) => unknown;
    Object.assign(Atomics, {
      [name]: (...args: unknown[]) => {
        turn();
        return original(...args);
      },
    });
  }
}

function restore(): void {
  for (const [name, original] of originals) Object.assign(Atomics, { [name]: original });
}
afterEach(restore);

interface Group {
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly state: State;
}

interface OpenSnapshot {
  readonly slot: number;
  readonly sequence: number;
  readonly client: number;
  /** What each shard must show at its number, for as long as it is open. */
  readonly states: readonly string[];
}

class ShardSide {
  readonly groups: Group[] = [{ firstSeq: 0, lastSeq: 0, state: new Map() }];
  readonly client: Client;
  readonly shard: Shard;
  isBusy = false;

  constructor(control: ControlBlock, index: number) {
    const arena = createArena({ memoryBytes: 4 << 20 });
    const store = ShardStore.open({
      env: new MemEnv(),
      directory: undefined,
      storeId: STORE_ID,
      shard: index,
      arena,
      spaces: [{ id: 0, engine: 'btree', tuning: { order: 5 } }],
    });
    this.shard = new Shard(index, store, control);
    control.setShardState(index, ShardState.Running);
    const requests = createRing(1 << 16);
    const responses = createRing(1 << 14);
    this.client = new Client(index, requests, responses);
    this.shard.attach(index, requests, responses);
  }

  /** One group; the shard takes it at once. */
  commit(operations: readonly Operation[]): void {
    this.isBusy = true;
    for (const operation of operations) {
      if (operation.kind === 'put') void this.client.put(operation.key, operation.value, { level: Durability.Memory });
      else if (operation.kind === 'del') void this.client.del(operation.key, { level: Durability.Memory });
    }
    this.client.link.publish();
    this.shard.step();
    this.client.link.settle();
    const lastSeq = this.shard.store.publishedSeq;
    const before = this.groups.at(-1)!;
    if (lastSeq <= before.lastSeq)
      throw new Error(`shard ${this.shard.index} published ${lastSeq} after ${before.lastSeq}`);
    const firstSeq = lastSeq - operations.length + 1;
    this.groups.push({ firstSeq, lastSeq, state: applied(before.state, operations) });
    this.isBusy = false;
  }

  sweep(): void {
    this.isBusy = true;
    if (!this.shard.hasWork) void this.shard.compactions.run();
    this.shard.idle();
    this.isBusy = false;
  }

  stateAt(sequence: number): State {
    return this.groups.findLast((group) => group.lastSeq <= sequence)!.state;
  }
}

class World {
  readonly control = ControlBlock.create(SHARDS);
  readonly sides: ShardSide[];
  readonly openers: ControlBlock[];
  readonly open: OpenSnapshot[] = [];
  opening = 0;
  opened = 0;
  /** Turns taken in the middle of something else. */
  nested = 0;
  readonly problems: string[] = [];
  /** Off while the test itself reads. */
  isInterleaving = false;
  readonly #random: Random;
  #depth = 0;
  #budget = 0;
  /** Openers go on by themselves, outside of any turn. */
  #chance = OPENER_CHANCE;
  #number = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.control.nextSequence = 1;
    // As in threads: everyone has a view of their own.
    this.sides = Array.from({ length: SHARDS }, (_, index) => new ShardSide(new ControlBlock(this.control.sab), index));
    this.openers = Array.from({ length: 4 }, () => new ControlBlock(this.control.sab));
  }

  readonly maybeTurn = (): void => {
    if (!this.isInterleaving || this.#depth >= DEPTH_MAX || this.#budget <= 0 || !this.#random.chance(this.#chance))
      return;
    for (let turns = this.#random.between(1, 3); turns > 0 && this.#budget > 0; turns--) {
      this.#budget--;
      this.nested++;
      this.#turn();
    }
  };

  turn(): void {
    this.#budget = NESTED_MAX;
    this.#turn();
  }

  #turn(): void {
    this.#depth++;
    const chance = this.#chance;
    this.#chance = SHARD_CHANCE;
    const dice = this.#random.below(100);
    const side = this.#random.pick(this.sides);
    if (dice < 60) {
      if (!side.isBusy) side.commit(this.#operations());
    } else if (dice < 80) {
      this.#chance = OPENER_CHANCE;
      this.#open();
    } else if (dice < 90) this.#close();
    else if (!side.isBusy) side.sweep();
    this.#chance = chance;
    this.#depth--;
  }

  #operations(): Operation[] {
    const random = this.#random;
    return Array.from({ length: random.pick([1, 2, 3, 10]) }, (): Operation => {
      const key = `k${random.below(6)}`;
      return random.below(4) === 0
        ? { kind: 'del', key }
        : { kind: 'put', key, value: Buffer.from(`value ${++this.#number}`) };
    });
  }

  #open(): void {
    if (this.opening + this.open.length >= OPEN_MAX) return;
    this.opening++;
    const client = this.#random.below(this.openers.length);
    // What was acknowledged before must be seen.
    const acknowledged = this.sides.map((side) => side.groups.at(-1)!.lastSeq);
    void this.openers[client]!.openSnapshot(client).then(({ slot, sequence }) => {
      this.opening--;
      this.opened++;
      this.sides.forEach((side, shard) => {
        if (acknowledged[shard]! > sequence) {
          this.problems.push(
            `snapshot ${sequence} misses group ${acknowledged[shard]} of shard ${shard}, which was acknowledged before`,
          );
        }
        const half = side.groups.find((group) => group.firstSeq <= sequence && sequence < group.lastSeq);
        if (half !== undefined)
          this.problems.push(`snapshot ${sequence} sees half of ${half.firstSeq}–${half.lastSeq} of shard ${shard}`);
      });
      const states = this.sides.map((side) => stateText(side.stateAt(sequence)));
      const snapshot = { slot, sequence, client, states };
      this.open.push(snapshot);
      this.verify(snapshot, 'when it was opened');
    });
  }

  #close(): void {
    const snapshot = this.open.length === 0 ? undefined : this.open.splice(this.#random.below(this.open.length), 1)[0];
    if (snapshot !== undefined) this.openers[snapshot.client]!.closeSnapshot(snapshot.slot, snapshot.client);
  }

  /** Reads at its number, by cursor, whatever the writers are doing. */
  verify(snapshot: OpenSnapshot, when: string): void {
    const before = this.isInterleaving;
    this.isInterleaving = false;
    this.sides.forEach((side, shard) => {
      const found = stateText(readState(side.shard.store, snapshot.sequence));
      if (found === snapshot.states[shard]) return;
      this.problems.push(
        `shard ${shard} at ${snapshot.sequence} ${when} shows\n  ${found}\ninstead of\n  ${snapshot.states[shard]}`,
      );
    });
    this.isInterleaving = before;
  }
}

test.each(SEEDS)(
  'a snapshot never misses, half-sees or loses a group, however its opening falls between them (seed %i)',
  async (seed) => {
    const world = new World(seed);
    const replay = `replay: SNAPSHOT_SEED=${seed} npx vitest run test/faults/snapshot.test.ts`;
    interleave(world.maybeTurn);
    try {
      world.isInterleaving = true;
      for (let turn = 0; turn < TURNS && world.problems.length === 0; turn++) {
        world.turn();
        // Openers that wait go on; some turns come before that.
        if (turn % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
        for (const snapshot of world.open) world.verify(snapshot, `after turn ${turn}`);
      }
      world.isInterleaving = false;
      for (let wait = 0; wait < 50 && world.opening > 0; wait++) await new Promise((resolve) => setImmediate(resolve));
    } finally {
      restore();
    }
    expect(world.problems.join('\n'), replay).toBe('');
    expect(world.opening, replay).toBe(0);
    expect(world.opened).toBeGreaterThan(TURNS / 20);
    expect(world.nested).toBeGreaterThan(TURNS / 20);
    for (const { shard } of world.sides) expect(shard.store.tree.check(), replay).toEqual([]);
    // With the last snapshot gone, so is everything that was kept for it.
    for (const { slot, client } of world.open) world.openers[client]!.closeSnapshot(slot, client);
    for (const side of world.sides) {
      for (let pass = 0; pass < 4; pass++) {
        side.sweep();
        while (side.shard.idle());
      }
      const { cells, liveEntries } = side.shard.store.tree.counts();
      expect(cells, replay).toBe(liveEntries);
      expect(liveEntries).toBe(side.groups.at(-1)!.state.size);
    }
  },
);

test('a cursor that stands on an old version goes on over writes and sweeps', () => {
  const control = ControlBlock.create(1);
  control.nextSequence = 1;
  const side = new ShardSide(control, 0);
  const keys = Array.from({ length: 300 }, (_, i) => `key-${String(i).padStart(3, '0')}`);
  for (const key of keys) side.commit([{ kind: 'put', key, value: Buffer.from(`old ${key}`) }]);
  const { slot, sequence } = control.openSnapshotSync(0);
  const expected = readState(side.shard.store);
  const { store } = side.shard;
  const seen = new Map<string, string>();
  let low = Buffer.alloc(0);
  // Chunk by chunk, as an iterator does: each chunk starts anew behind the last key, at the snapshot's number.
  for (let round = 0; seen.size < keys.length; round++) {
    const cursor = new BTreeCursor(store.arena, 0, 0);
    cursor.seek(store.arena.published(), low, low.length, sequence, false, 0);
    for (let i = 0; i < 17 && cursor.valid; i++, cursor.next()) {
      const key = Buffer.alloc(cursor.keyLength);
      cursor.copyKey(key, 0);
      seen.set(key.toString(), fingerprint(cursor.copyValue()));
      low = Buffer.concat([key, Buffer.from([0])]);
    }
    for (const key of keys.filter((_, i) => i % 3 === round % 3)) {
      side.commit([round % 2 === 0 ? { kind: 'del', key } : { kind: 'put', key, value: Buffer.from(`new ${round}`) }]);
    }
    side.sweep();
  }
  expect(stateText(seen)).toBe(stateText(expected));
  expect(stateText(readState(store, sequence))).toBe(stateText(expected));
  expect(stateText(readState(store))).toBe(stateText(side.groups.at(-1)!.state));
  control.closeSnapshot(slot, 0);
  expect(store.tree.check()).toEqual([]);
});
