/** A lock table with words for keys, whose events read as lines: `2 got a`, `3 waits for 1,2`, `4 failed ERR_LOCK_TIMEOUT`. */
import type { LockDescription } from '../../../dist/engines/txn/locks/description.js';
import type { LockOwner, LockPoint, LockWait } from '../../../dist/engines/txn/locks/lock.js';
import { LockTable } from '../../../dist/engines/txn/locks/lock-table.js';
import type { DeadlockPolicy, LockTableOptions } from '../../../dist/engines/txn/locks/lock-table.js';
import { LockMode } from '../../../dist/engines/txn/locks/mode.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { hashBytes } from '../../../dist/shared/hash.js';

export type ModeLetter = 's' | 'u' | 'x';
const MODES: Record<ModeLetter, LockMode> = { s: LockMode.Shared, u: LockMode.Update, x: LockMode.Exclusive };

export function modeOf(letter: ModeLetter): LockMode {
  return MODES[letter];
}

/** 'b' is a key, 'b..d' the range [b, d), '..' everything. */
export function pointOf(what: string, mode: ModeLetter, space = 1): LockPoint {
  const dots = what.indexOf('..');
  if (dots < 0) {
    const key = Buffer.from(what);
    return { space, mode: MODES[mode], key, hash: hashBytes(key, 0, key.length) };
  }
  const low = what.slice(0, dots);
  const high = what.slice(dots + 2);
  return {
    space,
    mode: MODES[mode],
    low: low === '' ? undefined : Buffer.from(low),
    high: high === '' ? undefined : Buffer.from(high),
  };
}

/** 'b' or '[b, d)'. */
export function lockText({ key, low, high }: Pick<LockDescription, 'key' | 'low' | 'high'>): string {
  const [of, from, to] = [key, low, high].map((bytes) => (bytes === undefined ? '' : Buffer.from(bytes).toString()));
  return key === undefined ? `[${from}, ${to})` : of!;
}

export class LockScene {
  readonly table: LockTable<string>;
  /** What happened since it was read last. */
  #lines: string[] = [];
  nowMs = 0;
  /** Called before a grant is noted. */
  onGrant: (wait: LockWait<string>) => void = () => undefined;

  constructor(policy: DeadlockPolicy = 'detect', options: Partial<LockTableOptions> = {}) {
    this.table = new LockTable<string>(
      { policy, ...options },
      {
        onGrant: (wait) => {
          this.onGrant(wait);
          this.#lines.push(`${nameOf(wait)} got ${wait.context}`);
        },
        onFail: (wait, error) => this.#lines.push(`${nameOf(wait)} failed ${error.code}`),
        onWait: (wait) => this.#lines.push(`${nameOf(wait)} waits for ${[...wait.blockers].sort().join(',')}`),
        onUnwait: (wait) => this.#lines.push(`${nameOf(wait)} waits no more`),
        onWound: (owner, by) => this.#lines.push(`${owner.id} wounded by ${by.id}`),
      },
    );
  }

  /** Lines since the last call; those about edges only where they are asked for. */
  lines(withEdges = false): string[] {
    const lines = this.#lines;
    this.#lines = [];
    return withEdges ? lines : lines.filter((line) => !line.includes('waits'));
  }

  owner(txn: number, { age = txn, priority = 0, client = 1 } = {}): LockOwner<string> {
    return this.table.owner(txn, age, priority, client);
  }

  /** 'got', 'waits' or the code of the failure. */
  lock(txn: number | LockOwner<string>, mode: ModeLetter, what: string, timeoutMs = Infinity, space = 1): string {
    const owner = typeof txn === 'number' ? this.owner(txn) : txn;
    try {
      return this.acquire(owner, mode, what, timeoutMs, space) === undefined ? 'got' : 'waits';
    } catch (error) {
      if (error instanceof ConcordError) return error.code;
      throw error;
    }
  }

  acquire(
    owner: LockOwner<string>,
    mode: ModeLetter,
    what: string,
    timeoutMs = Infinity,
    space = 1,
  ): LockWait<string> | undefined {
    const { table, nowMs } = this;
    const { key, low, high, hash } = pointOf(what, mode, space);
    const deadline = nowMs + timeoutMs;
    if (key === undefined) return table.acquireRange(owner, space, low, high, MODES[mode], deadline, nowMs, what);
    return table.acquireKey(owner, space, key, 0, key.length, hash!, MODES[mode], deadline, nowMs, what);
  }

  /** Who is in the way; 0: the lock is had. */
  try(txn: number | LockOwner<string>, mode: ModeLetter, what: string, space = 1): number {
    const owner = typeof txn === 'number' ? this.owner(txn) : txn;
    const { key, low, high, hash } = pointOf(what, mode, space);
    if (key === undefined) return this.table.tryRange(owner, space, low, high, MODES[mode]);
    return this.table.tryKey(owner, space, key, 0, key.length, hash!, MODES[mode]);
  }

  covers(txn: number, mode: ModeLetter, what: string, space = 1): boolean {
    const { key, low, high, hash } = pointOf(what, mode, space);
    if (key === undefined) return this.table.coversRange(this.owner(txn), space, low, high, MODES[mode]);
    return this.table.covers(this.owner(txn), space, key, 0, key.length, hash!, MODES[mode]);
  }

  conflict(mode: ModeLetter, what: string, age = 1e9, space = 1): number {
    const { key, low, high, hash } = pointOf(what, mode, space);
    if (key === undefined) return this.table.conflictRange(space, low, high, MODES[mode], age);
    return this.table.conflict(space, key, 0, key.length, hash!, MODES[mode], age);
  }

  /** A plain write of all these: 'free' or 'waits'. */
  plain(
    name: string,
    what: readonly string[],
    { age = 1e9, timeoutMs = Infinity, client = 1, mode = 'x' as ModeLetter } = {},
  ): string {
    const points = what.map((each) => pointOf(each, mode));
    const deadline = this.nowMs + timeoutMs;
    const wait = this.table.waitAnonymous(points, client, age, 0, deadline, this.nowMs, name);
    return wait === undefined ? 'free' : 'waits';
  }

  release(...txns: number[]): void {
    for (const txn of txns) this.table.release(txn);
  }

  /** `1: x a, s b..d` for each transaction with locks. */
  held(): string[] {
    return this.table
      .list(Infinity)
      .filter((holder) => holder.held.length > 0)
      .map(
        ({ txn, held }) =>
          `${txn}: ${held
            .map((lock) => `${lock.mode[0]!} ${lockText(lock)}`)
            .sort()
            .join(' ')}`,
      )
      .sort();
  }
}

function nameOf(wait: LockWait<string>): string {
  return wait.owner === undefined ? 'plain' : String(wait.owner.id);
}
