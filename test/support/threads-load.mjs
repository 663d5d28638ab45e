/**
 * A load that knows what must be there: many callers write self-describing values to keys of their own, remember what was acknowledged and what
 * was only tried, and read all the time. One instance per thread; keys begin with its name.
 *
 *   value   key|generation|filler|hash of all before
 */
import { createHash } from 'node:crypto';

export function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function valueOf(key, generation, bytes) {
  const body = `${key}|${generation}|`.padEnd(bytes, String.fromCharCode(97 + (generation % 26)));
  return body + createHash('md5').update(body).digest('base64');
}

/** The generation, or undefined when the value is damaged or another key's. */
export function generationOf(key, value) {
  const body = value.slice(0, -24);
  if (createHash('md5').update(body).digest('base64') !== value.slice(-24)) return undefined;
  const [storedKey, generation] = body.split('|', 2);
  return storedKey === key ? Number(generation) : undefined;
}

/** Retries are the caller's business: these say "outcome unknown", nothing else is tolerated. */
const TOLERATED = new Set(['ERR_SHARD_RESTARTED', 'ERR_SHARD_FAILED']);

export class Load {
  /** Facts that must not be: the test fails if there are any. */
  problems = [];
  acknowledged = 0;
  reads = 0;
  /** Calls with an unknown outcome, by code. */
  failures = {};
  #db;
  #name;
  #random;
  #keys;
  #callers;
  #largeEvery;
  /** Per key: what is certainly there at least, and the highest generation that was tried. */
  #known = new Map();
  #stopped = false;
  #least = { acknowledged: 0, reads: 0 };
  #increments = { acknowledged: 0, tried: 0 };

  constructor(db, { name, seed, keys = 400, callers = 16, largeEvery = 0 }) {
    this.#db = db;
    this.#name = name;
    this.#random = mulberry32(seed);
    this.#keys = keys;
    this.#callers = callers;
    this.#largeEvery = largeEvery;
  }

  /** Ends it, though not before so much has been done: however slow the machine is, it has been under load. */
  stop({ acknowledged = 0, reads = 0 } = {}) {
    this.#least = { acknowledged, reads };
    this.#stopped = true;
  }

  get #goesOn() {
    return !this.#stopped || this.acknowledged < this.#least.acknowledged || this.reads < this.#least.reads;
  }

  async run() {
    const writers = Array.from({ length: this.#callers }, (_, caller) => this.#write(caller));
    await Promise.all([...writers, this.#read(), this.#increment()]);
  }

  /** Each caller has keys of its own, so the order of writes to a key is known. */
  async #write(caller) {
    const random = this.#random;
    for (let turn = 0; this.#goesOn; turn++) {
      const key = `${this.#name}:${caller}:${Math.floor(random() * (this.#keys / this.#callers))}`;
      const known = this.#known.get(key) ?? { least: 0, tried: 0, deleted: false };
      this.#known.set(key, known);
      const generation = ++known.tried;
      try {
        if (random() < 0.1) {
          // A delete: from now on, until the next write, the key may be absent.
          known.deleted = true;
          await this.#db.del(key);
          if (this.#db.getSync(key) !== undefined) this.problems.push(`${key} is there after its delete`);
        } else {
          const large = this.#largeEvery > 0 && turn % this.#largeEvery === this.#largeEvery - 1;
          await this.#db.put(key, valueOf(key, generation, large ? 300_000 : 40 + Math.floor(random() * 200)));
          known.deleted = false;
        }
        known.least = generation;
        this.acknowledged++;
      } catch (error) {
        this.#failed(error);
      }
      this.#look(key, known);
    }
  }

  #failed(error) {
    if (!TOLERATED.has(error.code)) this.problems.push(`a call failed with ${error.code ?? ''} ${error.stack}`);
    this.failures[error.code] = (this.failures[error.code] ?? 0) + 1;
    if (error.code === 'ERR_SHARD_FAILED') this.stop();
  }

  /** What a reader may see of the key now. */
  #look(key, known) {
    let value;
    try {
      value = this.#db.getSync(key);
    } catch (error) {
      this.problems.push(`a read failed with ${error.code ?? ''} ${error.message}`);
      return;
    }
    this.reads++;
    if (value === undefined) {
      if (known.least > 0 && !known.deleted)
        this.problems.push(`${key}: ${known.least} was acknowledged, nothing is there`);
      return;
    }
    const generation = generationOf(key, value);
    if (generation === undefined) this.problems.push(`${key} holds a damaged value`);
    else if (generation > known.tried)
      this.problems.push(`${key}: ${generation} is there, ${known.tried} was the last one tried`);
    // A delete takes a generation as well: what is older than an acknowledged delete must not come back.
    else if (generation < known.least)
      this.problems.push(`${key}: ${known.least} was acknowledged, ${generation} is there`);
  }

  async #read() {
    while (this.#goesOn) {
      const until = performance.now() + 0.3;
      while (performance.now() < until) {
        const caller = Math.floor(this.#random() * this.#callers);
        const key = `${this.#name}:${caller}:${Math.floor(this.#random() * (this.#keys / this.#callers))}`;
        const known = this.#known.get(key);
        if (known !== undefined) this.#look(key, known);
      }
      // Leaves the core to others: on two cores readers that never rest are all that runs.
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  /** update() from several callers at one key: no increment that was acknowledged is lost, none is applied twice. */
  async #increment() {
    const key = `${this.#name}:counter`;
    const run = async () => {
      while (this.#goesOn) {
        this.#increments.tried++;
        try {
          await this.#db.update(key, (value) => String(Number(value ?? 0) + 1));
          this.#increments.acknowledged++;
        } catch (error) {
          this.#failed(error);
        }
      }
    };
    await Promise.all([run(), run(), run()]);
  }

  /** Everything again, when nothing is in flight; on the same pool or on one that was opened later. */
  verify(db = this.#db) {
    this.#db = db;
    for (const [key, known] of this.#known) this.#look(key, known);
    const { acknowledged, tried } = this.#increments;
    const counter = Number(db.getSync(`${this.#name}:counter`) ?? 0);
    if (counter < acknowledged || counter > tried) {
      this.problems.push(`the counter is ${counter}; ${acknowledged} increments were acknowledged, ${tried} tried`);
    }
    return this.problems;
  }

  get report() {
    const { acknowledged, reads, failures } = this;
    return { acknowledged, reads, failures, problems: this.problems.slice(0, 10) };
  }
}
