/**
 * The lock of a data directory: at most one owner at a time, in this or any other process. Node offers no file locks, so this one is
 * built from names: link() fails if the name exists, rename() replaces atomically, and a random token never comes twice.
 *
 *   LOCK                  who owns the directory: one JSON line with the owner's process identity and a random token
 *   LOCK.next.<token>     who succeeds the dead owner <token>
 *   LOCK.tmp.<token>      a complete file that is about to get one of the names above
 *   LOCK.ask              "are you there?", for owners whose process cannot be looked up
 *
 *   no LOCK:   link(tmp, LOCK)                                     exactly one opener succeeds
 *   LOCK = X:  follow X → next.X → next.<that> …  to the last one, T
 *              T lives: ERR_LOCKED
 *              T is dead: link(tmp, next.T)                        exactly one taker succeeds
 *                         read LOCK again; not X any more: withdraw, start over
 *                         rename(tmp, LOCK); remove all LOCK.next.*
 *
 * Why two takers cannot both win. Only the living end of the chain that begins at LOCK renames over LOCK, and names are removed only
 * after that. So while LOCK still reads X, every claim met on the way from X is true and is never withdrawn or removed, and the one
 * claim on T is unique. A taker that stalled anywhere and claims a name that was cleaned up meanwhile made its claim after a rename
 * of LOCK; as tokens are unique LOCK never reads X again, the taker sees that and withdraws. A taker that dies in mid-takeover is the
 * new end of the chain and is succeeded like any owner: no guard is left that could block forever. None of this depends on timing.
 *
 * Files appear complete, because they are linked, not written in place. A LOCK that does not parse was damaged by a power loss or by
 * hand, or comes from a file system without links while it is being written: it counts as dead once it stayed the same for a
 * while, and its content stands in for its token.
 *
 * An owner in another pid namespace (containers sharing a volume) or on another host cannot be looked up. It is asked: the owner
 * checks for LOCK.ask every second and touches LOCK. Only an owner that stays silent for `foreignPatienceMs` counts as dead;
 * should it come back, it learns through watch() that it lost the directory.
 *
 * release() removes LOCK only while it holds the owner's own token. Threads: any; owners in two threads of one process exclude each
 * other too. Works on real directories only, through node:fs.
 */
import { createHash, randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConcordError, fromSystemError } from '../errors.js';
import { identityFrom, isSameProcess, livenessOf, ownIdentity } from './process-identity.js';
import type { ProcessIdentity } from './process-identity.js';

const LOCK_NAME = 'LOCK';
const NEXT_PREFIX = 'LOCK.next.';
const TEMPORARY_PREFIX = 'LOCK.tmp.';
const ASK_NAME = 'LOCK.ask';

const FILE_MODE = 0o600;
const LOCK_BYTES_MAX = 4096;
/** A token becomes part of a file name: nothing but these characters is let through. */
const TOKEN_PATTERN = /^[0-9a-f]{32}$/;

const ASK_INTERVAL_MS = 1000;
const FOREIGN_PATIENCE_MS = 10_000;
const DAMAGED_PATIENCE_MS = 1000;
const POLL_MS = 50;
/** Each lost round means that somebody else won one. */
const ROUNDS_MAX = 200;

export interface DirectoryLockOptions {
  /** How long an owner that cannot be looked up may stay silent before it counts as dead. Default 10 s. */
  readonly foreignPatienceMs?: number;
}

interface Owner extends ProcessIdentity {
  readonly token: string;
  /** ISO 8601, for people. */
  readonly createdAt: string;
}

/** One file of the chain as it was read. */
interface Link {
  readonly path: string;
  readonly content: string;
  /** The token, or for a damaged file the hash of name and content. The name is part of it, so a chain cannot run in a circle. */
  readonly key: string;
  /** Undefined: the file is damaged. */
  readonly owner: Owner | undefined;
}

/** Locks an existing directory or throws ERR_LOCKED, whose details carry the owner's `pid`. */
export async function acquireDirectoryLock(
  directory: string,
  options: DirectoryLockOptions = {},
): Promise<DirectoryLock> {
  const own: Owner = {
    ...ownIdentity(),
    token: randomBytes(16).toString('hex'),
    createdAt: new Date().toISOString(),
  };
  const lockPath = join(directory, LOCK_NAME);
  const draft = new Draft(directory, own);
  try {
    for (let round = 0; round < ROUNDS_MAX; round++) {
      // Two takers that keep meeting part here.
      if (round > 1) await sleep(Math.random() * Math.min(20, 2 * round));
      const head = readLink(lockPath);
      if (head === undefined) {
        if (!draft.publishAs(lockPath)) continue;
        removeLeftovers(directory, own);
        return new DirectoryLock(directory, own);
      }
      const end = followChain(directory, head);
      const isDead = await isOwnerDead(directory, end, own, options.foreignPatienceMs ?? FOREIGN_PATIENCE_MS);
      if (!isUnchanged(head) || !isUnchanged(end)) continue;
      if (!isDead) throw lockedError(directory, end, own);
      const claimPath = join(directory, NEXT_PREFIX + end.key);
      if (!draft.publishAs(claimPath)) continue;
      if (!isUnchanged(head)) {
        if (readLink(claimPath)?.content === draft.content) removeIfThere(claimPath);
        continue;
      }
      draft.replace(lockPath);
      removeLeftovers(directory, own);
      return new DirectoryLock(directory, own);
    }
  } finally {
    draft.discard();
  }
  throw new ConcordError(
    'ERR_LOCKED',
    `${directory} is wanted by many processes at once, and each time another got it`,
    {
      directory,
    },
  );
}

export class DirectoryLock implements Disposable {
  private released = false;
  private onLost: ((error: ConcordError) => void) | undefined;
  private readonly timer: NodeJS.Timeout;

  /** Only acquireDirectoryLock makes one. */
  constructor(
    readonly directory: string,
    private readonly own: { readonly token: string },
  ) {
    this.timer = setInterval(() => this.answer(), ASK_INTERVAL_MS);
    this.timer.unref();
  }

  /**
   * Looks every second whether LOCK still names this owner. `onLost` is called once when it does not, or when it is gone: the directory must not be
   * written any more.
   */
  watch(onLost: (error: ConcordError) => void): void {
    this.onLost = onLost;
  }

  /** Whether LOCK still names this owner. */
  isHeld(): boolean {
    return !this.released && readLink(join(this.directory, LOCK_NAME))?.owner?.token === this.own.token;
  }

  /** Gives the directory back; a second call does nothing. */
  release(): void {
    if (this.released) return;
    clearInterval(this.timer);
    const isHeld = this.isHeld();
    this.released = true;
    // Nobody renames over the LOCK of a living owner, so what was read is what is removed.
    if (isHeld) removeIfThere(join(this.directory, LOCK_NAME));
  }

  [Symbol.dispose](): void {
    this.release();
  }

  /** Answers a process that cannot look this one up, and notices if the directory was taken. */
  private answer(): void {
    try {
      const askPath = join(this.directory, ASK_NAME);
      if (this.onLost === undefined && !fs.existsSync(askPath)) return;
      if (!this.isHeld()) {
        if (this.onLost === undefined) return;
        clearInterval(this.timer);
        this.onLost(
          new ConcordError(
            'ERR_LOCKED',
            `${this.directory} was taken by another owner, or removed, while it was open`,
            {
              directory: this.directory,
            },
          ),
        );
        return;
      }
      if (!fs.existsSync(askPath)) return;
      const now = new Date();
      fs.utimesSync(join(this.directory, LOCK_NAME), now, now);
      removeIfThere(askPath);
    } catch {
      // A directory that cannot be read at the moment is no proof of a loss; the next tick looks again.
    }
  }
}

/** This process's lock file before it has its final name. Written on first use, so a refused opener leaves no trace. */
class Draft {
  readonly content: string;
  private readonly path: string;
  private isWritten = false;

  constructor(directory: string, own: Owner) {
    this.path = join(directory, TEMPORARY_PREFIX + own.token);
    this.content = JSON.stringify(own) + '\n';
  }

  /** Gives the content a second name; false if that name exists. */
  publishAs(path: string): boolean {
    this.write();
    try {
      fs.linkSync(this.path, path);
      return true;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'EEXIST') return false;
      if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EOPNOTSUPP' && code !== 'ENOSYS') {
        throw fromSystemError(error, 'lock', path);
      }
    }
    // The file system has no links. The name is still exclusive; others wait while the content is incomplete.
    try {
      fs.writeFileSync(path, this.content, { flag: 'wx', mode: FILE_MODE });
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
      throw fromSystemError(error, 'lock', path);
    }
  }

  replace(path: string): void {
    try {
      fs.renameSync(this.path, path);
    } catch (error) {
      throw fromSystemError(error, 'lock', path);
    }
  }

  /** Never throws: the lock may be held by now, and a leftover does no harm. */
  discard(): void {
    if (!this.isWritten) return;
    try {
      fs.unlinkSync(this.path);
    } catch {
      // Renamed, or left for the next owner to remove.
    }
  }

  private write(): void {
    if (this.isWritten) return;
    this.isWritten = true;
    try {
      fs.writeFileSync(this.path, this.content, { flag: 'wx', mode: FILE_MODE });
    } catch (error) {
      throw fromSystemError(error, 'lock', this.path);
    }
  }
}

function followChain(directory: string, head: Link): Link {
  let end = head;
  for (;;) {
    const next = readLink(join(directory, NEXT_PREFIX + end.key));
    if (next === undefined) return end;
    end = next;
  }
}

async function isOwnerDead(directory: string, link: Link, own: Owner, foreignPatienceMs: number): Promise<boolean> {
  if (link.owner === undefined) return staysSilent(link, DAMAGED_PATIENCE_MS, () => undefined);
  const liveness = livenessOf(link.owner, own);
  if (liveness !== 'unknown') return liveness === 'dead';
  return staysSilent(link, foreignPatienceMs, () => ask(directory));
}

/** True if the file was neither changed nor touched nor removed for so long. */
async function staysSilent(link: Link, patienceMs: number, poke: () => void): Promise<boolean> {
  const before = modifiedAt(link.path);
  const start = performance.now();
  while (performance.now() - start < patienceMs) {
    poke();
    await sleep(POLL_MS);
    if (modifiedAt(link.path) !== before) return false;
  }
  return isUnchanged(link);
}

function ask(directory: string): void {
  try {
    fs.writeFileSync(join(directory, ASK_NAME), '', { flag: 'wx', mode: FILE_MODE });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return;
    throw fromSystemError(error, 'lock', directory);
  }
}

function lockedError(directory: string, end: Link, own: Owner): ConcordError {
  const owner = end.owner;
  if (owner === undefined) {
    return new ConcordError('ERR_LOCKED', `${directory}: ${end.path} is being written`, { directory });
  }
  const thisProcess = isSameProcess(owner, own);
  const who = thisProcess
    ? `this process (pid ${owner.pid})`
    : owner.host === own.host && owner.pidNamespace === own.pidNamespace
      ? `process ${owner.pid}`
      : `process ${owner.pid} of ${owner.host}`;
  return new ConcordError('ERR_LOCKED', `${directory} is open in ${who} since ${owner.createdAt}`, {
    directory,
    pid: owner.pid,
    host: owner.host,
    thisProcess,
    since: owner.createdAt,
  });
}

/** While the caller owns the directory every claim is void, because a claim follows a dead owner. */
function removeLeftovers(directory: string, own: Owner): void {
  try {
    for (const name of fs.readdirSync(directory)) {
      const path = join(directory, name);
      if (name.startsWith(NEXT_PREFIX) || name === ASK_NAME) removeIfThere(path);
      else if (name.startsWith(TEMPORARY_PREFIX)) {
        // Its writer may be alive and about to link it. A damaged one is left: it is small, and may be in the middle of being written.
        const owner = readLink(path)?.owner;
        if (owner !== undefined && livenessOf(owner, own) === 'dead') removeIfThere(path);
      }
    }
  } catch {
    // Leftovers do no harm, and the next owner tries again.
  }
}

function isUnchanged(link: Link): boolean {
  return readLink(link.path)?.content === link.content;
}

/** Undefined if there is no such file. Not through a symbolic link: the lock of this directory lies in this directory. */
function readLink(path: string): Link | undefined {
  let content: string;
  try {
    const descriptor = fs.openSync(path, fs.constants.O_RDONLY | (fs.constants.O_NOFOLLOW ?? 0));
    try {
      const bytes = Buffer.alloc(LOCK_BYTES_MAX);
      content = bytes.toString('utf8', 0, fs.readSync(descriptor, bytes, 0, LOCK_BYTES_MAX, 0));
    } finally {
      fs.closeSync(descriptor);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fromSystemError(error, 'lock', path);
  }
  const owner = parseOwner(content);
  const key =
    owner?.token ??
    createHash('sha256')
      .update(`${basename(path)}\0${content}`)
      .digest('hex')
      .slice(0, 32);
  return { path, content, key, owner };
}

function parseOwner(content: string): Owner | undefined {
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch {
    return undefined;
  }
  const identity = identityFrom(value);
  if (identity === undefined) return undefined;
  const { token, createdAt } = value as Record<string, unknown>;
  if (typeof token !== 'string' || !TOKEN_PATTERN.test(token) || typeof createdAt !== 'string') return undefined;
  return { ...identity, token, createdAt };
}

function modifiedAt(path: string): bigint | undefined {
  return fs.statSync(path, { bigint: true, throwIfNoEntry: false })?.mtimeNs;
}

function removeIfThere(path: string): void {
  try {
    fs.unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw fromSystemError(error, 'unlock', path);
  }
}
