/**
 * Processes that are killed with SIGKILL, one after another, over one store. Each has loaded the code before it is given its options, so that it is killed at
 * its work. It says `{ verified, … }` when it has looked at what it found, `{ problem }` when something is wrong with that, and what the caller waits for.
 */
import { fork } from 'node:child_process';

/** A process that has loaded the code and waits. */
export function conceive(script) {
  return fork(script, [], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
}

/**
 * Gives the waiting process its options and runs it until it is killed or says what is wrong. `killIn(message, isVerified)`: ms from this message on until it
 * is killed; undefined: it goes on. options.killEarlyMs: it is killed then, whatever it does.
 * @returns what it has said of what it found
 */
export function live(child, options, verifyMsMax, killIn) {
  return new Promise((resolve, reject) => {
    let problem;
    let report;
    let hangs = false;
    let timer = setTimeout(() => {
      hangs = options.killEarlyMs === undefined;
      child.kill('SIGKILL');
    }, options.killEarlyMs ?? verifyMsMax);
    child.on('message', (message) => {
      if (message.problem !== undefined) problem = message.problem;
      if (message.verified !== undefined) report = message;
      const ms = options.killEarlyMs === undefined ? killIn(message, report !== undefined) : undefined;
      if (ms === undefined) return;
      clearTimeout(timer);
      timer = setTimeout(() => child.kill('SIGKILL'), ms);
    });
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      if (problem !== undefined) reject(new Error(problem));
      else if (hangs) reject(new Error(`life ${options.life} did not verify what it found within ${verifyMsMax} ms`));
      else if (signal === 'SIGKILL' || (code === 0 && options.last)) resolve(report);
      else reject(new Error(`life ${options.life} ended with code ${code}, signal ${signal}`));
    });
    child.send(options);
  });
}
