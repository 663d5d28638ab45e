/**
 * A shard with real rings and any number of clients, in one thread: run() takes the place of every thread's loop. Nothing happens between
 * two calls of run(), so a test decides which requests meet in one group.
 */
import { ControlBlock, ShardState } from '../../dist/actors/control-block.js';
import { ShardLink, newRequest } from '../../dist/actors/client/shard-link.js';
import { Condition, REQUEST_HEADER_BYTES, RequestType } from '../../dist/actors/shard/request.js';
import { Shard } from '../../dist/actors/shard/shard.js';
import {
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationHeader,
} from '../../dist/engines/operation.js';
import { Durability } from '../../dist/engines/store/shard-store.js';
import type { ShardStoreOptions } from '../../dist/engines/store/options.js';
import type { DurabilityLevel, ShardStore } from '../../dist/engines/store/shard-store.js';
import type { Env } from '../../dist/shared/env/env.js';
import { ConcordError } from '../../dist/shared/errors.js';
import { hashBytes } from '../../dist/shared/hash.js';
import { createRing } from '../../dist/shared/memory/ring.js';
import { batchBytes, openStore, recordOf } from './store-scene.js';
import type { Operation } from './store-scene.js';

/** 'done', 'condition failed', or the code of the error. */
export type Outcome = string;

export interface PutOptions {
  readonly level?: DurabilityLevel;
  readonly ifAbsent?: boolean;
  readonly ifVersion?: number;
}

export class Client {
  readonly link: ShardLink;
  /** Errors as they came, newest last. */
  readonly errors: ConcordError[] = [];

  constructor(
    readonly number: number,
    requests: SharedArrayBuffer,
    responses: SharedArrayBuffer,
  ) {
    this.link = new ShardLink(0, number, requests, responses, () => undefined);
  }

  put(key: string, value: Uint8Array | string, options: PutOptions = {}): Promise<Outcome> {
    const bytes = recordOf({ kind: 'put', key, value: typeof value === 'string' ? Buffer.from(value) : value });
    return this.operation(key, bytes, options);
  }

  del(key: string, options: PutOptions = {}): Promise<Outcome> {
    return this.operation(key, recordOf({ kind: 'del', key }), options);
  }

  operation(key: string, record: Buffer, options: PutOptions = {}): Promise<Outcome> {
    const { level = Durability.Os, ifAbsent = false, ifVersion } = options;
    const condition = ifAbsent ? Condition.IfAbsent : ifVersion === undefined ? Condition.None : Condition.IfVersion;
    const keyBytes = Buffer.from(key);
    const hash = hashBytes(keyBytes, 0, keyBytes.length);
    return this.#send(record, newRequest(record.length, level, condition, hash, ifVersion ?? 0));
  }

  batch(operations: readonly Operation[], level: DurabilityLevel = Durability.Os): Promise<Outcome> {
    const records = batchBytes(operations);
    return this.#send(records, newRequest(records.length, level, 0, operations.length, 0, RequestType.Batch));
  }

  clear(low?: string, high?: string, level: DurabilityLevel = Durability.Os): Promise<Outcome> {
    const lowBytes = Buffer.from(low ?? '');
    const highBytes = Buffer.from(high ?? '');
    const record = Buffer.alloc(operationBytes(lowBytes.length, highBytes.length));
    const flags = (low === undefined ? 0 : CLEAR_HAS_LOW) | (high === undefined ? 0 : CLEAR_HAS_HIGH);
    writeOperationHeader(record, 0, OperationKind.ClearRange, flags, lowBytes.length, highBytes.length);
    record.set(lowBytes, OPERATION_HEADER_BYTES);
    record.set(highBytes, OPERATION_HEADER_BYTES + lowBytes.length);
    return this.#send(record, newRequest(record.length, level, 0, 0, 0, RequestType.Clear));
  }

  flush(): Promise<Outcome> {
    return this.#send(Buffer.alloc(0), newRequest(0, Durability.Sync, 0, 0, 0, RequestType.Flush));
  }

  /** A long value, in chunks; settles over several runs. */
  putBlob(key: string, value: Uint8Array, level: DurabilityLevel = Durability.Os): Promise<Outcome> {
    const keyBytes = Buffer.from(key);
    const hash = hashBytes(keyBytes, 0, keyBytes.length);
    const source = { kind: 'value', bytes: value, byteCount: value.length, count: 0, key: keyBytes } as const;
    return this.#outcome(this.link.submitBlob(source, level, Condition.None, 0, hash, undefined));
  }

  batchBlob(operations: readonly Operation[], level: DurabilityLevel = Durability.Os): Promise<Outcome> {
    const bytes = batchBytes(operations);
    const source = {
      kind: 'batch',
      bytes,
      byteCount: bytes.length,
      count: operations.length,
      key: Buffer.alloc(0),
    } as const;
    return this.#outcome(this.link.submitBlob(source, level, Condition.None, 0, 0, undefined));
  }

  #send(records: Buffer, request: Buffer): Promise<Outcome> {
    request.set(records, REQUEST_HEADER_BYTES);
    const at = this.link.reserve(records.length);
    if (at < 0) return this.#outcome(this.link.enqueue(request, undefined));
    this.link.requests.bytes.set(request, at);
    return this.#outcome(this.link.submit());
  }

  #outcome(call: Promise<boolean>): Promise<Outcome> {
    return call.then(
      (isApplied) => (isApplied ? 'done' : 'condition failed'),
      (error: unknown) => {
        if (!(error instanceof ConcordError)) throw error;
        this.errors.push(error);
        return error.code;
      },
    );
  }
}

export class ShardScene {
  readonly control = ControlBlock.create(1);
  readonly store: ShardStore;
  readonly shard: Shard;
  readonly clients: Client[] = [];

  constructor(env: Env, options: Partial<ShardStoreOptions> = {}) {
    this.store = openStore(env, options);
    this.control.nextSequence = this.store.publishedSeq + 1;
    this.shard = new Shard(0, this.store, this.control);
    this.control.setShardState(0, ShardState.Running);
  }

  client(ringBytes: { requests?: number; responses?: number } = {}): Client {
    const requests = createRing(ringBytes.requests ?? 1 << 20);
    const responses = createRing(ringBytes.responses ?? 64 << 10);
    const client = new Client(this.clients.length, requests, responses);
    this.clients.push(client);
    this.shard.attach(client.number, requests, responses);
    return client;
  }

  /** Publishes, steps and settles until nothing moves; promises of what was settled are settled too. */
  async run(): Promise<void> {
    for (let quietRounds = 0; quietRounds < 3;) {
      let moved = 0;
      for (const { link } of this.clients) link.publish();
      moved += this.shard.step();
      for (const { link } of this.clients) moved += link.settle();
      // Continuations of blobs go on from here.
      for (let tick = 0; tick < 10; tick++) await Promise.resolve();
      quietRounds = moved === 0 ? quietRounds + 1 : 0;
    }
  }

  /** Sends, runs, and says what became of it. */
  async outcome(call: Promise<Outcome>): Promise<Outcome> {
    let outcome = 'pending';
    void call.then((settled) => (outcome = settled));
    await this.run();
    await Promise.resolve();
    return outcome;
  }
}
