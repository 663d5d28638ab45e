/**
 * What the threads of the history tests do: transactions over few keys that everybody wants, through the public API, each recorded with what it saw.
 *
 * Keys come in groups of four that share a prefix, so that scans meet what others put. A group lives in a space of one of the engines; its keys are on several shards. A set of groups
 * is in use for a while, then others, so that lists stay short.
 *
 *   lists       a value is the list of the elements appended to it; who appends has read before. Two read-committed transactions that append to one key would lose an element, which that
 *               level allows: there, appends read for update, and optimistic ones only read.
 *   registers   a value is a number that nobody else writes; reads tell its version.
 */
import { History, LEVELS } from '../../support/history/history.mjs';
import { Tickets } from '../../support/history/tickets.mjs';
import { makeRandom } from '../../support/memory-random.mjs';

export const ENGINES = ['btree', 'hash', 'lsm', 'rbtree', 'memtable', 'array'];
export const KEYS_PER_GROUP = 4;
const MODES = ['optimistic', 'pessimistic'];
/** Of a commit: the transaction has certainly not happened. */
const FAILED = new Set([
  'ERR_CONFLICT',
  'ERR_DEADLOCK',
  'ERR_LOCK_TIMEOUT',
  'ERR_TRANSACTION_TIMEOUT',
  'ERR_TRANSACTION_CLOSED',
  'ERR_MEMORY_FULL',
]);
/** What a thread may tell its elements by. */
const ELEMENTS_PER_THREAD = 2 ** 26;

/**
 * @typedef {object} WorkloadOptions
 * @property {'list' | 'register'} kind
 * @property {import('../../support/history/history.mjs').Level | 'mixed'} level
 * @property {'optimistic' | 'pessimistic' | 'mixed'} mode
 * @property {number} callers of this thread
 * @property {number} thread
 * @property {number} seed
 * @property {SharedArrayBuffer} memory of the tickets
 * @property {number} firstGroup
 * @property {number} groups in use at a time
 * @property {number} ticketsPerSet
 * @property {string[]} engines
 */

/** The spaces that groups live in. */
export function spacesOf(db, engines) {
  return engines.map((engine) => db.space(`history-${engine}`, { engine, valueEncoding: 'binary' }));
}

export function prefixOf(group) {
  return `group${String(group).padStart(8, '0')}/`;
}

export function nameOf(key) {
  return `${prefixOf(Math.floor(key / KEYS_PER_GROUP))}${key % KEYS_PER_GROUP}`;
}

/** @param {string} name */
function keyOf(name) {
  return Number(name.slice(5, 13)) * KEYS_PER_GROUP + Number(name.slice(14));
}

/** A list as bytes; a register's value is a list of one. @param {number[]} list */
function encode(list) {
  const bytes = Buffer.allocUnsafe(list.length * 4);
  for (let index = 0; index < list.length; index++) bytes.writeUInt32LE(list[index], index * 4);
  return bytes;
}

/** @param {Uint8Array | undefined} value */
export function decode(value) {
  if (value === undefined) return [];
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  const list = [];
  for (let at = 0; at < bytes.length; at += 4) list.push(bytes.readUInt32LE(at));
  return list;
}

/**
 * Plays until the tickets say it is over.
 * @param {import('../../../dist/index.js').ConcordPool} db
 * @param {WorkloadOptions} options
 */
export async function play(db, options) {
  const { kind, callers, thread, firstGroup, groups, ticketsPerSet } = options;
  const tickets = new Tickets(options.memory);
  const history = new History(kind);
  const spaces = spacesOf(db, options.engines);
  const random = makeRandom(options.seed);
  for (let warm = 0; warm < 8; warm++) random();
  const below = (n) => random() % n;
  const counts = {};
  const count = (what) => (counts[what] = (counts[what] ?? 0) + 1);
  let elements = thread * ELEMENTS_PER_THREAD;
  const isList = kind === 'list';

  /** One transaction's own view. */
  class Player {
    /** @type {any[]} */
    ops = [];

    constructor(tx, level, isPessimistic) {
      this.tx = tx;
      this.level = level;
      this.isPessimistic = isPessimistic;
      this.mayWrite = !isList || isPessimistic || level !== 'read-committed';
    }

    async read(space, key, isForUpdate) {
      const own = this.tx.space(space);
      const name = nameOf(key);
      if (isForUpdate) {
        const list = decode(await own.getForUpdate(name));
        this.#see(key, list);
        return list;
      }
      const isSync = below(3) === 0;
      if (isList) {
        const list = decode(isSync ? own.getSync(name) : await own.get(name));
        this.#see(key, list);
        return list;
      }
      const entry = isSync ? own.getEntrySync(name) : await own.getEntry(name);
      const list = decode(entry?.value);
      this.#see(key, list, entry?.version);
      return list;
    }

    #see(key, list, version) {
      this.ops.push(isList ? ['r', key, list] : ['r', key, list[0] ?? 0, version ?? 0]);
    }

    async scan(space, group) {
      const prefix = prefixOf(group);
      const found = new Map();
      if (this.isPessimistic && below(4) === 0) await this.tx.space(space).lockRange({ prefix });
      for await (const [name, value] of this.tx.space(space).iterator({ prefix }))
        found.set(keyOf(name), decode(value));
      const rows = [];
      for (let key = group * KEYS_PER_GROUP; key < (group + 1) * KEYS_PER_GROUP; key++) {
        const list = found.get(key) ?? [];
        rows.push([key, isList ? list : (list[0] ?? 0)]);
      }
      this.ops.push(['s', rows]);
    }

    async write(space, key) {
      // Two that hold the same shared lock and both want to write are a deadlock: wanted now and then.
      const isForUpdate = this.isPessimistic && (this.level === 'read-committed' || below(4) > 0);
      const element = ++elements;
      let value = [element];
      if (isList) value = [...(await this.read(space, key, isForUpdate)), element];
      else if (below(2) === 0) await this.read(space, key, isForUpdate);
      const done = this.tx.space(space).put(nameOf(key), encode(value));
      // It need not be awaited.
      if (below(2) === 0) await done;
      this.ops.push([isList ? 'a' : 'w', key, element]);
    }

    async step() {
      const set = Math.floor(tickets.taken / ticketsPerSet);
      const group = firstGroup + set * groups + below(groups);
      const space = spaces[group % spaces.length];
      const key = group * KEYS_PER_GROUP + below(KEYS_PER_GROUP);
      const what = below(20);
      if (what < 7 || !this.mayWrite) await this.read(space, key, false);
      else if (what < 10) await this.scan(space, group);
      else if (what < 11) {
        const kept = this.ops.length;
        this.tx.savepoint('step');
        await this.write(space, key);
        this.tx.rollbackTo('step');
        // What it read stays read.
        this.ops = this.ops.filter((op, index) => index < kept || op[0] === 'r');
      } else await this.write(space, key);
    }
  }

  async function one() {
    const level = options.level === 'mixed' ? LEVELS[below(3)] : options.level;
    const mode = options.mode === 'mixed' ? MODES[below(2)] : options.mode;
    const start = tickets.take();
    const tx = db.begin({ isolation: level, mode, priority: below(3) });
    const player = new Player(tx, level, mode === 'pessimistic');
    let outcome = 'ok';
    let isCommitting = false;
    try {
      for (let steps = 1 + below(4); steps > 0; steps--) await player.step();
      if (below(33) === 0) {
        await tx.rollback();
        outcome = 'fail';
        count('rolled back');
      } else {
        isCommitting = true;
        await tx.commit();
        count('committed');
      }
    } catch (error) {
      if (error.code === undefined) throw error;
      count(
        `${isCommitting ? 'commit' : 'step'} ${error.code}${error.code === 'ERR_INTERNAL' ? ` ${error.message}` : ''}`,
      );
      const hasWritten = player.ops.some(([type]) => type === 'a' || type === 'w');
      outcome = isCommitting && hasWritten && !FAILED.has(error.code) ? 'info' : 'fail';
      await tx.rollback().catch((failure) => {
        if (failure.code === undefined) throw failure;
      });
      if (outcome === 'info') count('unknown');
    }
    const txn = { level, outcome, thread, start, end: tickets.take(), ops: player.ops };
    history.add(txn);
    tickets.count();
    return outcome;
  }

  async function caller() {
    let failures = 0;
    while (!tickets.isOver) {
      failures = (await one()) === 'ok' ? 0 : failures + 1;
      // Who loses leaves the others a moment; who only read has left nobody one.
      if (failures > 0) await new Promise((resolve) => setTimeout(resolve, below(2 ** Math.min(failures, 5))));
      else if (below(4) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  await Promise.all(Array.from({ length: callers }, caller));
  const { kind: ownKind, columns } = history.toParts();
  return { parts: { kind: ownKind, columns }, counts };
}
