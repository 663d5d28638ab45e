/**
 * The history checker: whether what transactions did and saw is what their levels promise. Reads nothing but the history.
 *
 *   check(history, { level, realTime, isStrict, sessions }) → { isClean, names, counts, findings, … }
 *
 * What a level excludes (findings are named in versions.mjs and cycles.mjs):
 *   read-committed     G0, G1a, G1b, G1c, OTV; and, since each of its reads shows the newest committed state, every order of reads that no such states explain
 *   repeatable-read    also lost-update, PMP, G-single, G-nonadjacent
 *   serializable       also G2-item, G2
 * With realTime (the default) nothing may be read that is older than what had been committed when the transaction began. With isStrict, too (the default), what began
 * when another had ended comes behind it for everybody. Over several shards that is not promised (a causal reverse): while one shard works at a commit, another
 * finishes a later one; a snapshot from before that waits for the first and lacks the second, and a read behind the second can still miss the first.
 */
import { cyclesIn, graphOf } from './graph.mjs';
import { nameCycles } from './cycles.mjs';
import { Findings } from './findings.mjs';
import { LEVELS, LevelCode, OP_WRITE } from './history.mjs';
import { versionsOfLists, versionsOfRegisters } from './versions.mjs';

/**
 * @typedef {object} CheckOptions
 * @property {import('./history.mjs').Level} [level] judges all transactions by this level, not by their own
 * @property {boolean} [realTime] default true
 * @property {boolean} [isStrict] default true
 * @property {boolean} [sessions] a thread's transactions follow one another; default false
 */

/**
 * @param {import('./history.mjs').History} history
 * @param {CheckOptions} [options]
 */
export function check(history, { level, realTime = true, isStrict = true, sessions = false } = {}) {
  const findings = new Findings();
  const versions = (history.kind === 'list' ? versionsOfLists : versionsOfRegisters)(history, findings);
  const levelCode = level === undefined ? undefined : LEVELS.indexOf(level);
  findLostUpdates(history, versions, levelCode, findings);
  const graph = graphOf(history, versions, { level: levelCode, realTime, sessions });
  const cyclic = cyclesIn(graph);
  nameCycles(history, graph, cyclic, findings, isStrict);
  let committed = 0;
  for (const one of versions.isCommitted) committed += one;
  return {
    isClean: findings.names.length === 0,
    names: findings.names,
    counts: findings.counts,
    findings: findings.kept,
    committed,
    nodes: graph.nodeCount,
    edges: cyclic.edgeCount,
  };
}

/**
 * Two transactions that read the same version of a key and both wrote the key: one of them lost, whatever the order of versions. Registers whose order
 * is not known show it in no other way.
 */
function findLostUpdates(history, versions, level, findings) {
  const { opFlags, opKeys, opsBegin, levels } = history;
  const { isCommitted, opVersions, writers } = versions;
  const updaters = new Int32Array(writers.length).fill(-1);
  const readTxns = new Int32Array(history.keyCount).fill(-1);
  const readVersions = new Int32Array(history.keyCount);
  for (let txn = 0; txn < history.length; txn++) {
    if (isCommitted[txn] === 0 || (level ?? levels.get(txn)) === LevelCode.ReadCommitted) continue;
    for (let op = opsBegin.get(txn); op < opsBegin.get(txn + 1); op++) {
      const key = opKeys.get(op);
      if ((opFlags.get(op) & OP_WRITE) === 0) {
        if (opVersions[op] < 0) continue;
        readTxns[key] = txn;
        readVersions[key] = opVersions[op];
      } else if (readTxns[key] === txn) {
        const version = readVersions[key];
        const other = updaters[version];
        if (other >= 0 && other !== txn) {
          const lines = [other, txn].map((one) => `  ${history.textOf(one)}`);
          findings.add(
            'lost-update',
            [other, txn],
            [`T${other} and T${txn} wrote k${key} over the same version`, ...lines].join('\n'),
          );
        }
        updaters[version] = txn;
      }
    }
  }
}

/** For people. @param {ReturnType<typeof check>} report */
export function textOfReport({ counts, findings }) {
  const lines = Object.entries(counts).map(([name, count]) => `${name}: ${count}`);
  for (const { name, text } of findings.slice(0, 10)) lines.push(`${name}: ${text}`);
  return lines.join('\n');
}
