/**
 * What the HTTP face needs of a store: a structural slice of the pool opened with utf8 keys and binary values, so that the routes
 * can be read, and tested, without the rest of the engine.
 *
 * Threads: each server thread has its own HttpStore, attached to the same shared memory.
 */
export const DURABILITIES = ['sync', 'os', 'memory'] as const;
export type Durability = (typeof DURABILITIES)[number];

export interface HttpPutOptions {
  durability?: Durability;
  ifAbsent?: boolean;
  ifVersion?: number;
}

export interface HttpEntry {
  readonly key: string;
  readonly value: Uint8Array;
  readonly version: number;
}

export interface HttpRange {
  gt?: string;
  gte?: string;
  lt?: string;
  lte?: string;
  prefix?: string;
  reverse?: boolean;
  limit?: number;
}

export interface HttpStore {
  getEntrySync(key: string): HttpEntry | undefined;
  put(key: string, value: Uint8Array, options?: HttpPutOptions): Promise<boolean>;
  /** True also if the key was not there; false if ifVersion did not hold. */
  del(key: string, options?: { durability?: Durability; ifVersion?: number }): Promise<boolean>;
  iterator(range?: HttpRange): AsyncIterable<readonly [string, Uint8Array]>;
  metrics(): Promise<string>;
  close(): Promise<void>;
}
