/**
 * From operations to versions: which version of its key each read saw, who wrote each version, and which version comes directly after which. On the way
 * everything is found that shows without a cycle.
 *
 *   internal              a transaction does not see its own writes
 *   G1a                   what a failed transaction wrote was read (aborted read)
 *   G1b                   what a transaction wrote and later wrote over was read by another (intermediate read)
 *   unknown-value         what was read was written by nobody
 *   duplicate-value       a list holds an element twice; or the same was written twice, which is the history's own mistake
 *   incompatible-order    two reads of a list of which none begins with the other; two values of a register with one version number, or the reverse
 *   lost-write            a committed write is missing in a list that was read by a transaction that began after the commit
 *   cyclic-versions       registers without numbers: what was read before what was written contradicts itself
 *
 * Order of versions. Of lists: the longest list that was read is the order; what no list shows comes after it, in unknown order. Of registers: by the store's
 * numbers where reads tell them, otherwise what follows from the transactions that read a version and wrote the next.
 */
import { PairMap } from './columns.mjs';
import { OP_WRITE, OutcomeCode } from './history.mjs';

const { Ok, Fail } = OutcomeCode;

/**
 * @typedef {object} Versions
 * @property {Uint8Array} isCommitted of each transaction: its outcome is ok, or unknown and something it wrote was read
 * @property {Int32Array} opVersions of each operation: the version that a read saw, of another transaction's; -1: none that counts
 * @property {Int32Array} opTxns
 * @property {Int32Array} writers of each version: a transaction, -1 if none that counts
 * @property {Int32Array} keys of each version
 * @property {Int32Array} successorsBegin
 * @property {Int32Array} successors the versions directly after version v: [successorsBegin[v], successorsBegin[v + 1])
 */

/** @param {import('./history.mjs').History} history */
export function txnsOfOps(history) {
  const txns = new Int32Array(history.opCount);
  for (let txn = 0; txn < history.length; txn++)
    txns.fill(txn, history.opsBegin.get(txn), history.opsBegin.get(txn + 1));
  return txns;
}

/** 1 for each write that its own transaction did not write over. @param {import('./history.mjs').History} history */
function finalWrites(history) {
  const isFinal = new Uint8Array(history.opCount);
  const lastTxns = new Int32Array(history.keyCount).fill(-1);
  for (let txn = 0; txn < history.length; txn++) {
    for (let op = history.opsBegin.get(txn + 1) - 1; op >= history.opsBegin.get(txn); op--) {
      if ((history.opFlags.get(op) & OP_WRITE) === 0) continue;
      const key = history.opKeys.get(op);
      if (lastTxns[key] === txn) continue;
      lastTxns[key] = txn;
      isFinal[op] = 1;
    }
  }
  return isFinal;
}

/** From pairs (version, one directly after it). @param {number} count @param {Int32Array} from @param {Int32Array} to */
function successorsOf(count, from, to) {
  const successorsBegin = new Int32Array(count + 1);
  for (const version of from) successorsBegin[version + 1]++;
  for (let version = 0; version < count; version++) successorsBegin[version + 1] += successorsBegin[version];
  const successors = new Int32Array(from.length);
  const next = successorsBegin.slice();
  for (let index = 0; index < from.length; index++) successors[next[from[index]]++] = to[index];
  return { successorsBegin, successors };
}

/**
 * @param {import('./history.mjs').History} history
 * @param {import('./findings.mjs').Findings} findings
 * @returns {Versions}
 */
export function versionsOfLists(history, findings) {
  const { tree, keyCount, opFlags, opKeys, opValues, opsBegin, outcomes, starts, ends } = history;
  const opCount = history.opCount;
  const opTxns = txnsOfOps(history);
  const opNodes = externalLists();

  // The longest list of each key that a committed transaction read.
  const deepest = new Int32Array(keyCount);
  const readStarts = new Float64Array(keyCount).fill(-1);
  for (let op = 0; op < opCount; op++) {
    const txn = opTxns[op];
    if (opNodes[op] < 0 || outcomes.get(txn) !== Ok) continue;
    const key = opKeys.get(op);
    if (tree.depths.get(opNodes[op]) > tree.depths.get(deepest[key])) deepest[key] = opNodes[op];
    if (starts.get(txn) > readStarts[key]) readStarts[key] = starts.get(txn);
  }
  const firstVersions = new Int32Array(keyCount + 1);
  for (let key = 0; key < keyCount; key++) {
    firstVersions[key + 1] = firstVersions[key] + tree.depths.get(deepest[key]) + 1;
  }
  const shownCount = firstVersions[keyCount];
  const nodeVersions = new Int32Array(tree.length).fill(-1);
  for (let key = 0; key < keyCount; key++) {
    for (let node = deepest[key]; node !== 0; node = tree.parents.get(node)) {
      nodeVersions[node] = firstVersions[key] + tree.depths.get(node);
    }
  }

  // Who appended what.
  const appends = new PairMap();
  for (let op = 0; op < opCount; op++) {
    if ((opFlags.get(op) & OP_WRITE) === 0) continue;
    const [key, element] = [opKeys.get(op), opValues.get(op)];
    const other = appends.get(key, element);
    if (other >= 0)
      findings.add('duplicate-value', [opTxns[other], opTxns[op]], `k${key}: ${element} is appended twice`);
    appends.set(key, element, op);
  }
  const versionOps = new Int32Array(shownCount).fill(-1);
  const shownAs = new Int32Array(opCount).fill(-1);
  const isForked = new Uint8Array(keyCount);
  const isCommitted = new Uint8Array(history.length);
  for (let txn = 0; txn < history.length; txn++) isCommitted[txn] = outcomes.get(txn) === Ok ? 1 : 0;
  for (let key = 0; key < keyCount; key++) {
    for (let node = deepest[key]; node !== 0; node = tree.parents.get(node)) {
      const element = tree.elements.get(node);
      const op = appends.get(key, element);
      if (op < 0) {
        findings.add('unknown-value', [], `k${key}: ${element} was read, nobody appended it`);
        continue;
      }
      const txn = opTxns[op];
      if (outcomes.get(txn) === Fail) {
        findings.add('G1a', [txn], `k${key}: ${element} was read, T${txn}, which appended it, failed`);
        continue;
      }
      if (shownAs[op] >= 0) {
        findings.add('duplicate-value', [txn], `k${key}: ${element} stands twice in a list`);
        continue;
      }
      isCommitted[txn] = 1;
      versionOps[nodeVersions[node]] = op;
      shownAs[op] = nodeVersions[node];
    }
  }

  const isFinal = finalWrites(history);
  const opVersions = new Int32Array(opCount).fill(-1);
  for (let op = 0; op < opCount; op++) {
    const node = opNodes[op];
    const txn = opTxns[op];
    if (node < 0 || isCommitted[txn] === 0) continue;
    const key = opKeys.get(op);
    const version = node === 0 ? firstVersions[key] : nodeVersions[node];
    if (version < 0) {
      // What a transaction of unknown outcome read may be longer than what anybody else has read.
      if (outcomes.get(txn) !== Ok) continue;
      isForked[key] = 1;
      const lists = [node, deepest[key]].map((list) => tree.listOf(list).join(' '));
      findings.add('incompatible-order', [txn], `k${key}: [${lists[0]}] was read, and [${lists[1]}]`);
      continue;
    }
    opVersions[op] = version;
    const writeOp = node === 0 ? -1 : versionOps[version];
    if (writeOp < 0 || opTxns[writeOp] === txn || isFinal[writeOp] === 1) continue;
    const [writer, element] = [opTxns[writeOp], opValues.get(writeOp)];
    findings.add('G1b', [writer, txn], `k${key}: T${txn} read ${element}, to which T${writer} appended more`);
  }

  // What no list shows.
  const hiddenOps = [];
  for (let op = 0; op < opCount; op++) {
    if ((opFlags.get(op) & OP_WRITE) === 0 || shownAs[op] >= 0) continue;
    const txn = opTxns[op];
    const key = opKeys.get(op);
    if (isCommitted[txn] === 0 || isForked[key] === 1) continue;
    hiddenOps.push(op);
    if (outcomes.get(txn) === Ok && ends.get(txn) < readStarts[key]) {
      findings.add('lost-write', [txn], `k${key}: ${opValues.get(op)} of T${txn} is missing in a later read`);
    }
  }
  const count = shownCount + hiddenOps.length;
  const writers = new Int32Array(count).fill(-1);
  const keys = new Int32Array(count);
  const pairCount = shownCount - keyCount + hiddenOps.length;
  const from = new Int32Array(pairCount);
  const to = new Int32Array(pairCount);
  let pairs = 0;
  for (let key = 0; key < keyCount; key++) {
    for (let version = firstVersions[key]; version < firstVersions[key + 1]; version++) {
      keys[version] = key;
      if (versionOps[version] >= 0) writers[version] = opTxns[versionOps[version]];
      if (version === firstVersions[key]) continue;
      from[pairs] = version - 1;
      to[pairs++] = version;
    }
  }
  hiddenOps.forEach((op, index) => {
    const key = opKeys.get(op);
    keys[shownCount + index] = key;
    writers[shownCount + index] = opTxns[op];
    from[pairs] = firstVersions[key + 1] - 1;
    to[pairs++] = shownCount + index;
  });
  return { isCommitted, opVersions, opTxns, writers, keys, ...successorsOf(count, from, to) };

  /** Of each read, the list it saw without what its own transaction appended; -1: a write, or a read of nothing but own writes. */
  function externalLists() {
    const nodes = new Int32Array(opCount).fill(-1);
    const viewTxns = new Int32Array(keyCount).fill(-1);
    /** What the transaction must see. -1: a list that nobody has ever read. */
    const viewNodes = new Int32Array(keyCount);
    /** 0: as read; 1: as written, on top of what was read; 2: appended to without having been read. */
    const viewStates = new Uint8Array(keyCount);
    /** key → elements appended to it blindly, by the transaction that is looked at. */
    const blind = new Map();
    for (let txn = 0; txn < history.length; txn++) {
      blind.clear();
      for (let op = opsBegin.get(txn); op < opsBegin.get(txn + 1); op++) {
        const key = opKeys.get(op);
        const value = opValues.get(op);
        const isKnown = viewTxns[key] === txn;
        viewTxns[key] = txn;
        if ((opFlags.get(op) & OP_WRITE) !== 0) {
          if (!isKnown) {
            viewStates[key] = 2;
            blind.set(key, [value]);
          } else if (viewStates[key] === 2) blind.get(key).push(value);
          else {
            viewStates[key] = 1;
            if (viewNodes[key] >= 0) viewNodes[key] = tree.find(key, viewNodes[key], value);
          }
          continue;
        }
        if (!isKnown || viewStates[key] === 0) {
          nodes[op] = value;
          viewStates[key] = 0;
          viewNodes[key] = value;
          continue;
        }
        if (viewStates[key] === 1) {
          if (value !== viewNodes[key]) internal(txn, key, value);
          continue;
        }
        let base = value;
        const own = blind.get(key);
        for (let index = own.length - 1; index >= 0; index--) {
          if (base === 0 || tree.elements.get(base) !== own[index]) {
            base = -1;
            break;
          }
          base = tree.parents.get(base);
        }
        if (base < 0) internal(txn, key, value);
        else {
          nodes[op] = base;
          viewStates[key] = 1;
          viewNodes[key] = value;
        }
      }
    }
    return nodes;
  }

  /** @param {number} txn @param {number} key @param {number} node */
  function internal(txn, key, node) {
    findings.add(
      'internal',
      [txn],
      `T${txn} reads [${tree.listOf(node).join(' ')}] of k${key}, which is not what it wrote`,
    );
  }
}

/**
 * @param {import('./history.mjs').History} history
 * @param {import('./findings.mjs').Findings} findings
 * @returns {Versions}
 */
export function versionsOfRegisters(history, findings) {
  const { keyCount, opFlags, opKeys, opValues, opVersions: numbers, opsBegin, outcomes } = history;
  const opCount = history.opCount;
  const opTxns = txnsOfOps(history);
  const isFinal = finalWrites(history);
  /** Version v of a key and a value; the first keyCount are those of absence. */
  const versionOf = new PairMap();
  const versionKeys = [];
  const versionOps = [];
  for (let key = 0; key < keyCount; key++) {
    versionOf.set(key, 0, key);
    versionKeys.push(key);
    versionOps.push(-1);
  }
  for (let op = 0; op < opCount; op++) {
    if ((opFlags.get(op) & OP_WRITE) === 0) continue;
    const [key, value] = [opKeys.get(op), opValues.get(op)];
    const other = versionOf.get(key, value);
    if (other >= 0) {
      const txns = [versionOps[other] < 0 ? opTxns[op] : opTxns[versionOps[other]], opTxns[op]];
      findings.add('duplicate-value', txns, `k${key}: ${value} is written twice`);
      continue;
    }
    versionOf.set(key, value, versionKeys.length);
    versionKeys.push(key);
    versionOps.push(op);
  }
  const count = versionKeys.length;
  const isCommitted = new Uint8Array(history.length);
  for (let txn = 0; txn < history.length; txn++) isCommitted[txn] = outcomes.get(txn) === Ok ? 1 : 0;

  // What each transaction saw of others.
  const opVersions = new Int32Array(opCount).fill(-1);
  const ownTxns = new Int32Array(keyCount).fill(-1);
  const ownValues = new Int32Array(keyCount);
  for (let txn = 0; txn < history.length; txn++) {
    for (let op = opsBegin.get(txn); op < opsBegin.get(txn + 1); op++) {
      const [key, value] = [opKeys.get(op), opValues.get(op)];
      if ((opFlags.get(op) & OP_WRITE) !== 0) {
        ownTxns[key] = txn;
        ownValues[key] = value;
        continue;
      }
      if (ownTxns[key] === txn) {
        if (value !== ownValues[key]) {
          findings.add('internal', [txn], `T${txn} reads ${value} of k${key}, having written ${ownValues[key]}`);
        }
        continue;
      }
      if (outcomes.get(txn) === Fail) continue;
      const version = versionOf.get(key, value);
      if (version < 0) {
        findings.add('unknown-value', [txn], `k${key}: T${txn} read ${value}, nobody wrote it`);
        continue;
      }
      opVersions[op] = version;
      const writeOp = versionOps[version];
      if (writeOp < 0 || outcomes.get(txn) !== Ok) continue;
      const writer = opTxns[writeOp];
      if (outcomes.get(writer) === Fail) {
        findings.add('G1a', [writer, txn], `k${key}: T${txn} read ${value} of T${writer}, which failed`);
        opVersions[op] = -1;
        continue;
      }
      isCommitted[writer] = 1;
      if (writer !== txn && isFinal[writeOp] === 0) {
        findings.add('G1b', [writer, txn], `k${key}: T${txn} read ${value}, which T${writer} wrote over`);
      }
    }
  }
  const writers = new Int32Array(count).fill(-1);
  for (let version = keyCount; version < count; version++) {
    const txn = opTxns[versionOps[version]];
    if (isCommitted[txn] === 1) writers[version] = txn;
  }
  for (let op = 0; op < opCount; op++) if (isCommitted[opTxns[op]] === 0) opVersions[op] = -1;
  const pairs = pairsByNumbers() ?? pairsByReads();
  const keys = Int32Array.from(versionKeys);
  const { from, to } = pairs;
  return {
    isCommitted,
    opVersions,
    opTxns,
    writers,
    keys,
    ...successorsOf(count, Int32Array.from(from), Int32Array.from(to)),
  };

  /** undefined: no read tells a number. Values that were only read without one have no place in the order. */
  function pairsByNumbers() {
    const numberOf = new Float64Array(count);
    let hasNumbers = false;
    for (let op = 0; op < opCount; op++) {
      const version = opVersions[op];
      const number = numbers.get(op);
      if (version < keyCount || number === 0) continue;
      hasNumbers = true;
      if (numberOf[version] !== 0 && numberOf[version] !== number) {
        const key = versionKeys[version];
        const text = `k${key}: ${opValues.get(op)} has the versions ${numberOf[version]} and ${number}`;
        findings.add('incompatible-order', [opTxns[op]], text);
      }
      numberOf[version] = number;
    }
    if (!hasNumbers) return undefined;
    const shown = [];
    for (let version = keyCount; version < count; version++) if (numberOf[version] !== 0) shown.push(version);
    shown.sort((a, b) => versionKeys[a] - versionKeys[b] || numberOf[a] - numberOf[b]);
    const from = [];
    const to = [];
    shown.forEach((version, index) => {
      const before = shown[index - 1];
      const isFirst = before === undefined || versionKeys[before] !== versionKeys[version];
      if (!isFirst && numberOf[before] === numberOf[version]) {
        const txns = [before, version].map((one) => writers[one]);
        findings.add(
          'incompatible-order',
          txns,
          `k${versionKeys[version]}: two values of version ${numberOf[version]}`,
        );
      }
      from.push(isFirst ? versionKeys[version] : before);
      to.push(version);
    });
    return { from, to };
  }

  /** What a transaction read comes before what it then wrote, and absence before what was written without having been read. */
  function pairsByReads() {
    const from = [];
    const to = [];
    const readTxns = new Int32Array(keyCount).fill(-1);
    const readVersions = new Int32Array(keyCount);
    for (let txn = 0; txn < history.length; txn++) {
      if (isCommitted[txn] === 0) continue;
      for (let op = opsBegin.get(txn); op < opsBegin.get(txn + 1); op++) {
        const key = opKeys.get(op);
        if ((opFlags.get(op) & OP_WRITE) === 0) {
          if (opVersions[op] < 0) continue;
          readTxns[key] = txn;
          readVersions[key] = opVersions[op];
          continue;
        }
        if (isFinal[op] === 0) continue;
        const version = versionOf.get(key, opValues.get(op));
        if (versionOps[version] !== op) continue;
        from.push(readTxns[key] === txn ? readVersions[key] : key);
        to.push(version);
      }
    }
    reportCycles(from, to);
    return { from, to };
  }

  /** Each version has at most one before it here, so a cycle shows by walking back. @param {number[]} from @param {number[]} to */
  function reportCycles(from, to) {
    const before = new Int32Array(count).fill(-1);
    for (let index = 0; index < from.length; index++) before[to[index]] = from[index];
    const walk = new Int32Array(count).fill(-1);
    for (let start = 0; start < count; start++) {
      let version = start;
      while (version >= 0 && walk[version] < 0) {
        walk[version] = start;
        version = before[version];
      }
      if (version >= 0 && walk[version] === start) {
        const key = versionKeys[version];
        findings.add('cyclic-versions', [writers[version]], `k${key}: versions that follow from reads go in a circle`);
      }
    }
  }
}
