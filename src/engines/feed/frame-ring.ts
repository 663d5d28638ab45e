/**
 * What a store without files keeps for change feeds: the last frames of a shard, in shared memory, while somebody watches. It is written over at the other
 * end, so no shard waits for a reader; a reader that falls behind is told.
 *
 *   0     i64 each: head · tail · skipped · lost · lsn
 *   64    who watches: a tally of clients (shared/memory/client-tally.ts)
 *   1152  frames, each at a multiple of 8: bytes u32 · payload bytes u32 (SKIP: none, go on at the beginning) · lsn f64 · first number f64 · numbers u32 · zero · payload
 *
 * head and tail count bytes from the ring's beginning of time; what lies between them is whole. `skipped`: the last number of the last frame that came while
 * nobody watched; `lost`: of one that did not fit.
 *
 * Must hold: tail is moved before what it leaves is overwritten, head after its frame is written; a reader looks at tail again behind its copy. A frame is in
 * before its numbers are published. Threads: one writer (the shard's), any readers.
 */
import { ConcordError } from '../../shared/errors.js';
import { ClientTally, TALLY_WORDS } from '../../shared/memory/client-tally.js';
import { truncated, type FeedFrame, type FeedLimits, type FeedPosition, type FeedSource } from './source.js';

const HEAD = 0;
const TAIL = 1;
const SKIPPED = 2;
const LOST = 3;
const LSN = 4;
const WATCHERS_WORD = 16;
export const DATA_BYTE = Math.ceil((WATCHERS_WORD + TALLY_WORDS) / 16) * 64;
const FRAME_HEADER_BYTES = 32;
const SKIP = 0xffffffff;
/** Below that of every frame. */
const LSN_OF_BEGINNING = 0;
/** Looked through by one call, at most. */
const SEARCH_FRAMES_MAX = 1024;

/** Address space; memory is used when somebody watches. */
const FRAME_RING_BYTES_DEFAULT = 32 << 20;

/** `bytes`: of frames, rounded down to a multiple of 8. */
export function createFrameRing(bytes = FRAME_RING_BYTES_DEFAULT): SharedArrayBuffer {
  return new SharedArrayBuffer(DATA_BYTE + Math.floor(bytes / 8) * 8);
}

/** A client's thread is gone, and whatever it watched with. */
export function clearWatcher(sab: SharedArrayBuffer, client: number): void {
  new RingMemory(sab).watchers.clear(client);
}

class RingMemory {
  readonly watchers: ClientTally;
  readonly longs: BigInt64Array;
  readonly bytes: Buffer;
  readonly u32: Uint32Array;
  readonly f64: Float64Array;
  readonly capacity: number;

  constructor(sab: SharedArrayBuffer) {
    this.watchers = new ClientTally(new Int32Array(sab), WATCHERS_WORD);
    this.longs = new BigInt64Array(sab);
    this.bytes = Buffer.from(sab, DATA_BYTE);
    this.u32 = new Uint32Array(sab, DATA_BYTE);
    this.f64 = new Float64Array(sab, DATA_BYTE);
    this.capacity = sab.byteLength - DATA_BYTE;
  }

  load(long: number): number {
    return Number(Atomics.load(this.longs, long));
  }

  store(long: number, value: number): void {
    Atomics.store(this.longs, long, BigInt(value));
  }
}

export class FrameRingWriter {
  readonly #ring: RingMemory;
  #head: number;
  #tail: number;
  #lsn: number;
  #isContinuous = false;

  /** Goes on where a writer ended that died: what it had put in and not published never was. */
  constructor(sab: SharedArrayBuffer, publishedSeq: number) {
    const ring = new RingMemory(sab);
    this.#ring = ring;
    this.#head = ring.load(HEAD);
    this.#tail = ring.load(TAIL);
    this.#lsn = Math.max(1, ring.load(LSN));
    for (let at = this.#tail; at < this.#head;) {
      const byte = at % ring.capacity;
      if (ring.u32[(byte >> 2) + 1] !== SKIP) {
        const lastSeq = ring.f64[(byte >> 3) + 2]! + ring.u32[(byte >> 2) + 6]! - 1;
        if (lastSeq > publishedSeq) {
          this.#head = at;
          this.#lsn = ring.f64[(byte >> 3) + 1]!;
          ring.store(HEAD, at);
          break;
        }
      }
      at += ring.u32[byte >> 2]!;
    }
    // Whatever the dead one had done while nobody watched.
    this.#isContinuous = ring.load(SKIPPED) <= publishedSeq && this.#head > this.#tail;
  }

  /** The payload bytes[start, end) of a frame, before it is published. */
  append(bytes: Buffer, start: number, end: number, firstSeq: number, count: number): void {
    const ring = this.#ring;
    const lastSeq = firstSeq + count - 1;
    if (!ring.watchers.isAny) {
      ring.store(SKIPPED, lastSeq);
      this.#isContinuous = false;
      return;
    }
    // What came before frames that nobody kept is of no use.
    if (!this.#isContinuous) this.#setTail(this.#head);
    this.#isContinuous = true;
    const { capacity } = ring;
    const frameBytes = FRAME_HEADER_BYTES + ((end - start + 7) & ~7);
    // Such a one could need more than all, with what must be left free before it.
    if (frameBytes > capacity / 2) {
      ring.store(LOST, lastSeq);
      this.#setTail(this.#head);
      return;
    }
    const room = capacity - (this.#head % capacity);
    const skipBytes = frameBytes > room ? room : 0;
    let tail = this.#tail;
    while (tail < this.#head && this.#head + skipBytes + frameBytes - tail > capacity) {
      tail += ring.u32[(tail % capacity) >> 2]!;
    }
    this.#setTail(tail);
    if (skipBytes > 0) {
      const word = (this.#head % capacity) >> 2;
      ring.u32[word] = skipBytes;
      ring.u32[word + 1] = SKIP;
      this.#head += skipBytes;
    }
    const at = this.#head % capacity;
    const word = at >> 2;
    ring.u32[word] = frameBytes;
    ring.u32[word + 1] = end - start;
    ring.f64[(at >> 3) + 1] = this.#lsn++;
    ring.f64[(at >> 3) + 2] = firstSeq;
    ring.u32[word + 6] = count;
    bytes.copy(ring.bytes, at + FRAME_HEADER_BYTES, start, end);
    this.#head += frameBytes;
    ring.store(LSN, this.#lsn);
    ring.store(HEAD, this.#head);
  }

  #setTail(tail: number): void {
    if (tail === this.#tail) return;
    this.#tail = tail;
    this.#ring.store(TAIL, tail);
  }
}

export class FrameRingTail implements FeedSource {
  readonly isOfOneLife = true;
  readonly #sab: SharedArrayBuffer;
  readonly #ring: RingMemory;
  readonly #shard: number;
  #at = 0;
  #lsn = 1;
  #seq = 0;
  #unit = 0;
  #settledSeq = 0;
  #isSearching = true;
  /** It began at the end, and has been there since: what was skipped came before it. */
  #isFromEnd = false;
  #isFromBeginning = false;
  #watches = false;

  constructor(sab: SharedArrayBuffer, shard: number) {
    this.#sab = sab;
    this.#ring = new RingMemory(sab);
    this.#shard = shard;
  }

  fork(): FrameRingTail {
    return new FrameRingTail(this.#sab, this.#shard);
  }

  watch(client: number): () => void {
    if (this.#watches) return () => undefined;
    this.#watches = true;
    const { watchers } = this.#ring;
    watchers.add(client);
    let isWatching = true;
    return () => {
      if (isWatching) watchers.remove(client);
      isWatching = false;
    };
  }

  end(publishedSeq: () => number): FeedPosition {
    this.#isFromEnd = true;
    const ring = this.#ring;
    const offset = ring.load(HEAD);
    const lsn = Math.max(1, ring.load(LSN));
    return { generation: 0, offset, lsn, seq: publishedSeq(), unit: 0 };
  }

  beginning(): FeedPosition {
    const offset = this.#ring.load(TAIL);
    // What nobody kept is older.
    return {
      generation: 0,
      offset,
      lsn: LSN_OF_BEGINNING,
      seq: Math.max(this.#ring.load(SKIPPED), this.#ring.load(LOST)),
      unit: 0,
    };
  }

  seek({ offset, lsn, seq, unit }: FeedPosition): void {
    this.#at = offset;
    this.#lsn = lsn;
    this.#seq = seq;
    this.#unit = unit;
    this.#settledSeq = seq;
    this.#isFromBeginning = lsn === LSN_OF_BEGINNING;
    this.#isSearching = true;
  }

  get position(): FeedPosition {
    return { generation: 0, offset: this.#at, lsn: this.#lsn, seq: this.#seq, unit: this.#unit };
  }

  get isSearching(): boolean {
    return this.#isSearching;
  }

  get mayLackBeginnings(): boolean {
    return this.#isFromEnd || this.#isFromBeginning;
  }

  get settledSeq(): number {
    return this.#settledSeq;
  }

  next({ publishedSeq }: FeedLimits): FeedFrame | undefined {
    const ring = this.#ring;
    this.#isSearching = false;
    if (publishedSeq <= this.#seq) {
      this.#settledSeq = publishedSeq;
      return undefined;
    }
    const skipped = ring.load(SKIPPED);
    if (skipped > this.#seq) {
      // A group that was on its way when this feed began.
      if (!this.#isFromEnd) throw this.#truncated('nobody watched for a while, and nothing was kept');
      this.#seq = skipped;
    }
    if (ring.load(LOST) > this.#seq) throw this.#truncated('a change was too large to be kept');
    const head = ring.load(HEAD);
    for (let frames = 0; this.#at < head; frames++) {
      if (frames === SEARCH_FRAMES_MAX) {
        this.#isSearching = true;
        return undefined;
      }
      const at = this.#at;
      const frame = this.#read(at);
      if (frame === undefined) continue;
      if (frame.lastSeq > publishedSeq) return undefined;
      this.#at = at + FRAME_HEADER_BYTES + ((frame.end - frame.start + 7) & ~7);
      this.#lsn = frame.lsn + 1;
      if (frame.lastSeq <= this.#seq) continue;
      this.#seq = frame.lastSeq;
      this.#unit = 0;
      this.#settledSeq = frame.firstSeq - 1;
      return frame;
    }
    // Frames are in the ring before they are published.
    this.#settledSeq = publishedSeq;
    return undefined;
  }

  /** Undefined: there is none, and #at has moved on. */
  #read(at: number): FeedFrame | undefined {
    const ring = this.#ring;
    if (at < ring.load(TAIL)) throw this.#truncated('the ring has gone round since');
    const byte = at % ring.capacity;
    const frameBytes = ring.u32[byte >> 2]!;
    const payloadBytes = ring.u32[(byte >> 2) + 1]!;
    const isSkip = payloadBytes === SKIP;
    const isPossible = isSkip
      ? frameBytes === ring.capacity - byte
      : frameBytes === FRAME_HEADER_BYTES + ((payloadBytes + 7) & ~7) && byte + frameBytes <= ring.capacity;
    const lsn = isPossible && !isSkip ? ring.f64[(byte >> 3) + 1]! : 0;
    const firstSeq = isPossible && !isSkip ? ring.f64[(byte >> 3) + 2]! : 0;
    const count = isPossible && !isSkip ? ring.u32[(byte >> 2) + 6]! : 0;
    const from = byte + FRAME_HEADER_BYTES;
    const bytes = isPossible && !isSkip ? Buffer.from(ring.bytes.subarray(from, from + payloadBytes)) : undefined;
    // What was read counts only if nobody has written over it meanwhile.
    if (at < ring.load(TAIL)) throw this.#truncated('the ring has gone round since');
    const file = `the feed of shard ${this.#shard}`;
    if (!isPossible) {
      throw new ConcordError('ERR_CORRUPT', `${file} at ${byte}: no frame where one should be`, { file, offset: byte });
    }
    if (bytes === undefined) {
      this.#at = at + frameBytes;
      return undefined;
    }
    const lastSeq = firstSeq + count - 1;
    return {
      lsn,
      firstSeq,
      lastSeq,
      generation: 0,
      offset: at,
      file,
      bytes,
      start: 0,
      end: bytes.length,
      payloadOffset: from,
    };
  }

  reload(_generation: number, offset: number): FeedFrame {
    const frame = this.#read(offset);
    if (frame === undefined) throw this.#truncated('the ring has gone round since');
    return frame;
  }

  #truncated(text: string): ConcordError {
    return truncated(this.#shard, this.#lsn, text);
  }
}
