/**
 * The parent's end of an engine's process (host.mjs). One request at a time.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const HOST = fileURLToPath(new URL('./host.mjs', import.meta.url));
/** The longest requests of full runs take minutes; an engine that hangs must not hang the run. */
const CALL_MS_MAX = 1_200_000;

const living = new Set();

/** For the way out of a run that was interrupted. */
export function killChildren() {
  for (const child of living) child.kill('SIGKILL');
}

export class Child {
  engineName;
  #process;
  #waiting = new Map();
  #nextId = 1;
  #gone;

  /** host: the script of the process; nodeArguments: more of them. */
  constructor(engineName, host = HOST, nodeArguments = []) {
    this.engineName = engineName;
    // Typed arrays (histograms) travel as such; gc() before a turn keeps one turn's garbage out of the next.
    this.#process = fork(host, { serialization: 'advanced', execArgv: ['--expose-gc', ...nodeArguments] });
    this.#process.on('message', ({ id, result, error }) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting.resolve(result);
      else
        waiting.reject(
          Object.assign(new Error(`${engineName}: ${waiting.method}: ${error.message}`), { code: error.code }),
        );
    });
    living.add(this.#process);
    this.#gone = new Promise((resolve) => {
      this.#process.on('exit', (exitCode, signal) => {
        living.delete(this.#process);
        const reason = new Error(`the process of ${engineName} ended (${signal ?? exitCode})`);
        for (const { reject } of this.#waiting.values()) reject(reason);
        this.#waiting.clear();
        resolve();
      });
    });
  }

  get pid() {
    return this.#process.pid;
  }

  call(method, args = {}) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const late = () => fail(new Error(`${this.engineName}: no answer to ${method} in ${CALL_MS_MAX / 1000} s`));
      const timer = setTimeout(late, CALL_MS_MAX);
      const fail = (error) => {
        if (this.#waiting.delete(id)) settle(reject)(error);
      };
      const settle = (done) => (outcome) => {
        clearTimeout(timer);
        done(outcome);
      };
      this.#waiting.set(id, { method, resolve: settle(resolve), reject: settle(reject) });
      this.#process.send({ id, method, args }, (error) => {
        if (error) fail(error);
      });
    });
  }

  /** Waits until the process has ended by itself. */
  left() {
    return this.#gone;
  }

  /** Ends the process, whatever it is doing. Close the store before, if its files matter. */
  async end() {
    if (this.#process.exitCode === null && this.#process.signalCode === null) this.#process.kill('SIGKILL');
    await this.#gone;
  }
}
