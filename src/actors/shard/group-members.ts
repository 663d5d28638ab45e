/**
 * The requests whose fate is the open group's, as runs of consecutive numbers of one client: a ring is drained in order, so a group of thousands of requests
 * is a few runs. Threads: the shard's thread only.
 */
import type { ErrorRecord } from '../../shared/errors.js';
import type { ClientLink } from './client-link.js';

interface Run {
  readonly link: ClientLink;
  readonly first: number;
  last: number;
}

export class GroupMembers {
  readonly #runs: Run[] = [];
  #open: Run | undefined;

  add(link: ClientLink, request: number): void {
    const open = this.#open;
    if (open !== undefined && open.link === link && request === ((open.last + 1) | 0)) {
      open.last = request;
      return;
    }
    this.#open = { link, first: request, last: request };
    this.#runs.push(this.#open);
  }

  /** The group has failed. */
  respondError(error: ErrorRecord): void {
    for (const { link, first, last } of this.#runs) {
      for (let request = first; ; request = (request + 1) | 0) {
        link.respondError(request, error);
        if (request === last) break;
      }
    }
  }

  clear(): void {
    this.#runs.length = 0;
    this.#open = undefined;
  }
}
