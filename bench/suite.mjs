/**
 * The course of a run: which engine does what, when. Returns plain data; printing is report.mjs.
 *
 *   each engine in a process of its own ─┐
 *   each row of a workload: warm-up, then `rounds` times  (ours, peer, peer, ours, peer, peer, …)  → median of the rounds
 *   each change of durability, and the end: every store is read back and every byte compared
 *
 * Between turns the other processes are idle: nothing is sent to them, and their leftover work (compaction, checkpoint) is waited for.
 * Threads: the main thread of the parent process.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Child } from './support/child.mjs';
import { Histogram } from './support/histogram.mjs';
import { diskBytes, machineCpuSeconds, syncDisks, waitUntilIdle } from './support/machine.mjs';
import { RECORD_BYTES } from './support/records.mjs';
import { workloads } from './workloads/index.mjs';
import { insertsPerOp } from './workloads/ycsb.mjs';

export const OURS = 'concordkv';
export const PEERS = ['lmdb', 'classic-level'];
export const WORKLOADS = [...workloads.keys(), 'open'];

const IDLE_WAIT_MS_MAX = 10_000;
/** Other processes using more than this part of a core during a turn mark its result. */
const FOREIGN_CORES_MAX = 0.25;
/** Shorter turns cannot be judged: the kernel counts CPU time in steps of 10 ms. */
const JUDGED_SECONDS_MIN = 0.2;

export const SIZES = {
  // budgetMs: what is left when it is used up runs one round per row instead of all.
  full: {
    n: 1_000_000,
    rounds: 3,
    quick: false,
    ops: (full) => full,
    durationMs: 1500,
    idleMs: 40,
    budgetMs: Infinity,
    warmups: 1,
  },
  quick: {
    n: 50_000,
    rounds: 3,
    quick: true,
    ops: (_, quick) => quick,
    durationMs: 150,
    idleMs: 20,
    budgetMs: 30_000,
    warmups: 1,
  },
  /** Runs everything, measures nothing. */
  smoke: {
    n: 500,
    rounds: 1,
    quick: true,
    ops: (_, quick) => Math.min(quick, 400),
    durationMs: 30,
    idleMs: 10,
    budgetMs: Infinity,
    warmups: 0,
  },
};

/**
 * options: { size: SIZES.…, n?, rounds?, seed, peers, only?, rows?, directory }; onWorkload(name, question, rows) is told as each is done,
 * onProgress(text) more often. Throws if an engine fails; wrong values are counted in the result.
 */
export async function runSuite(options, { onWorkload = () => {}, onProgress = () => {} } = {}) {
  const run = new Run(options, onProgress);
  try {
    await run.start();
    for (const name of WORKLOADS) {
      if (options.only && !options.only.has(name)) continue;
      const start = performance.now();
      const rows = name === 'open' ? await run.openings() : await run.workload(workloads.get(name));
      const question =
        workloads.get(name)?.question ?? 'opening a store that was closed properly, until the first value is read';
      run.durations[name] = (performance.now() - start) / 1000;
      onWorkload(name, question, rows);
    }
    await run.verifyAll();
    await run.closeAll();
    return run.results();
  } finally {
    await run.end();
  }
}

class Run {
  #options;
  #scale;
  #progress;
  #engines;
  #stations = new Map();
  #rows = new Map();
  #versions = {};
  #wrong = 0;
  #complaints = [];
  #verifiedEntries = 0;
  #startedAt = performance.now();
  memory = {};
  /** Seconds each workload took in all, preparation included. */
  durations = {};

  constructor(options, onProgress) {
    const { size } = options;
    this.#options = options;
    this.#scale = { ...size, n: options.n ?? size.n, rounds: options.rounds ?? size.rounds };
    this.#engines = [OURS, ...options.peers];
    this.#progress = onProgress;
  }

  async start() {
    for (const engineName of this.#engines) this.#stations.set(engineName, await this.#startStation(engineName));
  }

  async #startStation(engineName) {
    this.#progress(`${engineName}: start`);
    const directory = join(this.#options.directory, engineName);
    mkdirSync(directory, { recursive: true });
    const station = {
      engineName,
      directory,
      child: new Child(engineName),
      durability: undefined,
      loaded: false,
      dirty: false,
    };
    const { version } = await station.child.call('init', {
      engineName,
      loadedCount: this.#scale.n,
      capacity: this.#scale.n + this.#insertsPlanned(),
      seed: this.#options.seed,
      directory,
    });
    this.#versions[engineName] = version;
    return station;
  }

  #insertsPlanned() {
    let ops = 0;
    for (const workload of workloads.values()) {
      for (const row of workload.rows(this.#scale)) {
        if (!row.inserts) continue;
        const turnsOfOne = Math.max(
          ...this.#engines.map((e) => row.contenders.filter(({ engine }) => engine === e).length),
        );
        ops += row.ops * turnsOfOne * (this.#scale.rounds + this.#scale.warmups);
      }
    }
    return Math.ceil(ops * insertsPerOp) + 1000;
  }

  async workload(workload) {
    const rows = [];
    const wanted = this.#options.rows ?? '';
    for (const row of workload.rows(this.#scale)) {
      if (row.row.includes(wanted)) rows.push(await this.#row(workload, row));
    }
    this.#rows.set(workload.name, rows);
    return rows;
  }

  async #row(workload, row) {
    const contenders = row.contenders.filter(({ engine }) => this.#stations.has(engine));
    const rounds = this.#overBudget() ? 1 : Math.min(row.rounds ?? this.#scale.rounds, this.#scale.rounds);
    const tallies = contenders.map(({ label, engine }) => ({
      label,
      engine,
      rates: [],
      histograms: {},
      extras: [],
      disturbed: false,
    }));
    if (workload.store !== 'empty')
      for (const station of this.#stations.values()) await this.#prepare(station, workload.store);
    for (let round = -this.#scale.warmups; round < rounds; round++) {
      for (const [index, contender] of contenders.entries()) {
        this.#progress(
          `${workload.name}: ${row.row}: ${contender.label}, ${round < 0 ? 'warm-up' : `round ${round + 1}`}`,
        );
        const station = this.#stations.get(contender.engine);
        const ops = (round < 0 ? row.warmupOps : undefined) ?? row.opsOf?.[contender.engine] ?? row.ops;
        if (workload.store === 'empty') {
          await this.#reset(station);
          await this.#allIdle();
        }
        const turn = await this.#turn(station, workload.name, contender.variant, { ...row.params, ops, round });
        if (workload.store === 'empty') {
          station.loaded = ops === this.#scale.n;
          station.dirty = true;
          if (round === rounds - 1) await this.#measureMemory(station, row.row);
        }
        if (row.writes) {
          station.dirty = true;
          await this.#allIdle();
        }
        if (round >= 0) addTurn(tallies[index], turn);
      }
    }
    return { row: row.row, unit: 'ops/s', contenders: tallies.map(summarize) };
  }

  #overBudget() {
    return performance.now() - this.#startedAt > this.#scale.budgetMs;
  }

  async #turn(station, workload, variant, params) {
    const machineBefore = machineCpuSeconds();
    const ownBefore = process.cpuUsage();
    const start = performance.now();
    const turn = await station.child.call('run', { workload, variant, params });
    const wallSeconds = (performance.now() - start) / 1000;
    const own = process.cpuUsage(ownBefore);
    this.#count(turn);
    let foreignCores;
    if (machineBefore !== undefined && wallSeconds >= JUDGED_SECONDS_MIN) {
      const used = machineCpuSeconds() - machineBefore - turn.cpuSeconds - (own.user + own.system) / 1e6;
      foreignCores = Math.max(0, used / wallSeconds);
    }
    return { ...turn, foreignCores };
  }

  #count({ wrong, complaints }) {
    this.#wrong += wrong;
    this.#complaints.push(...complaints);
  }

  async #reset(station) {
    await station.child.call('reset', { durability: 'os' });
    station.durability = 'os';
    station.loaded = false;
  }

  /** The loaded store, open with the durability. */
  async #prepare(station, durability) {
    const { child, engineName } = station;
    if (!station.loaded) {
      this.#progress(`${engineName}: load`);
      await this.#reset(station);
      await child.call('load');
      await child.call('settle');
      station.loaded = true;
      station.dirty = true;
      await this.#allIdle();
    }
    if (station.durability !== durability) {
      await this.#verify(station);
      await child.call('reopen', { durability });
      station.durability = durability;
    }
  }

  async #measureMemory(station, row) {
    await station.child.call('settle');
    const { usedBytes, highWaterBytes, rssGrowthBytes, entries } = await station.child.call('memory');
    this.memory[row] ??= {};
    this.memory[row][station.engineName] = {
      rawBytes: entries * RECORD_BYTES,
      usedBytes,
      highWaterBytes,
      rssGrowthBytes,
      diskBytes: diskBytes(station.directory),
    };
  }

  async #allIdle() {
    if (this.#scale.warmups === 0) return;
    if (!this.#scale.quick) syncDisks();
    const pids = [...this.#stations.values()].map(({ child }) => child.pid);
    await waitUntilIdle(pids, this.#scale.idleMs, IDLE_WAIT_MS_MAX);
  }

  async #verify(station) {
    if (!station.dirty) return;
    this.#progress(`${station.engineName}: read everything back`);
    const verdict = await station.child.call('verify');
    this.#verifiedEntries += verdict.entries;
    this.#count(verdict);
    station.dirty = false;
  }

  async verifyAll() {
    for (const station of this.#stations.values()) if (station.loaded) await this.#verify(station);
  }

  /** Closes every store, then opens each in a fresh process, `rounds` times; the files are in the page cache. */
  async openings() {
    const tallies = [];
    for (const station of this.#stations.values()) {
      await this.#prepare(station, 'os');
      await this.#verify(station);
      await station.child.call('saveExpectation', { file: this.#expectationFile(station) });
      await station.child.call('close');
      const closed = { rawBytes: this.#scale.n * RECORD_BYTES, diskBytes: diskBytes(station.directory) };
      (this.memory['after closing'] ??= {})[station.engineName] = closed;
      tallies.push({ label: station.engineName, engine: station.engineName, rates: [], histograms: {}, extras: [] });
    }
    const rounds = this.#overBudget() ? 1 : this.#scale.rounds;
    for (let round = 0; round < rounds; round++) {
      for (const [index, engineName] of this.#engines.entries()) {
        await this.#stations.get(engineName).child.end();
        const station = await this.#startStation(engineName);
        this.#stations.set(engineName, station);
        this.#progress(`open: ${engineName}, round ${round + 1}`);
        await station.child.call('loadExpectation', { file: this.#expectationFile(station) });
        const opening = await station.child.call('timedOpen', { durability: 'os' });
        this.#count(opening);
        tallies[index].rates.push(opening.ms);
        station.durability = 'os';
        station.loaded = true;
        station.dirty = round === rounds - 1;
        if (!station.dirty) await station.child.call('close');
      }
    }
    const rows = [{ row: 'open', unit: 'ms', contenders: tallies.map(summarize) }];
    this.#rows.set('open', rows);
    return rows;
  }

  #expectationFile({ engineName }) {
    return join(this.#options.directory, `${engineName}.expected`);
  }

  results() {
    return {
      scale: { n: this.#scale.n, rounds: this.#scale.rounds },
      versions: this.#versions,
      workloads: Object.fromEntries(this.#rows),
      memory: this.memory,
      durations: this.durations,
      verifiedEntries: this.#verifiedEntries,
      wrong: this.#wrong,
      complaints: this.#complaints,
    };
  }

  async closeAll() {
    for (const { child } of this.#stations.values()) await child.call('close');
  }

  async end() {
    for (const { child } of this.#stations.values()) await child.end();
    for (const { directory } of this.#stations.values()) rmSync(directory, { recursive: true, force: true });
  }
}

function addTurn(tally, { ops, seconds, histograms, extra, foreignCores }) {
  tally.rates.push(ops / seconds);
  for (const [kind, counts] of Object.entries(histograms)) (tally.histograms[kind] ??= new Histogram()).merge(counts);
  if (extra !== undefined) tally.extras.push(extra);
  if (foreignCores > FOREIGN_CORES_MAX) tally.disturbed = true;
}

function summarize({ label, engine, rates, histograms, extras, disturbed }) {
  const latency = {};
  for (const [kind, histogram] of Object.entries(histograms)) {
    const summary = histogram.summary();
    if (summary !== undefined) latency[kind] = summary;
  }
  return { label, engine, median: median(rates), rates, latency, extras, disturbed };
}

function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
