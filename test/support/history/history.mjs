/**
 * A history: what a number of transactions did and saw, in columns. Threads record one each; merge() makes one of them.
 *
 *   transaction   { level, outcome, thread, start, end, ops }
 *     level       'read-committed' | 'repeatable-read' | 'serializable'
 *     outcome     'ok' committed · 'fail' certainly not · 'info' not known: it may have committed, or may yet
 *     start, end  points of time that all threads agree on, such as tickets of a shared counter. The first is taken before the transaction begins, the
 *                 second after its outcome is known.
 *   ops, of a history of lists (kind 'list'): a key holds a list, every element of a key is appended once
 *     ['r', key, list]                 a read; [] if the key is absent
 *     ['a', key, element]              the element is appended: by writing what was read and one more
 *     ['s', [[key, list], …]]          a scan: every key of its range, those that it did not show with []
 *   ops, of a history of registers (kind 'register'): every value of a key is written once; 0 stands for absent, as which a key begins
 *     ['r', key, value, version?]      with the number the store gave the version, if known
 *     ['w', key, value]
 *     ['s', [[key, value, version?], …]]
 *
 * Keys, elements and values are integers from 0 (elements, values: 1) to 2 ** 31 - 1. Keys should be dense. Lists are kept as nodes of a tree per key, in which a list is
 * the path from the root: so reads of a list cost four bytes each, however long it is, and two reads that disagree show as a fork.
 */
import { Column, PairMap } from './columns.mjs';

/** @typedef {'read-committed' | 'repeatable-read' | 'serializable'} Level */
/** @typedef {'ok' | 'fail' | 'info'} OutcomeName */
/** @typedef {['r', number, number[] | Uint32Array | number, number?] | ['a', number, number] | ['w', number, number] | ['s', [number, any, number?][]]} Op */
/** @typedef {{ level?: Level, outcome?: OutcomeName, thread?: number, start?: number, end?: number, ops: Op[] }} Txn */

/** @type {Level[]} */
export const LEVELS = ['read-committed', 'repeatable-read', 'serializable'];
/** @type {OutcomeName[]} */
export const OUTCOMES = ['ok', 'fail', 'info'];
export const LevelCode = { ReadCommitted: 0, RepeatableRead: 1, Serializable: 2 };
export const OutcomeCode = { Ok: 0, Fail: 1, Info: 2 };

/** Flags of an operation. */
export const OP_WRITE = 1;
/** A read by a scan. */
export const OP_SCAN = 2;
/** At the same moment as the operation before it. */
export const OP_JOINED = 4;

/** The lists of all keys; a list is the number of its last element's node, the empty list 0. */
export class ListTree {
  parents = new Column(Int32Array);
  elements = new Column(Int32Array);
  keys = new Column(Int32Array);
  depths = new Column(Int32Array);
  #firstChildren = new Column(Int32Array);
  #firstOfKeys = new Column(Int32Array);
  /** (parent, element) → node, of all children but the first. Children of the root of key k have the parent -1 - k. */
  #forks = new PairMap();

  constructor() {
    this.#push(0, 0, -1, 0);
  }

  get length() {
    return this.parents.length;
  }

  /** @param {number} parent @param {number} element @param {number} key @param {number} depth */
  #push(parent, element, key, depth) {
    this.parents.push(parent);
    this.elements.push(element);
    this.keys.push(key);
    this.depths.push(depth);
    this.#firstChildren.push(0);
    return this.length - 1;
  }

  /** The list with one element more; -1 if nobody has made it. @param {number} key @param {number} parent @param {number} element */
  find(key, parent, element) {
    const first = parent === 0 ? (this.#firstOfKeys.get(key) ?? 0) : this.#firstChildren.get(parent);
    if (first === 0) return -1;
    if (this.elements.get(first) === element) return first;
    return this.#forks.get(parent === 0 ? -1 - key : parent, element);
  }

  /** @param {number} key @param {number} parent @param {number} element */
  add(key, parent, element) {
    const found = this.find(key, parent, element);
    if (found >= 0) return found;
    const node = this.#push(parent, element, key, this.depths.get(parent) + 1);
    const first = parent === 0 ? (this.#firstOfKeys.get(key) ?? 0) : this.#firstChildren.get(parent);
    if (first !== 0) this.#forks.set(parent === 0 ? -1 - key : parent, element, node);
    else if (parent === 0) this.#firstOfKeys.set(key, node);
    else this.#firstChildren.set(parent, node);
    return node;
  }

  /** @param {number} key @param {ArrayLike<number>} list */
  addList(key, list) {
    let node = 0;
    for (let index = 0; index < list.length; index++) node = this.add(key, node, list[index]);
    return node;
  }

  /** @param {number} node */
  listOf(node) {
    const list = [];
    for (let at = node; at !== 0; at = this.parents.get(at)) list.push(this.elements.get(at));
    return list.reverse();
  }
}

export class History {
  levels = new Column(Uint8Array);
  outcomes = new Column(Uint8Array);
  threads = new Column(Int32Array);
  starts = new Column(Float64Array);
  ends = new Column(Float64Array);
  /** Of each transaction, where its operations begin; and where the last one's end. */
  opsBegin = new Column(Int32Array);
  opFlags = new Column(Uint8Array);
  opKeys = new Column(Int32Array);
  /** A list (reads), an element (appends), a value. */
  opValues = new Column(Int32Array);
  /** Registers only: the store's number of the version that was read, 0 if not known. */
  opVersions = new Column(Float64Array);
  tree = new ListTree();
  keyCount = 0;

  /** @param {'list' | 'register'} kind */
  constructor(kind) {
    this.kind = kind;
    this.opsBegin.push(0);
  }

  get length() {
    return this.levels.length;
  }

  get opCount() {
    return this.opKeys.length;
  }

  /** @param {Txn} txn @returns its number */
  add({ level = 'serializable', outcome = 'ok', thread = 0, start = 0, end = Infinity, ops }) {
    for (const op of ops) {
      if (op[0] === 's') {
        let flags = OP_SCAN;
        for (const [key, value, version] of op[1]) {
          this.#addRead(flags, key, value, version);
          flags = OP_SCAN | OP_JOINED;
        }
      } else if (op[0] === 'r') this.#addRead(0, op[1], op[2], op[3]);
      else this.#addOp(OP_WRITE, op[1], op[2], 0);
    }
    this.levels.push(LEVELS.indexOf(level));
    this.outcomes.push(OUTCOMES.indexOf(outcome));
    this.threads.push(thread);
    this.starts.push(start);
    this.ends.push(outcome === 'info' ? Infinity : end);
    this.opsBegin.push(this.opCount);
    return this.length - 1;
  }

  /** @param {number} flags @param {number} key @param {any} value @param {number | undefined} version */
  #addRead(flags, key, value, version) {
    this.#addOp(flags, key, this.kind === 'list' ? this.tree.addList(key, value) : value, version ?? 0);
  }

  /** @param {number} flags @param {number} key @param {number} value @param {number} version */
  #addOp(flags, key, value, version) {
    this.opFlags.push(flags);
    this.opKeys.push(key);
    this.opValues.push(value);
    if (this.kind === 'register') this.opVersions.push(version);
    if (key >= this.keyCount) this.keyCount = key + 1;
  }

  /** For postMessage; the buffers can be transferred. */
  toParts() {
    const { tree } = this;
    const columns = {
      levels: this.levels.take(),
      outcomes: this.outcomes.take(),
      threads: this.threads.take(),
      starts: this.starts.take(),
      ends: this.ends.take(),
      opsBegin: this.opsBegin.take(),
      opFlags: this.opFlags.take(),
      opKeys: this.opKeys.take(),
      opValues: this.opValues.take(),
      opVersions: this.opVersions.take(),
      nodeParents: tree.parents.take(),
      nodeElements: tree.elements.take(),
      nodeKeys: tree.keys.take(),
    };
    return { kind: this.kind, columns, transferList: Object.values(columns).map((column) => column.buffer) };
  }

  /** Adds all that another history recorded. @param {ReturnType<History['toParts']>} parts */
  addParts({ kind, columns }) {
    if (kind !== this.kind) throw new Error(`a history of ${kind}s cannot join one of ${this.kind}s`);
    const nodes = new Int32Array(columns.nodeParents.length);
    for (let node = 1; node < nodes.length; node++) {
      nodes[node] = this.tree.add(columns.nodeKeys[node], nodes[columns.nodeParents[node]], columns.nodeElements[node]);
    }
    for (let txn = 0; txn < columns.levels.length; txn++) {
      for (let op = columns.opsBegin[txn]; op < columns.opsBegin[txn + 1]; op++) {
        const flags = columns.opFlags[op];
        const isList = kind === 'list' && (flags & OP_WRITE) === 0;
        const value = columns.opValues[op];
        this.#addOp(flags, columns.opKeys[op], isList ? nodes[value] : value, columns.opVersions[op] ?? 0);
      }
      this.levels.push(columns.levels[txn]);
      this.outcomes.push(columns.outcomes[txn]);
      this.threads.push(columns.threads[txn]);
      this.starts.push(columns.starts[txn]);
      this.ends.push(columns.ends[txn]);
      this.opsBegin.push(this.opCount);
    }
  }

  /** One line for people. @param {number} txn */
  textOf(txn) {
    const ops = [];
    for (let op = this.opsBegin.get(txn); op < this.opsBegin.get(txn + 1); op++) {
      const flags = this.opFlags.get(op);
      const value = this.opValues.get(op);
      const key = `k${this.opKeys.get(op)}`;
      const version = this.kind === 'register' && this.opVersions.get(op) > 0 ? `@${this.opVersions.get(op)}` : '';
      if ((flags & OP_WRITE) !== 0) ops.push(this.kind === 'list' ? `append(${key}, ${value})` : `${key} := ${value}`);
      else {
        const shown = this.kind === 'list' ? `[${this.tree.listOf(value).join(' ')}]` : String(value);
        ops.push(`${(flags & OP_SCAN) !== 0 ? 'scan' : 'read'}(${key}) = ${shown}${version}`);
      }
    }
    const level = LEVELS[this.levels.get(txn)];
    const times = `${this.starts.get(txn)}–${this.ends.get(txn)}`;
    return `T${txn} (thread ${this.threads.get(txn)}, ${level}, ${OUTCOMES[this.outcomes.get(txn)]}, ${times}): ${ops.join(', ')}`;
  }
}
