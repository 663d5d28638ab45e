/**
 * The dependencies of a history as a graph of moments. Every transaction has its moments, every dependency puts two of them in an order, and a history is what its levels
 * promise exactly if no moment comes before itself.
 *
 *   serializable      ●          one moment: all it reads and writes
 *   repeatable-read   S ─▶ C     it reads at S, it writes at C; what it writes over was written before S: the first committer wins
 *   read-committed    r ─▶ r ─▶ C    each read (a scan is one) at a moment of its own
 *
 *   ww   C of who wrote a version ─▶ C of who wrote the next one (S, where the first committer wins)
 *   wr   C of who wrote a version ─▶ the moment at which it was read
 *   rw   the moment at which a version was read ─▶ C of who wrote the next one
 *   rt   the last moment of what had ended ─▶ the first of what began after that
 *
 * So cycles with one rw edge, with several that are not adjacent, and write skew are told apart by the graph itself, and levels may be mixed. The check takes time
 * and memory in proportion to the edges. For rt edges there are barriers, one for each run of ends before a start: ends lead to their barrier, it to the next
 * one and to the starts behind it, which is O(n) edges where pairs would be O(n²).
 */
import { LevelCode, OP_JOINED, OP_SCAN, OP_WRITE } from './history.mjs';

export const Edge = { Ww: 1, Wr: 2, Rw: 4, Own: 8, RealTime: 16, Session: 32 };
/** With Rw or Wr: the read was a scan's. */
export const EDGE_PREDICATE = 64;

/**
 * @typedef {object} Graph
 * @property {number} nodeCount
 * @property {Int32Array} nodeTxns -1: a barrier
 * @property {(emit: EmitEdge) => void} forEachEdge
 */
/** @typedef {(from: number, to: number, kind: number, key: number, op: number) => void} EmitEdge key, op (of a read): -1 if none */

/**
 * @param {import('./history.mjs').History} history
 * @param {import('./versions.mjs').Versions} versions
 * @param {{ level?: number, realTime: boolean, sessions: boolean }} options level: instead of those of the transactions
 * @returns {Graph}
 */
export function graphOf(history, versions, { level, realTime, sessions }) {
  const { opFlags, opsBegin, levels } = history;
  const { isCommitted, opVersions, opTxns, writers, keys, successorsBegin, successors } = versions;
  const txnCount = history.length;
  const firstNodes = new Int32Array(txnCount + 1);
  const opNodes = new Int32Array(history.opCount).fill(-1);
  let nodeCount = 0;
  for (let txn = 0; txn < txnCount; txn++) {
    firstNodes[txn] = nodeCount;
    if (isCommitted[txn] === 0) continue;
    const txnLevel = level ?? levels.get(txn);
    let hasRead = false;
    for (let op = opsBegin.get(txn); op < opsBegin.get(txn + 1); op++) {
      const flags = opFlags.get(op);
      if ((flags & OP_WRITE) !== 0) continue;
      if (txnLevel === LevelCode.ReadCommitted && hasRead && (flags & OP_JOINED) === 0) nodeCount++;
      hasRead = true;
      opNodes[op] = nodeCount;
    }
    if (hasRead && txnLevel !== LevelCode.Serializable) nodeCount++;
    nodeCount++;
  }
  firstNodes[txnCount] = nodeCount;
  const txnNodeCount = nodeCount;
  const { barriers, barrierEnds, barrierStarts, barrierCount } = realTime ? barriersOf() : noBarriers();
  nodeCount += barrierCount;
  const nodeTxns = new Int32Array(nodeCount).fill(-1);
  for (let txn = 0; txn < txnCount; txn++) nodeTxns.fill(txn, firstNodes[txn], firstNodes[txn + 1]);
  const threadOrder = sessions ? bySession() : new Int32Array(0);
  return { nodeCount, nodeTxns, forEachEdge };

  /** @param {number} txn */
  function lastNode(txn) {
    return firstNodes[txn + 1] - 1;
  }

  /** Where what was written over leads to. @param {number} txn */
  function overwriteNode(txn) {
    return (level ?? levels.get(txn)) === LevelCode.ReadCommitted ? lastNode(txn) : firstNodes[txn];
  }

  /** @param {EmitEdge} emit */
  function forEachEdge(emit) {
    for (let txn = 0; txn < txnCount; txn++) {
      for (let node = firstNodes[txn] + 1; node < firstNodes[txn + 1]; node++) emit(node - 1, node, Edge.Own, -1, -1);
    }
    for (let version = 0; version < writers.length; version++) {
      const writer = writers[version];
      if (writer < 0) continue;
      for (let at = successorsBegin[version]; at < successorsBegin[version + 1]; at++) {
        const next = writers[successors[at]];
        if (next >= 0 && next !== writer) emit(lastNode(writer), overwriteNode(next), Edge.Ww, keys[version], -1);
      }
    }
    for (let op = 0; op < opVersions.length; op++) {
      const version = opVersions[op];
      if (version < 0) continue;
      const txn = opTxns[op];
      const predicate = (opFlags.get(op) & OP_SCAN) !== 0 ? EDGE_PREDICATE : 0;
      const writer = writers[version];
      if (writer >= 0 && writer !== txn) emit(lastNode(writer), opNodes[op], Edge.Wr | predicate, keys[version], op);
      for (let at = successorsBegin[version]; at < successorsBegin[version + 1]; at++) {
        const next = writers[successors[at]];
        if (next >= 0 && next !== txn) emit(opNodes[op], lastNode(next), Edge.Rw | predicate, keys[version], op);
      }
    }
    for (let barrier = 1; barrier < barrierCount; barrier++) {
      emit(txnNodeCount + barrier - 1, txnNodeCount + barrier, Edge.RealTime, -1, -1);
    }
    for (let index = 0; index < barriers.ended; index++) {
      const txn = barriers.byEnd[index];
      emit(lastNode(txn), txnNodeCount + barrierEnds[index], Edge.RealTime, -1, -1);
    }
    for (let index = 0; index < barrierStarts.length; index++) {
      if (barrierStarts[index] < 0) continue;
      emit(txnNodeCount + barrierStarts[index], firstNodes[barriers.byStart[index]], Edge.RealTime, -1, -1);
    }
    for (let index = 1; index < threadOrder.length; index++) {
      const [before, txn] = [threadOrder[index - 1], threadOrder[index]];
      if (history.threads.get(before) !== history.threads.get(txn)) continue;
      emit(lastNode(before), firstNodes[txn], Edge.Session, -1, -1);
    }
  }

  function noBarriers() {
    const none = new Int32Array(0);
    return {
      barriers: { byEnd: none, byStart: none, ended: 0 },
      barrierEnds: none,
      barrierStarts: none,
      barrierCount: 0,
    };
  }

  function committedTxns() {
    const txns = [];
    for (let txn = 0; txn < txnCount; txn++) if (isCommitted[txn] === 1) txns.push(txn);
    return Int32Array.from(txns);
  }

  function barriersOf() {
    const { array: starts } = history.starts;
    const { array: ends } = history.ends;
    const byStart = committedTxns().sort((a, b) => starts[a] - starts[b]);
    const byEnd = committedTxns().sort((a, b) => (ends[a] < ends[b] ? -1 : ends[a] > ends[b] ? 1 : 0));
    const ends_ = new Int32Array(byEnd.length);
    const starts_ = new Int32Array(byStart.length);
    let ended = 0;
    let count = 0;
    for (let index = 0; index < byStart.length; index++) {
      const before = ended;
      while (ended < byEnd.length && ends[byEnd[ended]] < starts[byStart[index]]) ends_[ended++] = count;
      if (ended > before) count++;
      starts_[index] = count - 1;
    }
    return { barriers: { byEnd, byStart, ended }, barrierEnds: ends_, barrierStarts: starts_, barrierCount: count };
  }

  /** A thread has one transaction after another. */
  function bySession() {
    const { array: starts } = history.starts;
    const { array: threads } = history.threads;
    return committedTxns().sort((a, b) => threads[a] - threads[b] || starts[a] - starts[b] || a - b);
  }
}

/** Adjacency in two arrays. @param {Graph} graph */
function adjacencyOf({ nodeCount, forEachEdge }) {
  const begin = new Int32Array(nodeCount + 1);
  forEachEdge((from) => begin[from + 1]++);
  for (let node = 0; node < nodeCount; node++) begin[node + 1] += begin[node];
  const next = begin.slice(0, nodeCount);
  const targets = new Int32Array(begin[nodeCount]);
  forEachEdge((from, to) => {
    targets[next[from]++] = to;
  });
  return { begin, targets };
}

/**
 * Tarjan's algorithm, without recursion. Of each node, the number of its component; 0: it is alone in it, on no cycle.
 * @param {number} nodeCount @param {Int32Array} begin @param {Int32Array} targets
 */
export function cyclicComponents(nodeCount, begin, targets) {
  const order = new Int32Array(nodeCount);
  const lows = new Int32Array(nodeCount);
  const isOpen = new Uint8Array(nodeCount);
  const at = begin.slice(0, nodeCount);
  const open = new Int32Array(nodeCount);
  const path = new Int32Array(nodeCount);
  const components = new Int32Array(nodeCount);
  let counter = 0;
  let openCount = 0;
  let componentCount = 0;
  for (let root = 0; root < nodeCount; root++) {
    if (order[root] !== 0) continue;
    let depth = 0;
    path[0] = root;
    order[root] = lows[root] = ++counter;
    open[openCount++] = root;
    isOpen[root] = 1;
    while (depth >= 0) {
      const node = path[depth];
      if (at[node] < begin[node + 1]) {
        const target = targets[at[node]++];
        if (order[target] === 0) {
          order[target] = lows[target] = ++counter;
          open[openCount++] = target;
          isOpen[target] = 1;
          path[++depth] = target;
        } else if (isOpen[target] === 1 && order[target] < lows[node]) lows[node] = order[target];
        continue;
      }
      depth--;
      if (depth >= 0 && lows[node] < lows[path[depth]]) lows[path[depth]] = lows[node];
      if (lows[node] !== order[node]) continue;
      const isAlone = open[openCount - 1] === node;
      if (!isAlone) componentCount++;
      for (let member = -1; member !== node;) {
        member = open[--openCount];
        isOpen[member] = 0;
        if (!isAlone) components[member] = componentCount;
      }
    }
  }
  return { components, componentCount };
}

/** @param {Graph} graph */
export function cyclesIn(graph) {
  const { begin, targets } = adjacencyOf(graph);
  return { edgeCount: targets.length, ...cyclicComponents(graph.nodeCount, begin, targets) };
}
