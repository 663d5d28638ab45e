/**
 * Who a process is, so that another one can tell later whether it still lives: a pid alone is not enough, pids are reused.
 *
 *   same boot, same pid namespace        the kernel answers: pid exists, with the recorded start time
 *   other boot, same host name           dead: the machine has restarted since
 *   other pid namespace or other host    unknown: its pids mean nothing here (containers that share a volume)
 *
 * Where there is no /proc only the pid is compared; a reused pid then looks alive, which errs on the safe side.
 *
 * Threads: any. All threads of a process have one identity.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks between the boot and the start of the process; null where there is no /proc. */
  readonly startTicks: number | null;
  readonly bootId: string | null;
  readonly pidNamespace: string | null;
  readonly host: string;
}

export type Liveness = 'alive' | 'dead' | 'unknown';

const PID_MAX = 0x7fffffff;

export function ownIdentity(): ProcessIdentity {
  return {
    pid: process.pid,
    startTicks: readStat(process.pid)?.startTicks ?? null,
    bootId: readOrNull(() => readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()),
    pidNamespace: readOrNull(() => readlinkSync('/proc/self/ns/pid')),
    host: hostname(),
  };
}

export function livenessOf(other: ProcessIdentity, own: ProcessIdentity): Liveness {
  if (other.bootId !== own.bootId) return other.host === own.host ? 'dead' : 'unknown';
  if (other.pidNamespace !== own.pidNamespace) return 'unknown';
  if (!pidExists(other.pid)) return 'dead';
  const stat = readStat(other.pid);
  // Not readable: it ended just now, or /proc hides other users' processes.
  if (stat === undefined) return pidExists(other.pid) ? 'alive' : 'dead';
  if (other.startTicks !== null && stat.startTicks !== other.startTicks) return 'dead';
  // A killed process stays a zombie until its parent collects it. While it has threads left, one of them may still be inside a write.
  return stat.isZombie && stat.threadCount <= 1 ? 'dead' : 'alive';
}

export function isSameProcess(other: ProcessIdentity, own: ProcessIdentity): boolean {
  return (
    other.pid === own.pid &&
    other.startTicks === own.startTicks &&
    other.bootId === own.bootId &&
    other.pidNamespace === own.pidNamespace &&
    other.host === own.host
  );
}

/** The identity in a parsed JSON value of any origin; undefined if there is none. */
export function identityFrom(value: unknown): ProcessIdentity | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { pid, startTicks, bootId, pidNamespace, host } = value as Record<string, unknown>;
  if (typeof pid !== 'number' || !Number.isInteger(pid) || pid < 1 || pid > PID_MAX) return undefined;
  if (startTicks !== null && typeof startTicks !== 'number') return undefined;
  if (bootId !== null && typeof bootId !== 'string') return undefined;
  if (pidNamespace !== null && typeof pidNamespace !== 'string') return undefined;
  if (typeof host !== 'string') return undefined;
  return { pid, startTicks, bootId, pidNamespace, host };
}

function pidExists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it exists and belongs to someone else.
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

interface ProcessStat {
  readonly isZombie: boolean;
  readonly threadCount: number;
  readonly startTicks: number;
}

/** Fields 3, 20 and 22 of proc_pid_stat(5). Field 2, the name, may hold blanks and parentheses: fields count from the last ')'. */
function readStat(pid: number): ProcessStat | undefined {
  const line = readOrNull(() => readFileSync(`/proc/${pid}/stat`, 'latin1'));
  if (line === null) return undefined;
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ');
  const state = fields[0];
  const threadCount = Number(fields[20 - 3]);
  const startTicks = Number(fields[22 - 3]);
  if (state === undefined || !Number.isInteger(threadCount) || !Number.isInteger(startTicks)) return undefined;
  return { isZombie: state === 'Z' || state === 'X', threadCount, startTicks };
}

function readOrNull(read: () => string): string | null {
  try {
    return read();
  } catch {
    return null;
  }
}
