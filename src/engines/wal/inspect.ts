/**
 * Looks at log files without changing them: the frames and faults of one segment (`inspect`), the faults of a whole log (`verify`).
 * Same decoders as recovery. Threads: any; the directory's owner must not be writing meanwhile.
 */
import { ConcordError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import { frameFirstSeq, frameLsn, frameOperationCount, framePayloadBytes, frameSyncedLsn } from './format.js';
import type { SegmentHeader } from './format.js';
import { recoverWal } from './recovery.js';
import type { WalCut } from './recovery.js';
import { FIRST_FRAME_OFFSET, SegmentImage } from './segment-image.js';

export interface WalFrameInfo {
  readonly offset: number;
  readonly lsn: number;
  readonly syncedLsn: number;
  readonly firstSeq: number;
  readonly operationCount: number;
  readonly payloadBytes: number;
}

export interface WalProblem {
  readonly file: string;
  readonly offset: number;
  readonly text: string;
}

export interface WalSegmentReport {
  readonly header: SegmentHeader;
  readonly frames: readonly WalFrameInfo[];
  readonly problems: readonly WalProblem[];
  /** Where the last good frame ends. */
  readonly usedBytes: number;
  readonly fileBytes: number;
}

/** ERR_CORRUPT, ERR_FORMAT_VERSION when there is no valid header. An unfinished last frame counts as a problem: one file alone cannot excuse it. */
export function inspectSegment(env: Env, path: string): WalSegmentReport {
  const image = new SegmentImage();
  image.load(env, path);
  const frames: WalFrameInfo[] = [];
  const problems: WalProblem[] = [];
  let at = FIRST_FRAME_OFFSET;
  let lsn = image.header.firstLsn;
  let usedBytes = at;
  for (;;) {
    if (image.frameState(at, lsn) === 'good') {
      frames.push({
        offset: at,
        lsn: frameLsn(image.bytes, at),
        syncedLsn: frameSyncedLsn(image.bytes, at),
        firstSeq: frameFirstSeq(image.bytes, at),
        operationCount: frameOperationCount(image.bytes, at),
        payloadBytes: framePayloadBytes(image.bytes, at),
      });
      at = usedBytes = image.frameEnd(at);
      lsn++;
      continue;
    }
    const ahead = image.lookAhead(at, lsn);
    if (!image.isCleanEnd(at, ahead)) problems.push({ file: path, offset: at, text: image.describe(at, lsn) });
    if (ahead.offset === 0) break;
    at = ahead.offset;
    lsn = ahead.lsn;
  }
  return { header: image.header, frames, problems, usedBytes, fileBytes: image.fileBytes };
}

export interface WalVerification {
  readonly frames: number;
  readonly lastLsn: number;
  readonly problems: readonly WalProblem[];
  /** An unsynced tail that the next open will cut: not a problem. */
  readonly cut: WalCut | undefined;
}

/** Every fault that would stop a default recovery from `fromLsn`, and those it would meet after that one. */
export function verifyWal(
  env: Env,
  directory: string,
  options: {
    readonly storeId: Uint8Array;
    readonly shard: number;
    readonly fromLsn: number;
    readonly mustExist?: boolean | undefined;
  },
): WalVerification {
  const ignore = (): void => undefined;
  try {
    const { frames, lastLsn, cut } = recoverWal(env, directory, { ...options, onFrame: ignore });
    return { frames, lastLsn, problems: [], cut };
  } catch (error) {
    if (!(error instanceof ConcordError) || (error.code !== 'ERR_CORRUPT' && error.code !== 'ERR_FORMAT_VERSION'))
      throw error;
    const { file } = error.details;
    const first: WalProblem = {
      file: typeof file === 'string' ? file : directory,
      offset: Number(error.details['offset'] ?? 0),
      text: error.message,
    };
    try {
      const { frames, lastLsn, losses, cut } = recoverWal(env, directory, {
        ...options,
        mode: 'salvage',
        onFrame: ignore,
      });
      const rest = losses
        .filter(({ file, offset }) => file !== first.file || offset !== first.offset)
        .map(({ file, offset, lsnFrom, lsnTo, reason }) => ({
          file,
          offset,
          text: `${file} at ${offset}: records ${lsnFrom} to ${lsnTo ?? '?'} are lost: ${reason}`,
        }));
      return { frames, lastLsn, problems: [first, ...rest], cut };
    } catch {
      // A segment of another store, a foreign format: not even salvage goes past it.
      return { frames: 0, lastLsn: options.fromLsn - 1, problems: [first], cut: undefined };
    }
  }
}
