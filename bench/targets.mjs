/**
 * What the project promises, each as a number measured against a number needed. The figures are meant for 1 M entries on 2 cores; at other
 * sizes the verdicts are only a hint.
 */
const FULL_N = 1_000_000;

/** measure(look) returns undefined if its workload did not run. */
const TARGETS = [
  ...both((keys) => [
    atLeast(2, `getSync, ${keys}: x lmdb getBinary`, ratio('read', `getSync, ${keys}`, 'concordkv', 'lmdb getBinary')),
    above(
      1,
      `getSync, ${keys}: x lmdb getBinaryFast`,
      ratio('read', `getSync, ${keys}`, 'concordkv', 'lmdb getBinaryFast'),
    ),
  ]),
  atLeast(1.7, 'getSync: 2 threads x 1 thread', (look) =>
    divide(
      look.rate('threads', 'getSync, 2 threads', 'concordkv'),
      look.rate('threads', 'getSync, 1 thread', 'concordkv'),
    ),
  ),
  atLeast(
    2,
    'put, 10000 in flight, inserts: x lmdb noSync',
    ratio('fill', 'fillrandom, 10000 in flight', 'concordkv', 'lmdb'),
  ),
  ...both((keys) => [
    atLeast(
      2,
      `put, 10000 in flight, ${keys} overwrites: x lmdb noSync`,
      ratio('write', `put, 10000 in flight, ${keys}`, 'concordkv', 'lmdb'),
    ),
  ]),
  atLeast(
    2.5,
    'durable put, 256 in flight: x lmdb',
    ratio('durable', 'put, 256 in flight', 'concordkv sync', 'lmdb put+flushed'),
  ),
  atLeast(
    2,
    'durable put, 1 in flight: x lmdb',
    ratio('durable', 'put, 1 in flight', 'concordkv sync', 'lmdb put+flushed'),
  ),
  ...['A', 'B', 'F'].flatMap((mix) =>
    both((keys) => [atLeast(2.5, `YCSB ${mix}, ${keys}: x lmdb noSync`, ycsb(mix, keys))]),
  ),
  atLeast(2, 'YCSB D: x lmdb noSync', ycsb('D', 'latest')),
  ...both((keys) => [atLeast(1.5, `YCSB E, ${keys}: x lmdb noSync`, ycsb('E', keys))]),
  atLeast(1.5, 'full scan: x lmdb getRange', ratio('scan', 'full scan, entries', 'concordkv', 'lmdb getRange')),
  below(1, 'full scan of 1 M entries, s', (look) =>
    divide(FULL_N, look.rate('scan', 'full scan, entries', 'concordkv')),
  ),
  atLeast(0.6, 'reads beside a saturating writer: x undisturbed', (look) =>
    divide(
      look.rate('threads', 'getSync, 1 thread beside a saturating writer', 'concordkv'),
      look.rate('threads', 'getSync, 1 thread', 'concordkv'),
    ),
  ),
  below(
    50,
    'reads beside a saturating writer: p99, us',
    (look) => look.find('threads', 'getSync, 1 thread beside a saturating writer', 'concordkv')?.latency.read?.p99Us,
  ),
  atMost(1.75, 'memory after random inserts: x raw bytes', memory('fillrandom, 10000 in flight')),
  atMost(1.2, 'memory after a load in key order: x raw bytes', memory('fillseq, batches of 1000')),
  below(1500, 'open, ms', (look) => look.rate('open', 'open', 'concordkv')),
];

export function judge(results) {
  const find = (workload, row, label) =>
    results.workloads[workload]?.find((candidate) => candidate.row === row)?.contenders.find((c) => c.label === label);
  const look = { find, rate: (...path) => find(...path)?.median, memory: results.memory };
  return TARGETS.map(({ name, need, needText, holds, measure }) => {
    const measured = measure(look);
    const verdict = measured === undefined ? 'not measured' : holds(measured, need) ? 'met' : 'missed';
    return { name, need: needText, measured, verdict };
  });
}

function atLeast(need, name, measure) {
  return { name, need, needText: `>= ${need}`, holds: (measured) => measured >= need, measure };
}
function above(need, name, measure) {
  return { name, need, needText: `> ${need}`, holds: (measured) => measured > need, measure };
}
function atMost(need, name, measure) {
  return { name, need, needText: `<= ${need}`, holds: (measured) => measured <= need, measure };
}
function below(need, name, measure) {
  return { name, need, needText: `< ${need}`, holds: (measured) => measured < need, measure };
}

function both(make) {
  return ['uniform', 'zipfian'].flatMap(make);
}
function divide(a, b) {
  return a === undefined || b === undefined ? undefined : a / b;
}
function ratio(workload, row, ours, peer) {
  return (look) => divide(look.rate(workload, row, ours), look.rate(workload, row, peer));
}
function ycsb(mix, keys) {
  return ratio('ycsb', `${mix}, ${keys}`, 'concordkv', 'lmdb noSync');
}
function memory(row) {
  return (look) => divide(look.memory[row]?.concordkv?.usedBytes, look.memory[row]?.concordkv?.rawBytes);
}
