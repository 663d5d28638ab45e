/** What the main server thread and the other ones tell each other. Counters travel in shared memory, requests never. */
import type { HttpOptions } from './options.js';

export interface ThreadData<Handle> {
  readonly handle: Handle;
  readonly options: HttpOptions;
  readonly counterMemory: SharedArrayBuffer;
  /** Row of the counters, 1 … threads - 1. */
  readonly thread: number;
  /** The listening socket's descriptor in this process. */
  readonly listenerFd: number;
}

export type ToThread =
  | { readonly kind: 'drain' }
  /** Limits have changed; these are all of the options. */
  | { readonly kind: 'configure'; readonly options: HttpOptions };

export type FromThread =
  | { readonly kind: 'listening' }
  /** No request is in flight and none will come; `cut` connections had to be ended. */
  | { readonly kind: 'drained'; readonly cut: number };
