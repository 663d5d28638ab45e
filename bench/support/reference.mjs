/**
 * The engines of reference/engines.c, compiled where the bench runs: the C original's shapes on this machine. Where there is no C compiler there is no
 * reference, and the bench says so.
 */
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { MIXES, THREADS } from './mix-run.mjs';

const SOURCE = fileURLToPath(new URL('../reference/engines.c', import.meta.url));
const FLAGS = ['-O2', '-pthread'];
/** In random order the original's hash ends with an error; the reference does not. */
const ENGINES = ['hash', 'btree', 'rbtree', 'memtable'];

const run = promisify(execFile);

export class Reference {
  #directory = mkdtempSync(join(tmpdir(), 'concordkv-reference-'));
  #program = join(this.#directory, 'engines');
  /** `engine records order` → [{ set, get, bytesPerEntry }], a figure of each run. */
  #figures = new Map();
  #mixes = new Map();

  constructor(compiler) {
    try {
      execFileSync(compiler, [...FLAGS, SOURCE, '-o', this.#program], { stdio: ['ignore', 'ignore', 'pipe'] });
    } catch (error) {
      this.remove();
      throw error;
    }
    this.configuration = `${compiler} ${FLAGS.join(' ')}, ${execFileSync(compiler, ['-dumpfullversion', '-dumpversion']).toString().trim()}`;
  }

  /** undefined where there is no compiler. $CC, else cc. */
  static compile() {
    try {
      return new Reference(process.env.CC ?? 'cc');
    } catch (error) {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    }
  }

  async #call(...words) {
    return JSON.parse((await run(this.#program, words.map(String))).stdout);
  }

  /** Runs the plan of an engine once. A large fill gets a process of its own, as fresh as ours. */
  async measure(engine, plan, seed) {
    if (!ENGINES.includes(engine)) return;
    for (const { records, order, rounds, oneByOne } of plan) {
      if (oneByOne) continue;
      const name = `${engine} ${records} ${order}`;
      const figures = await this.#call(engine, records, order, records >= 100_000 ? 1 : rounds, seed);
      this.#figures.set(name, [...(this.#figures.get(name) ?? []), figures]);
    }
  }

  async measureMix(name, operations, keys, seed) {
    const { get, delete: deletes } = MIXES[name];
    const { millionsPerSecond } = await this.#call('mix', get, deletes, operations, keys, THREADS, seed);
    this.#mixes.set(name, [...(this.#mixes.get(name) ?? []), millionsPerSecond]);
  }

  /** { set, get, bytesPerEntry }: [lowest, highest] of the runs. */
  of({ engine, records, order, oneByOne }) {
    const runs = oneByOne ? undefined : this.#figures.get(`${engine} ${records} ${order}`);
    if (runs === undefined) return undefined;
    const range = (what) => rangeOf(runs.map((figures) => figures[what]));
    return { set: range('set'), get: range('get'), bytesPerEntry: range('bytesPerEntry') };
  }

  ofMix(name) {
    const runs = this.#mixes.get(name);
    return runs === undefined ? undefined : rangeOf(runs);
  }

  toJSON() {
    return {
      configuration: this.configuration,
      engines: Object.fromEntries(this.#figures),
      mixes: Object.fromEntries(this.#mixes),
    };
  }

  remove() {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

function rangeOf(numbers) {
  return [Math.min(...numbers), Math.max(...numbers)];
}
