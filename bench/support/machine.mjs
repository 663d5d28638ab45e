/**
 * The machine: what it is, what else runs on it, what is on its disk. Linux gives all of it; elsewhere the foreign load reads as
 * unknown and everything else still works. Threads: the parent's.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, lstatSync, statfsSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const TMPFS_MAGIC = 0x01021994;
const JIFFIES_PER_SECOND = 100;
/** So often a wait says that it goes on. */
const TELL_MS = 30_000;

export function describeMachine(directory) {
  return {
    node: process.version,
    v8: process.versions.v8,
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    kernel: `${os.type()} ${os.release()}`,
    // What was set for this run goes for all engines.
    tunables: process.env.GLIBC_TUNABLES,
    disk: statfsSync(directory).type === TMPFS_MAGIC ? 'tmpfs (durable figures mean nothing here)' : directory,
  };
}

export function revision(directory) {
  try {
    const git = (...args) => execFileSync('git', args, { cwd: directory, encoding: 'utf8', stdio: 'pipe' }).trim();
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '--', 'src') === '' ? '' : '+changes');
  } catch {
    return 'unknown';
  }
}

/** CPU seconds used by the whole machine so far, or undefined where that is not to be had. */
export function machineCpuSeconds() {
  try {
    const fields = /^cpu +(.*)$/m.exec(readFileSync('/proc/stat', 'utf8'))[1].split(' ').map(Number);
    const [user, nice, system, , , irq, softirq] = fields;
    return (user + nice + system + irq + softirq) / JIFFIES_PER_SECOND;
  } catch {
    return undefined;
  }
}

function processCpuTicks(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

/**
 * Waits until none of the processes has computed for `windowMs` (compaction, checkpoints after a turn), `msMax` at most. One engine's
 * leftover work must not slow the next engine's turn.
 */
export async function waitUntilIdle(pids, windowMs, msMax) {
  try {
    let before = pids.map(processCpuTicks);
    let toldMs = 0;
    for (let waitedMs = 0; waitedMs < msMax; waitedMs += windowMs) {
      await sleep(windowMs);
      if (waitedMs - toldMs >= TELL_MS) {
        toldMs = waitedMs;
        process.stderr.write(`waiting for the engines to come to rest, ${Math.round(waitedMs / 1000)} s so far\n`);
      }
      const after = pids.map(processCpuTicks);
      if (after.every((ticks, i) => ticks === before[i])) return;
      before = after;
    }
  } catch {
    await sleep(windowMs);
  }
}

/** Writes back dirty pages, so that no engine pays for another's. */
export function syncDisks() {
  try {
    execFileSync('sync', { stdio: 'ignore' });
  } catch {
    // Without the command the figures are only noisier.
  }
}

/** Bytes allocated on disk by the files below a directory. */
export function diskBytes(directory) {
  let sum = 0;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) sum += lstatSync(join(entry.parentPath ?? entry.path, entry.name)).blocks * 512;
  }
  return sum;
}
