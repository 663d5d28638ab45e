/**
 * scan: every entry in key order, keys as strings, values as copies.
 *
 * Answers: how fast one thread walks the whole store at rest. Does not answer: short scans (see ycsb E), scans beside writers,
 * scans of keys alone. Each engine is driven by its own idiom: a synchronous iterator where it has one, and the asynchronous one.
 */

export const name = 'scan';
export const question = 'the whole store in key order, values copied';
export const store = 'os';

export function rows(scale) {
  return [
    {
      row: 'full scan, entries',
      ops: scale.n,
      params: {},
      contenders: [
        { engine: 'concordkv', variant: 'scanSync', label: 'concordkv' },
        { engine: 'concordkv', variant: 'scan', label: 'concordkv async' },
        { engine: 'lmdb', variant: 'scanSync', label: 'lmdb getRange' },
        { engine: 'classic-level', variant: 'scan', label: 'classic-level async' },
      ],
    },
  ];
}

export async function run(session, variant) {
  let entries = 0;
  let previous = '';
  const visit = (key, value) => {
    entries++;
    if (key <= previous) session.complain(`${session.engineName}: scan gave ${key} after ${previous}`);
    previous = key;
    session.checkEntry(key, value);
  };
  const start = performance.now();
  if (variant === 'scanSync') session.store.scanSync(undefined, undefined, visit);
  else await session.store.scan(undefined, undefined, visit);
  const seconds = (performance.now() - start) / 1000;
  if (entries !== session.count)
    session.complain(`${session.engineName}: scan gave ${entries} entries of ${session.count}`);
  return { ops: entries, seconds, histograms: {}, extra: { entries } };
}
