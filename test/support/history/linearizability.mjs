/**
 * Whether the operations on one key have an order in which each happens at one moment between its call and its answer, and in which every answer is right.
 *
 * Keys are independent of one another, so each is judged by itself. Events are taken in the order of time. What is known is the set of configurations that may be: the
 * value, and which of the open calls have taken effect already. A call adds itself to the open ones. An answer leaves only those configurations in which its
 * call has had just that effect, after other open calls that may have come before it; when none is left, no order exists. So memory is bounded by how many calls are
 * open at once, not by the length of the history.
 *
 *   operation  { kind, key, start, end, … }     start, end: tickets that all threads share; end Infinity: the outcome is not known, it may happen at any time, or never
 *     { kind: 'get', value }                    0: absent
 *     { kind: 'put', value }                    values are written once per key
 *     { kind: 'del' }
 *     { kind: 'cas', expected, value, done }    put with ifVersion: `expected` is the value that had the version (0: ifAbsent). done: the answer, undefined if not known
 *     { kind: 'update', expected, value }       read and written at one moment; expected undefined: what was read is not known
 *
 * A get, and a cas that did nothing, changes no configuration; it takes effect as early as it can, which rules nothing out.
 */

/** Open calls of one key at a time: bits of a number. */
const OPEN_MAX = 24;
const MASKS = 2 ** OPEN_MAX;

/** @typedef {{ kind: 'get' | 'put' | 'del' | 'cas' | 'update', key: number, value?: number, expected?: number, done?: boolean, start: number, end: number }} Operation */

/**
 * @param {Iterable<Operation>} operations
 * @returns {{ isLinearizable: boolean, keys: number, operations: number, problems: string[] }}
 */
export function checkLinearizable(operations) {
  /** @type {Map<number, Operation[]>} */
  const byKey = new Map();
  let count = 0;
  for (const operation of operations) {
    count++;
    const list = byKey.get(operation.key);
    if (list === undefined) byKey.set(operation.key, [operation]);
    else list.push(operation);
  }
  const problems = [];
  for (const [key, list] of byKey) {
    const problem = problemOfKey(key, list);
    if (problem !== undefined) problems.push(problem);
  }
  return { isLinearizable: problems.length === 0, keys: byKey.size, operations: count, problems };
}

/** @param {number} key @param {Operation[]} operations */
function problemOfKey(key, operations) {
  // What nobody can have noticed says nothing.
  const relevant = operations.filter(({ kind, end }) => !(kind === 'get' && end === Infinity));
  const events = relevant.flatMap((operation) => {
    const call = { at: operation.start, isCall: true, operation };
    return operation.end === Infinity ? [call] : [call, { at: operation.end, isCall: false, operation }];
  });
  events.sort((a, b) => a.at - b.at);
  /** @type {(Operation | undefined)[]} */
  const slots = [];
  const slotOf = new Map();
  /** value × MASKS + bits of the open calls that have taken effect */
  let configurations = new Set([0]);
  for (const { isCall, operation } of events) {
    if (isCall) {
      let slot = slots.indexOf(undefined);
      if (slot < 0) slot = slots.length;
      if (slot >= OPEN_MAX) throw new Error(`key ${key}: more than ${OPEN_MAX} calls are open at once`);
      slots[slot] = operation;
      slotOf.set(operation, slot);
      if (!isWriter(operation)) configurations = new Set([...configurations].map((one) => settle(one, slots)));
      continue;
    }
    const slot = slotOf.get(operation);
    const bit = 2 ** slot;
    const next = new Set();
    const visited = new Set(configurations);
    const queue = [...configurations];
    while (queue.length > 0) {
      const configuration = queue.pop();
      if (hasBit(configuration, bit)) {
        next.add(configuration - bit);
        continue;
      }
      for (const after of stepsFrom(configuration, slots)) {
        if (visited.has(after)) continue;
        visited.add(after);
        queue.push(after);
      }
    }
    if (next.size === 0) return describe(key, operation, configurations, slots);
    slots[slot] = undefined;
    configurations = next;
  }
  return undefined;
}

/** @param {number} configuration @param {number} bit */
function hasBit(configuration, bit) {
  return Math.floor((configuration % MASKS) / bit) % 2 === 1;
}

/** @param {Operation} operation */
function isWriter({ kind, done }) {
  return kind !== 'get' && !(kind === 'cas' && done === false);
}

/** Every configuration one taken effect further. */
function* stepsFrom(configuration, slots) {
  const value = Math.floor(configuration / MASKS);
  for (let slot = 0; slot < slots.length; slot++) {
    const operation = slots[slot];
    if (operation === undefined || !isWriter(operation)) continue;
    const bit = 2 ** slot;
    if (hasBit(configuration, bit)) continue;
    const { kind, expected, value: written } = operation;
    if ((kind === 'cas' || (kind === 'update' && expected !== undefined)) && expected !== value) continue;
    const after = kind === 'del' ? 0 : written;
    yield settle(after * MASKS + (configuration % MASKS) + bit, slots);
  }
}

/** Everything that reads and is right now has read now. */
function settle(configuration, slots) {
  const value = Math.floor(configuration / MASKS);
  let settled = configuration;
  for (let slot = 0; slot < slots.length; slot++) {
    const operation = slots[slot];
    if (operation === undefined || isWriter(operation)) continue;
    const bit = 2 ** slot;
    const isRight = operation.kind === 'get' ? operation.value === value : operation.expected !== value;
    if (isRight && !hasBit(settled, bit)) settled += bit;
  }
  return settled;
}

/** @param {number} key @param {Operation} operation */
function describe(key, operation, configurations, slots) {
  const open = slots.filter((one) => one !== undefined && one !== operation).map(textOf);
  const values = [...new Set([...configurations].map((one) => Math.floor(one / MASKS)))].slice(0, 10);
  return `key ${key}: no order explains ${textOf(operation)}; the value may have been ${values.join(', ')}; open: ${open.join(' · ') || 'none'}`;
}

/** @param {Operation} operation */
export function textOf({ kind, value, expected, done, start, end }) {
  const what = {
    get: `get = ${value}`,
    put: `put ${value}`,
    del: 'del',
    cas: `cas ${expected} → ${value} = ${done}`,
    update: `update ${expected} → ${value}`,
  }[kind];
  return `${what} (${start}–${end})`;
}
