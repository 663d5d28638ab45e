/**
 * What the threads of a process did, from the files that --cpu-prof leaves: share of self time by function, within some windows of time. Idle time is left out. Threads: any.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const FUNCTIONS_MAX = 24;
/** Twice the interval of samples: more is time without a core. */
const SAMPLE_US_MAX = 1000;
const THREADS = [
  ['shard', '/shard-thread.js'],
  ['coordinator', '/coordinator-worker.js'],
];

/** [{ thread, lines: [share, name][] }], the caller's thread first. windows: [from, to][] in µs. */
export function functionsOf(directory, windows) {
  const threads = [];
  for (const name of readdirSync(directory)) {
    if (!name.endsWith('.cpuprofile')) continue;
    const profile = JSON.parse(readFileSync(join(directory, name), 'utf8'));
    const frames = new Map(profile.nodes.map(({ id, callFrame }) => [id, callFrame]));
    const has = (ending) => profile.nodes.some(({ callFrame }) => callFrame.url.endsWith(ending));
    const isMain = /\.0\.\d+\.cpuprofile$/.test(name);
    const thread = isMain ? 'caller' : THREADS.find(([, ending]) => has(ending))?.[0];
    if (thread === undefined) continue;
    const selfUs = new Map();
    let sum = 0;
    let atUs = profile.startTime;
    for (const [index, id] of profile.samples.entries()) {
      atUs += profile.timeDeltas[index];
      if (!windows.some(([from, to]) => atUs >= from && atUs <= to)) continue;
      const { functionName, url, lineNumber } = frames.get(id);
      if (functionName === '(idle)') continue;
      const us = Math.min(profile.timeDeltas[index], SAMPLE_US_MAX);
      const file = url.slice(url.lastIndexOf('/') + 1);
      const label = file === '' ? functionName : `${functionName || '(anonymous)'} ${file}:${lineNumber + 1}`;
      selfUs.set(label, (selfUs.get(label) ?? 0) + us);
      sum += us;
    }
    if (sum === 0) continue;
    const lines = [...selfUs].sort((a, b) => b[1] - a[1]).slice(0, FUNCTIONS_MAX);
    threads.push({ thread, isMain, lines: lines.map(([label, us]) => [us / sum, label]) });
  }
  return threads.sort((a, b) => Number(b.isMain) - Number(a.isMain));
}
