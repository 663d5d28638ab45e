/**
 * What a change feed reads: frames of one shard, in their order, from a place on. The log's files are such a source (log-tail.ts), and the ring that a
 * store without files keeps while somebody watches it (frame-ring.ts).
 *
 * Threads: each its own.
 */
import { ConcordError } from '../../shared/errors.js';

/** A place between two frames, or within one. Plain data. */
export interface FeedPosition {
  /** Segment in which the next frame stands, or would. Of a ring: its life. */
  readonly generation: number;
  /** Where in it. */
  readonly offset: number;
  /** Of the next frame. */
  readonly lsn: number;
  /** Frames whose last number is not above are passed over. */
  readonly seq: number;
  /** Units of the next frame that are passed. */
  readonly unit: number;
}

/** One frame; `bytes` are the reader's to keep. */
export interface FeedFrame {
  readonly lsn: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly generation: number;
  /** Of the frame in its file. */
  readonly offset: number;
  /** Of what a reader is told when it is damaged. */
  readonly file: string;
  /** The payload is bytes[start, end), which stands at `payloadOffset` of the file. */
  readonly bytes: Buffer;
  readonly start: number;
  readonly end: number;
  readonly payloadOffset: number;
}

/** How far a reader may go. */
export interface FeedLimits {
  /** The last number that readers of the shard may see and its log vouches for. Loaded before the source is asked. */
  readonly publishedSeq: number;
  /** Nothing above it will come: the log takes nothing more. Infinity: it goes on. */
  readonly lastSeq: number;
  /** Frames up to it are on the disk for certain. */
  readonly syncedLsn: number;
  /** Whether only those are wanted. */
  readonly durable: boolean;
}

export interface FeedSource {
  /**
   * From here on until what is returned is called, something is kept for this reader of the client where nothing else would keep it. Before end(). Not to be
   * called when the client has given its slot back: whoever took it has taken this back too.
   */
  watch(client: number): () => void;
  /** The end as it is now: frames that are published later come behind it. */
  end(publishedSeq: () => number): FeedPosition;
  /** The oldest frame there is. */
  beginning(): FeedPosition;
  seek(position: FeedPosition): void;
  /** Where the next frame stands, or will. */
  readonly position: FeedPosition;
  /**
   * The next frame; undefined: there is none yet, or the time to look for it was used up (see isSearching).
   * @throws ERR_FEED_TRUNCATED, ERR_CORRUPT, ERR_IO
   */
  next(limits: FeedLimits): FeedFrame | undefined;
  /** next() has not come to the end of what is there. */
  readonly isSearching: boolean;
  /** Everything up to this number has been given out, or is not in this source. */
  readonly settledSeq: number;
  /**
   * Of what was begun before the place where this reader began, something may be missing rightly: it asked for the oldest there is, or nobody kept
   * anything by then. Otherwise what is missing was there when its place was made, and is lost to it.
   */
  readonly mayLackBeginnings: boolean;
  /**
   * All of it is of one life of the store. Otherwise a shard may end in a later life what another has ended before: with a number above those of groups that
   * it has logged by then.
   */
  readonly isOfOneLife: boolean;
  /** Another reader of the same shard. */
  fork(): FeedSource;
  /** The frame that next() gave at that place. @throws ERR_FEED_TRUNCATED when it is gone */
  reload(generation: number, offset: number, lsn: number): FeedFrame;
}

export function truncated(shard: number, lsn: number, text: string, oldestLsn?: number): ConcordError {
  return new ConcordError('ERR_FEED_TRUNCATED', `shard ${shard}: ${text}`, {
    shard,
    lsn,
    ...(oldestLsn === undefined ? {} : { oldestLsn }),
  });
}
