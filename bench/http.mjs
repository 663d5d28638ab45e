/**
 * HTTP throughput and latency: GET of random keys and durable PUT (fdatasync before each answer) against `concordkv serve`, beside the
 * same requests to a bare fastify server whose GET returns a constant of the same size and whose PUT reads the body and stores nothing.
 * Same thread count, same connections, alternating rounds, the median round of each.
 *
 * It answers: what does the store cost on top of the web framework? It does not tell the most this machine could serve: the load
 * generator runs on the same cores. So it also prints what a request costs in which thread, and the rates that these costs allow on the cores there are:
 * those of all threads together fill all cores, and none fills more than one (Linux).
 *
 *   node bench/http.mjs [--quick] [--seconds 5] [--rounds 3] [--threads 1] [--connections 64] [--keys 10000] [--json] [--profile]
 *
 * --profile: prints, too, in which part of a thread the time goes. For that both servers run once more under the CPU profiler (Linux).
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { CommandLine, headOf } from '../scripts/command-line.mjs';
import {
  boundsOf,
  breakdown,
  costsOf,
  difference,
  profileArguments,
  profileClock,
  readProfiles,
  sumOf,
  threadMicros,
  total,
} from './support/http-profile.mjs';

const SELF = fileURLToPath(import.meta.url);
const CLI = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const VALUE_BYTES = 100;
const PATHS_PER_RUN = 2000;

const text = { type: 'string' };
const flag = { type: 'boolean', default: false };
const line = new CommandLine(headOf(import.meta.url), {
  ...{ quick: flag, seconds: text, rounds: text, threads: text, connections: text, keys: text },
  ...{ json: flag, profile: flag, bare: flag },
});
const { values: args } = line;
const threads = line.whole('threads', 1, 1);

// The bare server: this file started again with --bare.

async function sharedListener(fd) {
  const { duplicateListener } = await import('../dist/actors/gateway/http/listener.js');
  return duplicateListener(fd);
}

async function serveBare(listener) {
  const { fastify } = await import('fastify');
  const app = fastify({ logger: false });
  const value = Buffer.alloc(VALUE_BYTES, 'v');
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
  app.get('/v1/kv/:key', (_request, reply) => reply.send(value));
  app.put('/v1/kv/:key', (request, reply) => {
    if (request.body.length !== VALUE_BYTES) throw new Error('short body');
    reply.code(204).send();
  });
  await app.ready();
  if (listener) {
    app.server.listen(listener, () => parentPort.postMessage('listening'));
    return;
  }
  app.server.listen({ host: '127.0.0.1', port: 0 });
  await once(app.server, 'listening');
  const { descriptorOf } = await import('../dist/actors/gateway/http/listener.js');
  await Promise.all(
    Array.from({ length: threads - 1 }, () =>
      once(new Worker(SELF, { workerData: { listenerFd: descriptorOf(app.server) } }), 'message'),
    ),
  );
  // So that a profile is written.
  process.once('SIGTERM', () => process.exit(0));
  console.log(JSON.stringify({ msg: 'listening', url: `http://127.0.0.1:${app.server.address().port}` }));
}

// The bench.

/** Starts a server process and waits for its line with the address. */
async function startServer(argv) {
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  let text = '';
  for (;;) {
    const [chunk] = await Promise.race([
      once(child.stdout, 'data'),
      exited.then(([code]) => Promise.reject(new Error(`server ended with ${code}: ${text}`))),
    ]);
    text += chunk;
    for (const line of text.split('\n').slice(0, -1)) {
      const { msg, url } = JSON.parse(line);
      if (msg !== 'listening') continue;
      child.stdout.resume();
      return {
        url,
        pid: child.pid,
        stop: async () => {
          child.kill('SIGTERM');
          return (await exited)[0];
        },
      };
    }
  }
}

/** Processor time of a process so far, all threads, in µs; undefined where /proc does not tell. Less noisy than rates on a busy machine. */
function cpuMicros(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10_000;
  } catch {
    return undefined;
  }
}

function keyOf(number) {
  return `key-${String(number).padStart(12, '0')}`;
}

/** Values tell their key, so that a wrong answer cannot pass. */
function valueOf(number, generation) {
  return Buffer.alloc(VALUE_BYTES, `${keyOf(number)}/${generation};`);
}

/** A small deterministic generator (mulberry32): the same requests in every round and on every machine. */
function randomOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

async function inParallel(count, width, work) {
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < count) await work(next++);
    }),
  );
}

function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

async function main() {
  const { default: autocannon } = await import('autocannon');
  const seconds = line.number('seconds', 1, args.quick ? 3 : 6);
  const rounds = line.whole('rounds', 1, args.quick ? 1 : 3);
  const connections = line.whole('connections', 1, 64);
  const keys = line.whole('keys', 1, 10_000);
  const directory = mkdtempSync(join(tmpdir(), 'concordkv-bench-http-'));
  const random = randomOf(1);
  const picks = Array.from({ length: PATHS_PER_RUN }, () => Math.floor(random() * keys));

  const bareArguments = [SELF, '--bare', '--threads', String(threads)];
  const storeArguments = [
    CLI, 'serve', '--db', join(directory, 'db'), '--port', '0', '--threads', String(threads), '--durability', 'sync', '--log-level', 'info',
  ]; // prettier-ignore
  const bare = await startServer(bareArguments);
  const store = await startServer(storeArguments);
  const runs = { get: { bare: [], concordkv: [] }, put: { bare: [], concordkv: [] } };
  let failures = 0;

  const requestsOf = (operation, generation) =>
    picks.map((number) => ({
      method: operation === 'get' ? 'GET' : 'PUT',
      path: `/v1/kv/${keyOf(number)}`,
      ...(operation === 'put' && {
        body: valueOf(number, generation),
        headers: { 'content-type': 'application/octet-stream' },
      }),
    }));

  async function run(operation, name, generation, secondsNow = seconds) {
    const { url, pid } = name === 'bare' ? bare : store;
    const requests = requestsOf(operation, generation);
    const cpuBefore = cpuMicros(pid);
    const load = autocannon({ url, connections, duration: secondsNow, requests });
    let threadsBefore;
    let ownBefore;
    // Until then it makes its requests, thousands for each connection.
    load.once('start', () => {
      threadsBefore = threadMicros(pid);
      ownBefore = threadMicros(process.pid);
    });
    const result = await load;
    const own = ownBefore && difference(ownBefore, threadMicros(process.pid));
    const cpuAfter = cpuMicros(pid);
    const costs =
      threadsBefore &&
      costsOf(pid, difference(threadsBefore, threadMicros(pid)), own, result.requests.total, name !== 'bare');
    const bad = result.errors + result.timeouts + result.non2xx;
    if (bad > 0) {
      console.error(
        `${name} ${operation}: ${result.errors} errors, ${result.timeouts} timeouts, ${result.non2xx} other than 2xx`,
      );
      failures += bad;
    }
    return {
      perSecond: result.requests.average,
      cpuUs: cpuBefore === undefined ? undefined : (cpuAfter - cpuBefore) / result.requests.total,
      costs,
      p50Ms: result.latency.p50,
      p99Ms: result.latency.p99,
      maxMs: result.latency.max,
    };
  }

  /** One run of a server of its own under the profiler. */
  async function profiled(operation, name) {
    const profiles = join(directory, `profiles-${operation}-${name}`);
    const server = await startServer([
      ...profileArguments(profiles),
      ...(name === 'bare' ? bareArguments : storeArguments),
    ]);
    const requests = requestsOf(operation, rounds);
    const fromUs = profileClock();
    const result = await autocannon({ url: server.url, connections, duration: seconds, requests });
    const toUs = profileClock();
    if ((await server.stop()) !== 0 || result.errors + result.timeouts + result.non2xx > 0) failures++;
    return readProfiles(profiles, server.pid, fromUs, toUs);
  }

  /** Of the run whose costs are the median; undefined where they are not told. */
  function medianCosts(operation, name) {
    const known = runs[operation][name].flatMap(({ costs }) => costs ?? []);
    return known.sort((a, b) => sumOf(a) - sumOf(b))[known.length >> 1];
  }

  function printCosts() {
    const cores = availableParallelism();
    console.log('\nCPU, µs per request: generator, server, shard, all other threads of both processes');
    for (const operation of ['get', 'put']) {
      const bounds = {};
      for (const name of ['bare', 'concordkv']) {
        const costs = medianCosts(operation, name);
        bounds[name] = boundsOf(costs, cores);
        const { perSecond, limit } = bounds[name];
        const parts = ['client', 'server', 'shard', 'others'].map((thread) =>
          (costs[thread] === undefined ? '' : total(costs[thread]).toFixed(1)).padStart(7),
        );
        console.log(
          `${operation.toUpperCase().padEnd(5)}${name.padEnd(10)}${parts.join('')}  =${sumOf(costs).toFixed(1).padStart(6)}` +
            `   at most ${Math.round(perSecond).toLocaleString('en-US')}/s: ${limit}`,
        );
      }
      const ratio = bounds.concordkv.perSecond / bounds.bare.perSecond;
      console.log(
        `${operation.toUpperCase().padEnd(5)}these costs allow ${ratio.toFixed(2)}x of bare on ${cores} cores`,
      );
    }
  }

  async function printProfile() {
    for (const operation of ['get', 'put']) {
      for (const name of ['bare', 'concordkv']) {
        console.log(`\n${operation.toUpperCase()}, ${name}: CPU by part, µs per request`);
        const lines = breakdown(medianCosts(operation, name), await profiled(operation, name));
        for (const [thread, part, us] of lines) {
          console.log(`  ${thread.padEnd(8)}${part.padEnd(30)}${us.toFixed(1).padStart(6)}`);
        }
      }
    }
  }

  async function check(number, generations) {
    const response = await fetch(`${store.url}/v1/kv/${keyOf(number)}`);
    const body = Buffer.from(await response.arrayBuffer());
    if (response.status !== 200 || !generations.some((generation) => body.equals(valueOf(number, generation)))) {
      console.error(
        `${keyOf(number)}: status ${response.status}, body ${JSON.stringify(body.toString().slice(0, 60))}`,
      );
      failures++;
    }
  }

  try {
    await inParallel(keys, 64, async (number) => {
      const response = await fetch(`${store.url}/v1/kv/${keyOf(number)}`, { method: 'PUT', body: valueOf(number, 0) });
      if (response.status !== 204) throw new Error(`loading ${keyOf(number)}: status ${response.status}`);
    });
    for (const name of ['bare', 'concordkv']) {
      await run('get', name, 0, 1);
      await run('put', name, 0, 1);
    }
    for (let round = 1; round <= rounds; round++) {
      for (const operation of ['get', 'put']) {
        const order = round % 2 === 1 ? ['bare', 'concordkv'] : ['concordkv', 'bare'];
        for (const name of order) {
          runs[operation][name].push(await run(operation, name, round));
        }
      }
    }
    // What was written last stands; keys that no run picked still have the value they were loaded with.
    const written = new Set(picks);
    const generations = Array.from({ length: rounds + 1 }, (_, generation) => generation);
    await inParallel(keys, 64, (number) => check(number, written.has(number) ? generations : [0]));
  } finally {
    await bare.stop();
    const code = await store.stop();
    if (code !== 0) {
      console.error(`the server ended with ${code}`);
      failures++;
    }
  }
  // With the store closed the directory can be opened by a server under the profiler.
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));

  const report = {
    when: new Date().toISOString(),
    machine: { cpu: cpus()[0].model, cores: availableParallelism(), memoryBytes: totalmem(), node: process.version },
    configuration: { threads, connections, keys, valueBytes: VALUE_BYTES, seconds, rounds, durability: 'sync' },
    verifiedKeys: keys,
    failures,
    results: {},
  };
  const rows = [];
  for (const operation of ['get', 'put']) {
    const one = {};
    for (const name of ['bare', 'concordkv']) {
      const of = (field) => median(runs[operation][name].map((entry) => entry[field]));
      one[name] = {
        perSecond: of('perSecond'),
        p50Ms: of('p50Ms'),
        p99Ms: of('p99Ms'),
        maxMs: of('maxMs'),
        cpuUs: of('cpuUs'),
        costs: medianCosts(operation, name),
      };
      rows.push([operation === 'get' ? 'GET' : 'PUT (sync)', name, one[name]]);
    }
    one.ratio = one.concordkv.perSecond / one.bare.perSecond;
    rows.at(-1).push(one.ratio);
    report.results[operation] = one;
  }
  const results = fileURLToPath(new URL('./results/', import.meta.url));
  mkdirSync(results, { recursive: true });
  const file = join(results, `http-${report.when.replaceAll(/[:.]/g, '-')}.json`);
  writeFileSync(file, JSON.stringify(report, null, 2) + '\n');
  if (args.json) console.log(JSON.stringify(report));
  else {
    console.log(
      `${threads} server thread(s), ${connections} connections, ${VALUE_BYTES}-byte values, ${keys} keys, ` +
        `${rounds} round(s) of ${seconds} s, Node ${process.version}, ${availableParallelism()} cores\n`,
    );
    console.log('operation    server        requests/s   p50 ms   p99 ms   max ms   cpu µs   of bare');
    for (const [operation, name, { perSecond, p50Ms, p99Ms, maxMs, cpuUs }, ratio] of rows) {
      console.log(
        operation.padEnd(12),
        name.padEnd(10),
        Math.round(perSecond).toLocaleString('en-US').padStart(13),
        String(p50Ms).padStart(8),
        String(p99Ms).padStart(8),
        String(maxMs).padStart(8),
        (cpuUs === undefined ? '' : cpuUs.toFixed(1)).padStart(8),
        ratio === undefined ? '' : `${ratio.toFixed(2)}x`.padStart(9),
      );
    }
    console.log(`\n${failures === 0 ? `all ${keys} keys verified` : `${failures} FAILURES`}; written to ${file}`);
  }
  const hasCosts = medianCosts('put', 'concordkv') !== undefined;
  if (hasCosts && !args.json) printCosts();
  if (hasCosts && args.profile) await printProfile();
  return failures === 0 ? 0 : 1;
}

if (!isMainThread) await serveBare(await sharedListener(workerData.listenerFd));
else if (args.bare) await serveBare(undefined);
else process.exitCode = await main();
