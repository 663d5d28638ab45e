/**
 * A process that wants a directory. Arguments: directory, mode, [number]. Says `ready`, waits for a line on standard input, then
 *   hold        acquires, says `won` or the error's code and pid, and keeps the lock until it is killed
 *   release     the same, and releases at the next line
 *   die-at N    kills itself just before its N-th change of the directory; says `won` and dies if it makes fewer
 *   loop MS     acquires and lets go in a loop, by release or by death, and proves that it was alone each time
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { acquireDirectoryLock } from '../../../dist/shared/env/directory-lock.js';

const [directory, mode, number] = process.argv.slice(2);
const say = (text) => fs.writeSync(1, `${text}\n`);
const nextLine = () => new Promise((resolve) => process.stdin.once('data', resolve));
const die = () => {
  process.kill(process.pid, 'SIGKILL');
  for (;;);
};

if (mode === 'die-at') {
  let left = Number(number);
  for (const name of ['linkSync', 'renameSync', 'unlinkSync', 'writeFileSync']) {
    const genuine = fs[name];
    fs[name] = (...rest) => {
      if (--left === 0) die();
      return genuine(...rest);
    };
  }
  syncBuiltinESMExports();
}

async function attempt() {
  try {
    return await acquireDirectoryLock(directory);
  } catch (error) {
    if (error.code !== 'ERR_LOCKED') throw error;
    say(`${error.code} ${error.details.pid}`);
    return undefined;
  }
}

/** Fails loudly if another living process is between its two lines. */
function proveAlone() {
  const path = join(directory, 'inside');
  for (;;) {
    try {
      fs.writeFileSync(path, String(process.pid), { flag: 'wx' });
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const other = Number(fs.readFileSync(path, 'latin1'));
    // A killed process that its parent has not collected yet still has a pid; its state is Z.
    let isAlive;
    try {
      isAlive = !/\) [ZX] /.test(fs.readFileSync(`/proc/${other}/stat`, 'latin1'));
    } catch {
      isAlive = false;
    }
    if (isAlive) {
      say(`VIOLATION: ${other} and ${process.pid} both hold ${directory}`);
      process.exit(1);
    }
    fs.unlinkSync(path);
  }
}

say('ready');
await nextLine();

if (mode === 'loop') {
  const end = Date.now() + Number(number);
  let rounds = 0;
  while (Date.now() < end) {
    let lock;
    try {
      lock = await acquireDirectoryLock(directory);
    } catch (error) {
      if (error.code !== 'ERR_LOCKED') throw error;
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
      continue;
    }
    proveAlone();
    rounds++;
    if (Math.random() < 0.5) await new Promise((resolve) => setTimeout(resolve, Math.random() * 3));
    if (Math.random() < 0.1) {
      say(`rounds ${rounds}`);
      die();
    }
    fs.unlinkSync(join(directory, 'inside'));
    lock.release();
  }
  say(`rounds ${rounds}`);
  process.exit(0);
}

const lock = await attempt();
if (lock === undefined) process.exit(0);
say('won');
if (mode === 'die-at') die();
if (mode === 'release') {
  await nextLine();
  lock.release();
  process.exit(0);
}
process.stdin.resume();
