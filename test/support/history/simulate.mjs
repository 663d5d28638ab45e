/**
 * Histories of an imagined store in one thread: multi-version, with tickets for time, and faults that can be switched on. What it records without a fault is clean at the
 * level; what it records with one shows what the checker finds. Everything follows from the seed.
 */
import { makeRandom } from '../memory-random.mjs';
import { History, LEVELS } from './history.mjs';

export const FAULTS = {
  /** Reads show what others have written and not committed. */
  'dirty-reads': ['read-committed', 'repeatable-read', 'serializable'],
  /** Some transactions that failed leave what they wrote. */
  'aborts-stay': ['read-committed', 'repeatable-read', 'serializable'],
  /** A commit shows key by key. */
  'torn-commits': ['read-committed', 'repeatable-read', 'serializable'],
  /** Some commits are answered and forgotten. */
  'lost-commits': ['read-committed', 'repeatable-read', 'serializable'],
  /** Some transactions begin in a state of the past. */
  'stale-starts': ['repeatable-read'],
  /** Each read shows the newest state. */
  'no-snapshots': ['repeatable-read'],
  /** Nobody looks whether another has written the key since. */
  'no-first-committer': ['repeatable-read'],
  /** Commits do not look at what was read. */
  'no-validation': ['serializable'],
  /** Commits do not look at what was scanned. */
  'no-ranges': ['serializable'],
};

const KEYS_PER_GROUP = 4;
const GROUPS = 3;
/** A group of keys is used until one of its lists is so long. */
const LIST_LENGTH_MAX = 16;

/**
 * @param {{ seed: number, txns: number, level: import('./history.mjs').Level | 'mixed', fault?: keyof typeof FAULTS, concurrency?: number }} options
 * @returns {{ txns: import('./history.mjs').Txn[], lists: number[][] }} lists: of each key, at the end
 */
export function simulate({ seed, txns: txnCount, level, fault, concurrency = 6 }) {
  const next = makeRandom(seed);
  for (let warm = 0; warm < 8; warm++) next();
  const below = (n) => next() % n;
  const chance = (part) => next() / 2 ** 32 < part;
  let clock = 0;
  let elements = 0;
  /** Of each key, its versions: { at, list }, oldest first. */
  const keys = [];
  /** Locks of read-committed transactions: key → transaction. */
  const locks = new Map();
  const groups = [];
  const newGroup = () => {
    const first = keys.length;
    for (let key = 0; key < KEYS_PER_GROUP; key++) keys.push([{ at: 0, list: [] }]);
    return first;
  };
  for (let group = 0; group < GROUPS; group++) groups.push(newGroup());
  /** @type {any[]} */
  const done = [];
  const running = [];
  /** Commits that still show one key after the other. */
  const torn = [];

  function begin(thread) {
    const own = level === 'mixed' ? LEVELS[below(3)] : level;
    return {
      level: own,
      thread,
      start: ++clock,
      ops: [],
      stepsLeft: 1 + below(5),
      reads: new Map(),
      scanned: new Set(),
      own: new Map(),
      at: 0,
    };
  }

  function newest(key) {
    return keys[key].at(-1).list;
  }

  /** A read as the transaction must see it. */
  function read(txn, key) {
    if (txn.own.has(key)) return txn.own.get(key);
    if (fault === 'dirty-reads' && chance(0.05)) {
      for (const other of running) if (other !== txn && other.own.has(key)) return other.own.get(key);
    }
    if (txn.level === 'read-committed' || fault === 'no-snapshots') return newest(key);
    if (txn.at === 0) txn.at = fault === 'stale-starts' && chance(0.1) ? Math.max(1, clock - 60) : ++clock;
    return keys[key].findLast(({ at }) => at <= txn.at).list;
  }

  function see(txn, key, list, isScan) {
    if (!txn.own.has(key) && !txn.reads.has(key)) txn.reads.set(key, list);
    if (isScan) txn.scanned.add(key);
    else txn.scanned.delete(key);
  }

  /** false: it has to give up. */
  function step(txn) {
    const first = groups[below(GROUPS)];
    const key = first + below(KEYS_PER_GROUP);
    const kind = below(10);
    if (kind < 4) {
      const list = read(txn, key);
      see(txn, key, list, false);
      txn.ops.push(['r', key, list]);
    } else if (kind < 6) {
      const rows = [];
      for (let one = first; one < first + KEYS_PER_GROUP; one++) {
        const list = read(txn, one);
        const isKnown = txn.reads.has(one) && !txn.scanned.has(one);
        if (!isKnown) see(txn, one, list, true);
        rows.push([one, list]);
      }
      txn.ops.push(['s', rows]);
    } else {
      if (txn.level === 'read-committed') {
        // As one that reads for update.
        if ((locks.get(key) ?? txn) !== txn) return false;
        locks.set(key, txn);
      }
      const list = read(txn, key);
      see(txn, key, list, false);
      txn.ops.push(['r', key, list]);
      const element = ++elements;
      txn.ops.push(['a', key, element]);
      txn.own.set(key, [...list, element]);
    }
    return true;
  }

  function isValid(txn) {
    if (txn.level === 'read-committed') return true;
    for (const key of txn.own.keys()) {
      if (locks.has(key)) return false;
      const isFirst = txn.at === 0 || keys[key].at(-1).at <= txn.at;
      if (txn.level === 'repeatable-read' && fault !== 'no-first-committer' && !isFirst) return false;
    }
    if (txn.level !== 'serializable') return true;
    for (const [key, list] of txn.reads) {
      if (fault === 'no-validation' && !txn.own.has(key)) continue;
      if (fault === 'no-ranges' && txn.scanned.has(key) && !txn.own.has(key)) continue;
      if (newest(key).length !== list.length) return false;
    }
    return true;
  }

  function apply(txn) {
    const at = ++clock;
    for (const [key, list] of txn.own) keys[key].push({ at, list });
    groups.forEach((first, group) => {
      for (let key = first; key < first + KEYS_PER_GROUP; key++) {
        if (newest(key).length >= LIST_LENGTH_MAX) groups[group] = newGroup();
      }
    });
  }

  function applyTorn(txn) {
    const [[key, list], ...rest] = txn.own;
    keys[key].push({ at: ++clock, list });
    torn.push({ txn, rest });
  }

  function finish(txn, outcome) {
    for (const [key, holder] of locks) if (holder === txn) locks.delete(key);
    running.splice(running.indexOf(txn), 1);
    const { level: own, thread, start, ops } = txn;
    done.push({ level: own, thread, start, ops, outcome, end: outcome === 'info' ? Infinity : ++clock });
  }

  function commit(txn) {
    if (chance(0.03) || !isValid(txn)) {
      if (fault === 'aborts-stay' && txn.own.size > 0 && chance(0.5) && isValid(txn)) apply(txn);
      finish(txn, 'fail');
      return;
    }
    const isUnknown = chance(0.02);
    const isLost = fault === 'lost-commits' && chance(0.02);
    if (txn.own.size > 0 && !isLost && !(isUnknown && chance(0.5))) {
      if (fault === 'torn-commits' && txn.own.size > 1 && chance(0.3)) {
        applyTorn(txn);
        return;
      }
      apply(txn);
    }
    finish(txn, isUnknown ? 'info' : 'ok');
  }

  while (done.length < txnCount) {
    while (running.length < concurrency) {
      const used = new Set(running.map(({ thread }) => thread));
      let thread = 0;
      while (used.has(thread)) thread++;
      running.push(begin(thread));
    }
    if (torn.length > 0 && chance(0.1)) {
      const { txn, rest } = torn.shift();
      for (const [key, list] of rest) keys[key].push({ at: ++clock, list });
      finish(txn, 'ok');
      continue;
    }
    const txn = running[below(running.length)];
    if (torn.some((one) => one.txn === txn)) continue;
    if (txn.stepsLeft-- === 0) commit(txn);
    else if (!step(txn)) finish(txn, 'fail');
  }
  // What is at the end, by transactions that begin when all others are over.
  for (const { txn, rest } of torn) {
    for (const [key, list] of rest) keys[key].push({ at: ++clock, list });
    finish(txn, 'ok');
  }
  const start = ++clock;
  const own = level === 'mixed' ? 'serializable' : level;
  for (let key = 0; key < keys.length; key += KEYS_PER_GROUP) {
    const rows = [];
    for (let one = key; one < key + KEYS_PER_GROUP; one++) rows.push([one, newest(one)]);
    done.push({ level: own, thread: 0, start, ops: [['s', rows]], outcome: 'ok', end: ++clock });
  }
  return { txns: done, lists: keys.map((_, key) => newest(key)) };
}

/** @param {'list' | 'register'} kind @param {import('./history.mjs').Txn[]} txns */
export function historyOf(kind, txns) {
  const history = new History(kind);
  for (const txn of txns) history.add(txn);
  return history;
}
