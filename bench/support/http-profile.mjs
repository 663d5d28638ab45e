/**
 * Where the processor time of an HTTP request goes, and how fast a server can be on the cores of this machine with these costs.
 *
 * CPU of each thread comes from /proc, in runs without a profiler. A run with it (--cpu-prof) tells only how a thread's time in user mode is shared by its
 * parts; what Node does for sockets and files in the kernel is a part of its own. Linux only. Threads: the bench's.
 */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const TICK_US = 10_000;

/** CPU of each thread of a process so far, µs, by thread id; undefined where /proc does not tell. */
export function threadMicros(pid) {
  if (process.platform !== 'linux') return undefined;
  const threads = new Map();
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const stat = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    threads.set(Number(tid), { user: Number(fields[11]) * TICK_US, kernel: Number(fields[12]) * TICK_US });
  }
  return threads;
}

export function difference(before, after) {
  const threads = [];
  for (const [tid, { user, kernel }] of after) {
    const then = before.get(tid) ?? { user: 0, kernel: 0 };
    threads.push({ tid, user: user - then.user, kernel: kernel - then.kernel });
  }
  return threads;
}

/** Microseconds on the clock of profiles. */
export function profileClock() {
  return Number(process.hrtime.bigint() / 1000n);
}

export function profileArguments(directory) {
  mkdirSync(directory, { recursive: true });
  return ['--cpu-prof', '--cpu-prof-interval', '500', '--cpu-prof-dir', directory];
}

/** What a frame is part of; the first that fits. Calls into the kernel count as kernel time, so they are left out here. */
const PARTS = [
  [
    undefined,
    ({ functionName }) => /^(\(idle\)|fdatasync|write(Buffer|v|Utf8String|Latin1String)?|read)$/.test(functionName),
  ],
  ['garbage collection', ({ functionName }) => functionName === '(garbage collector)'],
  ['looking for work', ({ functionName, url }) => url.endsWith('shard-thread.js') && functionName === '#run'],
  ['routes', ({ url }) => /gateway\/http\/|bench\/http\.mjs$/.test(url)],
  ['fastify', ({ url }) => url.includes('node_modules/')],
  ['store', ({ url }) => url.startsWith('file:')],
  ['node and its event loop', () => true],
];

/** How the samples of each thread between two times are shared by parts: Map(thread → Map(part → share)). */
export function readProfiles(directory, pid, fromUs, toUs) {
  const threads = new Map();
  for (const name of readdirSync(directory)) {
    const match = /\.(\d+)\.(\d+)\.\d+\.cpuprofile$/.exec(name);
    if (match === null || Number(match[1]) !== pid) continue;
    const profile = JSON.parse(readFileSync(join(directory, name), 'utf8'));
    const frames = new Map(profile.nodes.map(({ id, callFrame }) => [id, callFrame]));
    const isShard = profile.nodes.some(({ callFrame }) => callFrame.url.endsWith('shard-thread.js'));
    if (match[2] !== '0' && !isShard) continue;
    const parts = new Map();
    let sum = 0;
    let at = profile.startTime;
    for (const [index, id] of profile.samples.entries()) {
      const us = profile.timeDeltas[index];
      at += us;
      if (at < fromUs || at > toUs) continue;
      const frame = frames.get(id);
      const [part] = PARTS.find(([, fits]) => fits(frame));
      if (part === undefined) continue;
      parts.set(part, (parts.get(part) ?? 0) + us);
      sum += us;
    }
    for (const [part, us] of parts) parts.set(part, us / sum);
    threads.set(isShard ? 'shard' : 'server', parts);
  }
  return threads;
}

/**
 * What a run cost, µs per request: of the client's thread, the server's main thread, its busiest other thread if that is a shard's, and all the rest
 * (collectors, compilers, other workers). cpu, clientCpu: difference(), of the server and of this process.
 */
export function costsOf(pid, cpu, clientCpu, requests, hasShard) {
  const perRequest = ({ user, kernel }) => ({ user: user / requests, kernel: kernel / requests });
  const workers = cpu.filter(({ tid }) => tid !== pid).sort((a, b) => total(b) - total(a));
  const shard = hasShard ? workers.shift() : undefined;
  const rest = [...workers, ...clientCpu.filter(({ tid }) => tid !== process.pid)];
  return {
    client: perRequest(clientCpu.find(({ tid }) => tid === process.pid)),
    server: perRequest(cpu.find(({ tid }) => tid === pid)),
    ...(shard && { shard: perRequest(shard) }),
    others: perRequest(rest.reduce(plus, { user: 0, kernel: 0 })),
  };
}

function plus(sum, { user, kernel }) {
  return { user: sum.user + user, kernel: sum.kernel + kernel };
}

export function total({ user, kernel }) {
  return user + kernel;
}

const KERNEL = { client: 'kernel: sockets', server: 'kernel: sockets', shard: 'kernel: log write, fdatasync' };

/** Lines [thread, part, µs] of the costs, split by the profiles. */
export function breakdown(costs, profiles) {
  const lines = [];
  for (const [thread, { user, kernel }] of Object.entries(costs)) {
    const shares = [...(profiles.get(thread) ?? [['user mode', 1]])].sort((a, b) => b[1] - a[1]);
    for (const [part, share] of shares) lines.push([thread, part, user * share]);
    lines.push([thread, KERNEL[thread] ?? 'kernel', kernel]);
  }
  return lines.filter(([, , us]) => us >= 0.05);
}

/** All that a request costs. */
export function sumOf(costs) {
  return Object.values(costs).reduce((sum, cost) => sum + total(cost), 0);
}

/**
 * The highest rate at these costs, and what sets it. The client and the threads of the server share the cores, and each of them has one event loop; what is
 * called `others` is several threads.
 */
export function boundsOf(costs, cores) {
  const bounds = [[`${cores} cores`, (cores * 1e6) / sumOf(costs)]];
  for (const thread of ['client', 'server', 'shard']) {
    if (costs[thread] !== undefined) bounds.push([`one core of the ${thread}`, 1e6 / total(costs[thread])]);
  }
  const [limit, perSecond] = bounds.sort((a, b) => a[1] - b[1])[0];
  return { limit, perSecond };
}
