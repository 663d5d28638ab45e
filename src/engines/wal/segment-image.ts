/**
 * One segment file in memory, for recovery and inspection: which frame stands where, and what valid headers lie behind damage.
 *
 * The buffer is reused from segment to segment, so a recovery holds one segment however long the log is.
 * Threads: any, one at a time.
 */
import { ConcordError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import {
  FRAME_HEADER_BYTES,
  SEGMENT_BYTES_MAX,
  SEGMENT_HEADER_BYTES,
  TERMINATOR_BYTES,
  decodeSegmentHeader,
  frameBytes,
  frameLsn,
  framePayloadBytes,
  frameSyncedLsn,
  isFrameHeader,
  isPayloadIntact,
} from './format.js';
import type { SegmentHeader } from './format.js';

/** What lies behind a place where no good frame stands. */
export interface Ahead {
  /** The first valid frame header with a later LSN: its offset (0: none) and LSN. */
  offset: number;
  lsn: number;
  /** The highest syncedLsn any valid header there claims, 0 without one. */
  syncedLsnMax: number;
  /** Every byte from the place to the end of the file is zero. */
  allZero: boolean;
}

export type FrameState = 'good' | 'payload-damaged' | 'wrong-lsn' | 'no-frame';

export class SegmentImage {
  bytes: Buffer = Buffer.alloc(0);
  path = '';
  fileBytes = 0;
  /** Frames lie in [SEGMENT_HEADER_BYTES, end). */
  end = 0;
  header!: SegmentHeader;
  #words: Uint32Array = new Uint32Array(0);
  #seed = 0;
  #generation = 0;
  /** The generation as it looks in #words on this machine. */
  #generationWord = 0;

  /** Reads the whole file. ERR_CORRUPT, ERR_FORMAT_VERSION when it has no valid header. */
  load(env: Env, path: string): void {
    const file = env.open(path, 'read');
    try {
      const fileBytes = file.size();
      if (fileBytes > SEGMENT_BYTES_MAX) {
        throw new ConcordError(
          'ERR_CORRUPT',
          `${path} has ${fileBytes} bytes, a segment at most ${SEGMENT_BYTES_MAX}`,
          {
            file: path,
            offset: SEGMENT_BYTES_MAX,
          },
        );
      }
      if (this.bytes.length < fileBytes) {
        // Not from the pool: the word view needs an offset of 0.
        this.bytes = Buffer.allocUnsafeSlow((fileBytes + 7) & ~7);
        this.#words = new Uint32Array(this.bytes.buffer);
      }
      const byteCount = file.read(this.bytes, 0, fileBytes, 0);
      const { header, seed } = decodeSegmentHeader(this.bytes, byteCount, path);
      this.path = path;
      this.fileBytes = byteCount;
      this.end = byteCount & ~7;
      this.header = header;
      this.#seed = seed;
      this.#generation = header.generation;
      const word = Buffer.alloc(4);
      word.writeUInt32LE(header.generation);
      this.#generationWord = new Uint32Array(word.buffer, word.byteOffset, 1)[0]!;
    } finally {
      file.close();
    }
  }

  frameState(at: number, lsn: number): FrameState {
    if (!isFrameHeader(this.bytes, at, this.end, this.#seed, this.#generation)) return 'no-frame';
    if (frameLsn(this.bytes, at) !== lsn) return 'wrong-lsn';
    return isPayloadIntact(this.bytes, at, this.#seed) ? 'good' : 'payload-damaged';
  }

  /** Behind frameState() 'good' or 'payload-damaged'. */
  frameEnd(at: number): number {
    return at + frameBytes(framePayloadBytes(this.bytes, at));
  }

  /**
   * Looks at every multiple of 8 behind a place where frame `lsn` should be. The generation word is compared first, so that zeros and
   * foreign bytes cost two loads each; bytes made to match it cost one crc of 44 bytes each, never the payload they claim.
   * `firstOnly`: stop at the first header; syncedLsnMax and allZero are then only true as far as the scan came.
   */
  lookAhead(at: number, lsn: number, firstOnly = false): Ahead {
    const words = this.#words;
    const generationWord = this.#generationWord;
    const ahead: Ahead = { offset: 0, lsn: 0, syncedLsnMax: 0, allZero: true };
    const lsnMax = lsn + (this.end - at) / FRAME_HEADER_BYTES;
    const firstWord = at >>> 2;
    const lastWord = (this.end - FRAME_HEADER_BYTES) >> 2;
    let union = 0;
    let word = firstWord;
    for (; word <= lastWord; word += 2) {
      union |= words[word]! | words[word + 1]!;
      if (words[word + 3] !== generationWord) continue;
      const offset = word << 2;
      const found = frameLsn(this.bytes, offset);
      if (found < lsn || found > lsnMax || (found === lsn && offset === at)) continue;
      if (!isFrameHeader(this.bytes, offset, this.end, this.#seed, this.#generation)) continue;
      if (ahead.offset === 0) {
        ahead.offset = offset;
        ahead.lsn = found;
      }
      const synced = frameSyncedLsn(this.bytes, offset);
      if (synced > ahead.syncedLsnMax) ahead.syncedLsnMax = synced;
      if (firstOnly) break;
    }
    for (let byte = word << 2; byte < this.fileBytes; byte++) union |= this.bytes[byte]!;
    ahead.allZero = union === 0;
    return ahead;
  }

  /** Does `at` look like the orderly end of the frames? Judged together with what lookAhead() found. */
  isCleanEnd(at: number, ahead: Ahead): boolean {
    if (ahead.offset !== 0) return false;
    if (this.header.zeroed) return ahead.allZero;
    // A recycled file holds foreign bytes behind the terminator.
    const terminatorEnd = Math.min(at + TERMINATOR_BYTES, this.fileBytes);
    for (let byte = at; byte < terminatorEnd; byte++) if (this.bytes[byte] !== 0) return false;
    return true;
  }

  /** In words, what is wrong at a place where frame `lsn` should be. */
  describe(at: number, lsn: number): string {
    if (at + FRAME_HEADER_BYTES > this.end) return `the segment ends where record ${lsn} should be`;
    switch (this.frameState(at, lsn)) {
      case 'good':
        return `record ${lsn} is intact`;
      case 'payload-damaged':
        return `the payload of record ${lsn} does not match its crc`;
      case 'wrong-lsn':
        return `record ${frameLsn(this.bytes, at)} stands where ${lsn} should be`;
      case 'no-frame':
        return `no valid header where record ${lsn} should be`;
    }
  }
}

export const FIRST_FRAME_OFFSET = SEGMENT_HEADER_BYTES;
