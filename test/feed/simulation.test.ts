/**
 * A feed that follows the simulated store (test/txn/simulation), from token to token, over all lives of its process; which ends besides where it hurts feeds
 * most: when one shard has applied what others have not.
 *
 * - What each shard tells is the same, in the same order, however often the feed goes on from a token, and from whatever token.
 * - Every transaction that shows in an account is told once: each list of an account grows by one, up to the last.
 * - Whole: all changes of a transaction come in one unit.
 *
 *   FEED_SIMULATION_SEED=7      the first seed (default: any)
 *   FEED_SIMULATION_SEEDS=1000  so many (default 40)
 */
import { expect, test } from 'vitest';
import { feedLimitsOf } from '../../dist/actors/feed/feed-limits.js';
import { LogTail } from '../../dist/engines/feed/log-tail.js';
import { ShardFeed } from '../../dist/engines/feed/shard-feed.js';
import type { FeedPosition } from '../../dist/engines/feed/source.js';
import { StoreFeed } from '../../dist/engines/feed/store-feed.js';
import { Random } from '../../dist/shared/random.js';
import { simulate } from '../txn/simulation/simulation.js';
import { STORE_ID, type SimClient, type World } from '../txn/simulation/world.js';
import { ALL } from './scene.js';

const { FEED_SIMULATION_SEED, FEED_SIMULATION_SEEDS } = process.env;
const FIRST = Number(FEED_SIMULATION_SEED ?? Math.floor(Math.random() * 1e9));
const SEEDS = Number(FEED_SIMULATION_SEEDS ?? 40);
const PROCESS_ENDS_MAX = 4;
const EXPIRES_MS = 40;

interface Told {
  readonly shard: number;
  readonly key: string;
  readonly value: string;
  readonly seq: number;
}

type Unit = readonly Told[];

/** Where the feed has been, behind so many units. */
interface Place {
  readonly positions: readonly FeedPosition[];
  readonly units: number;
}

class Follower {
  readonly #random: Random;
  readonly units: Unit[] = [];
  readonly #places: Place[] = [];
  #positions: readonly FeedPosition[] | undefined;
  #processes = 0;
  #ends = 0;
  /** In the middle of something. */
  halfApplied = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  readonly follow = (world: World, client: SimClient): void => {
    const random = this.#random;
    if (world.processes !== this.#processes) {
      this.#processes = world.processes;
      this.look(world);
      this.#compare(world);
      return;
    }
    if (random.chance(0.05)) this.look(world);
    if (world.isCalm) return;
    if (random.chance(0.02)) {
      const shard = random.below(world.shards);
      const key = Buffer.from(`expiring-${random.below(4)}`);
      world.put(client, shard, key, 'x', 1, Date.now() + random.below(EXPIRES_MS)).catch(() => undefined);
    }
    if (this.#ends === PROCESS_ENDS_MAX || !isHalfApplied(world)) return;
    this.halfApplied++;
    if (random.chance(0.5)) this.look(world);
    if (!random.chance(0.1)) return;
    this.#ends++;
    // What expires meanwhile is removed by the next life.
    world.clock.nowMs += random.pick([0, 2 * EXPIRES_MS]);
    world.endProcess();
  };

  /** Goes on from where it was. */
  look(world: World): void {
    const feed = feedFrom(world, this.#positions);
    this.units.push(...unitsOf(world, feed));
    this.#positions = feed.positions;
    this.#places.push({ positions: feed.positions, units: this.units.length });
  }

  /** A feed from the beginning, and from places where it has been, against what it was told. */
  #compare(world: World): void {
    const from = [{ positions: undefined, units: 0 }, ...this.#places.slice(-3), this.#random.pick(this.#places)];
    for (const { positions, units } of from) {
      const told = unitsOf(world, feedFrom(world, positions));
      for (let shard = 0; shard < world.shards; shard++) {
        const isOf = (unit: Unit): boolean => unit.some((change) => change.shard === shard);
        expect(told.filter(isOf), `shard ${shard} from unit ${units}`).toEqual(this.units.slice(units).filter(isOf));
      }
    }
  }

  /** At the end. */
  judge(world: World): void {
    const unitOf = new Map<string, Unit>();
    const newest = new Map<string, Told>();
    for (const unit of this.units) {
      for (const change of unit) {
        const { key, value } = change;
        const number = numberOf(key, value);
        if (number === undefined) continue;
        expect(unitOf.get(number) ?? unit, `transaction ${number} comes in one unit`).toBe(unit);
        unitOf.set(number, unit);
        const before = newest.get(key);
        if (!isPair(key)) {
          const ids = idsOf(value);
          expect(ids.slice(0, -1), `${key} before ${number}`).toEqual(before === undefined ? [] : idsOf(before.value));
        } else expect(unit.filter((other) => isPair(other.key)).length, `the pair of ${number}`).toBe(2);
        newest.set(key, change);
      }
    }
    const client = world.clients.get(0) ?? world.addClient(0);
    for (const { shard, key, value } of newest.values())
      expect(client.find(shard, Buffer.from(key), Infinity).value, `${key} at the end`).toBe(value);
  }
}

function isHalfApplied(world: World): boolean {
  let isSo = false;
  world.control.commits.forEach(({ appliedLow, participantsLow }) => {
    isSo ||= appliedLow !== 0 && appliedLow !== participantsLow;
  });
  return isSo;
}

/** Of the transaction that wrote it; undefined: none did. */
function numberOf(key: string, value: string): string | undefined {
  if (!key.startsWith('key-')) return undefined;
  return isPair(key) ? value : String(idsOf(value).at(-1));
}

function isPair(key: string): boolean {
  return key.startsWith('key-') && Number(key.slice(4)) >= 8;
}

function idsOf(value: string): string[] {
  return value.split(';')[1]!.split(',');
}

function feedFrom(world: World, positions: readonly FeedPosition[] | undefined): StoreFeed {
  const shards = world.arenas.map((_, shard) => {
    const tail = new LogTail(world.disk, world.directoryOf(shard), STORE_ID, shard);
    return new ShardFeed(shard, tail, ALL, positions?.[shard] ?? tail.beginning());
  });
  return new StoreFeed(shards, undefined);
}

/** What comes now. */
function unitsOf(world: World, feed: StoreFeed): Unit[] {
  const limits = world.arenas.map((_, shard) => feedLimitsOf(world.control, shard, false));
  const units: Unit[] = [];
  for (;;) {
    const outcome = feed.next((shard) => limits[shard]!());
    if (outcome === 'more') continue;
    if (outcome !== 'ready') return units;
    const unit: Told[] = [];
    for (const part of feed.ready) {
      for (const { change } of part.changes()) {
        const { bytes, keyAt, keyLength, value, valueAt, valueLength, seq } = change;
        const key = bytes.toString('utf8', keyAt, keyAt + keyLength);
        unit.push({ shard: part.shard, key, value: value.toString('utf8', valueAt, valueAt + valueLength), seq });
      }
    }
    feed.done();
    units.push(unit);
  }
}

test(`a feed tells all that is committed in a simulated store, once, whole and in order, in ${SEEDS} seeds`, async () => {
  let units = 0;
  let halfApplied = 0;
  for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
    const follower = new Follower(seed);
    let last!: World;
    const { problem } = await simulate({
      seed,
      loss: 'process',
      follow: (world, client) => {
        last = world;
        follower.follow(world, client);
      },
    });
    const replay = `replay: FEED_SIMULATION_SEED=${seed} FEED_SIMULATION_SEEDS=1 npx vitest run test/feed/simulation.test.ts`;
    expect(problem, replay).toBeUndefined();
    try {
      follower.judge(last);
    } catch (error) {
      throw new Error(replay, { cause: error });
    }
    units += follower.units.length;
    halfApplied += follower.halfApplied;
  }
  expect(units).toBeGreaterThan(SEEDS);
  if (SEEDS >= 40) expect(halfApplied).toBeGreaterThan(0);
});
