/**
 * What a shard store needs of a log: build one frame in place, commit it, sync. The WAL writer is one; MemoryLog is the one of a store that
 * keeps nothing on disk. Threads: the shard's thread only.
 */
import type { FrameRingWriter } from '../feed/frame-ring.js';

export interface GroupLog {
  begin(): void;
  /** Makes room for `bytes` more payload; may replace `bytes`. */
  ensure(bytes: number): void;
  readonly bytes: Buffer;
  /** Where the next payload byte goes, an index into `bytes`; kept a multiple of 4 by the caller. */
  position: number;
  /** Where the payload of the frame under construction, or committed last, begins in `bytes`; commit() may move it. */
  readonly payloadStart: number;
  readonly payloadBytesMax: number;
  /** Ends the frame and returns its LSN. `buffered`: it is written together with a later one, in order. */
  commit(firstSeq: number, operationCount: number, buffered?: boolean): number;
  discard(): void;
  writeOut(): void;
  sync(): void;
  /** `inSlices`: files that go are left to removeUnneeded(), one at a time. */
  truncate(lsn: number, inSlices?: boolean): void;
  readonly hasUnneeded: boolean;
  removeUnneeded(): void;
  close(): void;
  readonly lastLsn: number;
  readonly syncedLsn: number;
  readonly sizeBytes: number;
  /** Of these: what truncate(lsn - 1) would leave. */
  bytesFrom(lsn: number): number;
  /** Bytes of files that no recovery needs, and which are kept for change feeds; how many may be from now on; none any more, as the disk is full. */
  readonly retainedBytes: number;
  retain(bytes: number): void;
  dropRetained(): boolean;
  /** LSN of the last frame handed to the operating system. */
  readonly writtenLsn: number;
  /** Another preallocated segment would be welcome. */
  wantsSpare(): boolean;
  offerSpare(path: string): boolean;
}

const MEMORY_LOG_BYTES_MIN = 1 << 20;
const MEMORY_LOG_BYTES_MAX = 1 << 26;

/** A log that forgets: the frame buffer without a file. What change feeds may want is kept for a while where there is a ring for it. */
export class MemoryLog implements GroupLog {
  readonly #ring: FrameRingWriter | undefined;
  bytes = Buffer.allocUnsafeSlow(MEMORY_LOG_BYTES_MIN);
  position = 0;
  readonly payloadStart = 0;
  lastLsn = 0;
  readonly payloadBytesMax = MEMORY_LOG_BYTES_MAX;
  readonly sizeBytes = 0;

  constructor(ring?: FrameRingWriter) {
    this.#ring = ring;
  }

  get writtenLsn(): number {
    return this.lastLsn;
  }

  get syncedLsn(): number {
    return this.lastLsn;
  }

  begin(): void {
    this.position = 0;
  }

  ensure(bytes: number): void {
    if (this.position + bytes <= this.bytes.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.bytes.length * 2, this.position + bytes + 4));
    grown.set(this.bytes.subarray(0, this.position));
    this.bytes = grown;
  }

  commit(firstSeq: number, operationCount: number): number {
    this.#ring?.append(this.bytes, 0, this.position, firstSeq, operationCount);
    return ++this.lastLsn;
  }

  discard(): void {
    this.position = 0;
  }

  writeOut(): void {}
  sync(): void {}
  truncate(): void {}
  readonly hasUnneeded = false;
  removeUnneeded(): void {}
  close(): void {}

  bytesFrom(): number {
    return 0;
  }

  readonly retainedBytes = 0;
  retain(): void {}

  dropRetained(): boolean {
    return false;
  }

  wantsSpare(): boolean {
    return false;
  }

  offerSpare(): boolean {
    return false;
  }
}
