/**
 * Names for cycles. Within each component of the graph that has cycles, a shortest one is looked for through the edges of each kind, from the gravest on:
 *
 *   G0             ww edges only (dirty write)                   G1c   ww and wr edges (circular information flow)
 *   one rw edge:   lost-update     the other edges are ww of the same key (P4)
 *                  OTV             the transaction saw the other one's writes first, and later missed some (observed transaction vanishes)
 *                  PMP             both by scans: what a predicate matches came or went (predicate-many-preceders)
 *                  G-single        any other (read skew)
 *   more of them:  G2              one of them is a scan's (phantom)
 *                  G-nonadjacent   no two follow one another (long fork): repeatable-read excludes these, too
 *                  G2-item         any other (write skew)
 *
 *   …-realtime, …-session          the cycle needs the order of time, or of the thread (stale read and its like); with more than one rw edge it is a causal reverse,
 *                                  which only strict histories exclude
 */
import { EDGE_PREDICATE, Edge, cyclicComponents } from './graph.mjs';

/** Cycles looked for per name group and component; visited nodes per search. */
const SEEDS_MAX = 200;
const VISITED_MAX = 200_000;

const ITEM = Edge.Ww | Edge.Wr | Edge.Own;
const TIME = Edge.RealTime | Edge.Session;

/** @typedef {{ from: number, to: number, kind: number, key: number, op: number }} CycleEdge */

/**
 * @param {import('./history.mjs').History} history
 * @param {import('./graph.mjs').Graph} graph
 * @param {{ components: Int32Array, componentCount: number }} cyclic
 * @param {import('./findings.mjs').Findings} findings
 * @param {boolean} isStrict
 */
export function nameCycles(history, graph, { components, componentCount }, findings, isStrict) {
  if (componentCount === 0) return;
  /** @type {CycleEdge[][]} */
  const edgesOf = Array.from({ length: componentCount + 1 }, () => []);
  graph.forEachEdge((from, to, kind, key, op) => {
    if (components[from] !== 0 && components[from] === components[to]) {
      edgesOf[components[from]].push({ from, to, kind, key, op });
    }
  });
  for (let component = 1; component <= componentCount; component++) {
    const scene = new Scene(history, graph.nodeTxns, edgesOf[component], findings);
    // Cycles that need time are only news where there are none without.
    if (!scene.search(0)) scene.search(TIME, isStrict);
  }
}

class Scene {
  #history;
  #nodeTxns;
  #edges;
  #findings;
  /** Node of the graph → of this component. */
  #locals = new Map();
  /** @type {number[][]} of each node, its edges' indexes */
  #out = [];
  #seen = new Set();

  constructor(history, nodeTxns, edges, findings) {
    this.#history = history;
    this.#nodeTxns = nodeTxns;
    this.#edges = edges;
    this.#findings = findings;
    const local = (node) => {
      let found = this.#locals.get(node);
      if (found === undefined) {
        this.#locals.set(node, (found = this.#locals.size));
        this.#out.push([]);
      }
      return found;
    };
    edges.forEach((edge, index) => {
      local(edge.to);
      this.#out[local(edge.from)].push(index);
    });
  }

  /** Whether cycles were found. @param {number} extra kinds of edges allowed, one of which each cycle must have @param {boolean} isStrict also with several rw edges */
  search(extra, isStrict = true) {
    let found = this.#cyclesThrough(Edge.Ww, Edge.Ww | Edge.Own | extra, extra);
    found = this.#cyclesThrough(Edge.Wr, ITEM | extra, extra) || found;
    found = this.#cyclesThrough(Edge.Rw, ITEM | extra, extra) || found;
    if (!isStrict) return found;
    return this.#cyclesThrough(Edge.Rw, ITEM | Edge.Rw | extra, extra) || found;
  }

  #cyclesThrough(seedKind, allowed, extra) {
    const components = this.#componentsOf(allowed | seedKind);
    let seeds = 0;
    let found = false;
    for (const edge of this.#edges) {
      if ((edge.kind & seedKind) === 0) continue;
      const component = components[this.#locals.get(edge.from)];
      if (component === 0 || component !== components[this.#locals.get(edge.to)]) continue;
      if (++seeds > SEEDS_MAX) break;
      const path = this.#shortest(edge.to, edge.from, allowed);
      if (path === undefined) continue;
      const cycle = [edge, ...path];
      if (extra !== 0 && !cycle.some(({ kind }) => (kind & extra) !== 0)) continue;
      // Several rw edges are looked for; with one, it has been found before.
      const isSingle = cycle.filter(({ kind }) => (kind & Edge.Rw) !== 0).length < 2;
      if ((allowed & Edge.Rw) !== 0 && isSingle) continue;
      found = true;
      this.#report(cycle);
    }
    return found;
  }

  #componentsOf(allowed) {
    const nodeCount = this.#out.length;
    const begin = new Int32Array(nodeCount + 1);
    const targets = [];
    this.#out.forEach((indexes, node) => {
      for (const index of indexes) {
        const { kind, to } = this.#edges[index];
        if ((kind & allowed) !== 0) targets.push(this.#locals.get(to));
      }
      begin[node + 1] = targets.length;
    });
    return cyclicComponents(nodeCount, begin, Int32Array.from(targets)).components;
  }

  /** Breadth first. @returns {CycleEdge[] | undefined} */
  #shortest(from, to, allowed) {
    const source = this.#locals.get(from);
    const target = this.#locals.get(to);
    /** Node → the edge by which it was reached. */
    const reached = new Map([[source, -1]]);
    const queue = [source];
    for (let head = 0; head < queue.length && !reached.has(target) && queue.length < VISITED_MAX; head++) {
      for (const index of this.#out[queue[head]]) {
        const edge = this.#edges[index];
        if ((edge.kind & allowed) === 0) continue;
        const next = this.#locals.get(edge.to);
        if (reached.has(next)) continue;
        reached.set(next, index);
        queue.push(next);
      }
    }
    if (!reached.has(target)) return undefined;
    const path = [];
    for (let node = target; node !== source;) {
      const edge = this.#edges[/** @type {number} */ (reached.get(node))];
      path.push(edge);
      node = this.#locals.get(edge.from);
    }
    return path.reverse();
  }

  /** @param {CycleEdge[]} cycle */
  #report(cycle) {
    // Moments of one transaction are one in what is told.
    const steps = cycle.filter(({ kind }) => kind !== Edge.Own);
    const name = nameOf(steps, this.#nodeTxns);
    const txns = [...new Set(steps.map(({ from }) => this.#nodeTxns[from]).filter((txn) => txn >= 0))];
    const signature = `${name} ${[...txns].sort((a, b) => a - b).join(' ')}`;
    if (this.#seen.has(signature)) return;
    this.#seen.add(signature);
    const labelOf = (node) => (this.#nodeTxns[node] < 0 ? '·' : `T${this.#nodeTxns[node]}`);
    const arrows = steps.map(
      ({ from, kind, key }) => `${labelOf(from)} –${kindName(kind)}${key < 0 ? '' : ` k${key}`}→ `,
    );
    const picture = `${arrows.join('')}${labelOf(steps[steps.length - 1].to)}`;
    this.#findings.add(name, txns, [picture, ...txns.map((txn) => `  ${this.#history.textOf(txn)}`)].join('\n'));
  }
}

/** @param {number} kind */
function kindName(kind) {
  const predicate = (kind & EDGE_PREDICATE) !== 0 ? '(scan)' : '';
  if ((kind & Edge.Ww) !== 0) return 'ww';
  if ((kind & Edge.Wr) !== 0) return `wr${predicate}`;
  if ((kind & Edge.Rw) !== 0) return `rw${predicate}`;
  return (kind & Edge.RealTime) !== 0 ? 'time' : 'thread';
}

/** @param {CycleEdge[]} steps @param {Int32Array} nodeTxns */
function nameOf(steps, nodeTxns) {
  const kinds = steps.reduce((all, { kind }) => all | kind, 0);
  const suffix = (kinds & Edge.RealTime) !== 0 ? '-realtime' : (kinds & Edge.Session) !== 0 ? '-session' : '';
  const rwCount = steps.filter(({ kind }) => (kind & Edge.Rw) !== 0).length;
  if (rwCount === 0) return ((kinds & Edge.Wr) !== 0 ? 'G1c' : 'G0') + suffix;
  return (rwCount === 1 ? singleName(steps, nodeTxns) : severalName(steps)) + suffix;
}

function singleName(steps, nodeTxns) {
  const at = steps.findIndex(({ kind }) => (kind & Edge.Rw) !== 0);
  const missed = steps[at];
  const others = steps.filter((_, index) => index !== at);
  if (others.every(({ kind, key }) => (kind & Edge.Ww) !== 0 && key === missed.key)) return 'lost-update';
  const seen = steps[(at - 1 + steps.length) % steps.length];
  const isSame = nodeTxns[seen.to] === nodeTxns[missed.from] && (seen.kind & Edge.Wr) !== 0;
  if (isSame && (seen.kind & missed.kind & EDGE_PREDICATE) !== 0) return 'PMP';
  return isSame && seen.op < missed.op ? 'OTV' : 'G-single';
}

function severalName(steps) {
  const isRw = ({ kind }) => (kind & Edge.Rw) !== 0;
  if (steps.some(({ kind }) => (kind & Edge.Rw) !== 0 && (kind & EDGE_PREDICATE) !== 0)) return 'G2';
  const areAdjacent = steps.some((step, index) => isRw(step) && isRw(steps[(index + 1) % steps.length]));
  return areAdjacent ? 'G2-item' : 'G-nonadjacent';
}
