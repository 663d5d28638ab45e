/**
 * Request counters of all server threads in one SharedArrayBuffer, so that /metrics of any thread tells about the whole server.
 *
 *   row of thread t: connections, then per operation: status classes 1xx–5xx, total seconds, duration buckets
 *
 * Each row has one writer, its thread; others only read, so plain stores to aligned 64-bit floats are enough. Off the network this
 * costs two clock reads and three additions per request.
 */
const OPERATIONS = ['get', 'put', 'delete', 'scan', 'other'] as const;
export type Operation = (typeof OPERATIONS)[number];

const BUCKET_SECONDS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30];
const STATUS_CLASSES = 5;
const OPERATION_FIELDS = STATUS_CLASSES + 1 + BUCKET_SECONDS.length;
/** Rounded up to whole cache lines, so that threads do not write to the same one. */
const ROW_FIELDS = Math.ceil((1 + OPERATIONS.length * OPERATION_FIELDS) / 8) * 8;

export function createCounterMemory(threads: number): SharedArrayBuffer {
  return new SharedArrayBuffer(threads * ROW_FIELDS * 8);
}

export class HttpCounters {
  readonly #all: Float64Array;
  readonly #row: Float64Array;

  constructor(memory: SharedArrayBuffer, thread: number) {
    this.#all = new Float64Array(memory);
    this.#row = this.#all.subarray(thread * ROW_FIELDS, (thread + 1) * ROW_FIELDS);
    // A restarted thread takes over the row of its predecessor; its connections are gone.
    this.#row[0] = 0;
  }

  connection(change: 1 | -1): void {
    this.#row[0]! += change;
  }

  /** One answered request; startedMs is performance.now() when its handler began. */
  answered(operation: number, status: number, startedMs: number): void {
    const row = this.#row;
    const at = 1 + operation * OPERATION_FIELDS;
    const seconds = (performance.now() - startedMs) / 1000;
    row[at + ((status / 100) | 0) - 1]! += 1;
    row[at + STATUS_CLASSES]! += seconds;
    for (let bucket = 0; bucket < BUCKET_SECONDS.length; bucket++) {
      if (seconds <= BUCKET_SECONDS[bucket]!) {
        row[at + STATUS_CLASSES + 1 + bucket]! += 1;
        return;
      }
    }
  }

  /** Prometheus text of all threads together. */
  text(): string {
    const sums = new Float64Array(ROW_FIELDS);
    for (let index = 0; index < this.#all.length; index++) sums[index % ROW_FIELDS]! += this.#all[index]!;
    const connections: string[] = [];
    for (let thread = 0; thread * ROW_FIELDS < this.#all.length; thread++) {
      connections.push(`concordkv_http_connections{thread="${thread}"} ${this.#all[thread * ROW_FIELDS]!}`);
    }
    const requests: string[] = [];
    const durations: string[] = [];
    OPERATIONS.forEach((operation, number) => {
      const at = 1 + number * OPERATION_FIELDS;
      let count = 0;
      for (let status = 0; status < STATUS_CLASSES; status++) {
        const value = sums[at + status]!;
        count += value;
        if (value > 0) {
          requests.push(`concordkv_http_requests_total{operation="${operation}",status="${status + 1}xx"} ${value}`);
        }
      }
      if (count === 0) return;
      let upTo = 0;
      BUCKET_SECONDS.forEach((le, bucket) => {
        upTo += sums[at + STATUS_CLASSES + 1 + bucket]!;
        durations.push(`concordkv_http_request_seconds_bucket{operation="${operation}",le="${le}"} ${upTo}`);
      });
      durations.push(`concordkv_http_request_seconds_bucket{operation="${operation}",le="+Inf"} ${count}`);
      durations.push(`concordkv_http_request_seconds_sum{operation="${operation}"} ${sums[at + STATUS_CLASSES]!}`);
      durations.push(`concordkv_http_request_seconds_count{operation="${operation}"} ${count}`);
    });
    return [
      '# HELP concordkv_http_connections Open HTTP connections.',
      '# TYPE concordkv_http_connections gauge',
      ...connections,
      '# HELP concordkv_http_requests_total Answered HTTP requests.',
      '# TYPE concordkv_http_requests_total counter',
      ...requests,
      '# HELP concordkv_http_request_seconds From the handler of a request to the hand-over of its answer.',
      '# TYPE concordkv_http_request_seconds histogram',
      ...durations,
      '',
    ].join('\n');
  }
}

export const OPERATION = { get: 0, put: 1, delete: 2, scan: 3, other: 4 } as const satisfies Record<Operation, number>;
