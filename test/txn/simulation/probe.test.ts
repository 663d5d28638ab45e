import { test } from 'vitest';
import { simulate } from './simulation.js';
test('probe', async () => {
  const first = Number(process.env.SEED ?? 1), n = Number(process.env.SEEDS ?? 1);
  const plant = process.env.PLANT as never;
  const t0 = performance.now(); let bad = 0; const sum: Record<string, number> = {};
  for (let seed = first; seed < first + n; seed++) {
    const lines: string[] = [];
    const loss = (process.env.LOSS ?? (seed % 2 ? 'power' : 'process')) as never;
    const r = await simulate({ seed, loss, plant, trace: process.env.TRACE ? (l) => lines.push(l) : undefined });
    for (const [k, v] of Object.entries({ ...r, ...r.counts })) if (typeof v === 'number') sum[k] = (sum[k] ?? 0) + v;
    if (process.env.TRACE) console.log(lines.join('\n'));
    if (r.problem) { bad++; if (bad < 8) console.log(seed, loss, r.problem.slice(0, 900)); }
  }
  console.log({ bad, ms: (performance.now() - t0) / n, ...sum });
}, 600_000);
