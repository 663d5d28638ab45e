/**
 * Reads manifests: CURRENT, the header, the frames, and what stands behind the last of them.
 *
 * Frame n + 1 is written when frame n is durable, and the file has grown, durably, before a frame is written into its new part. So
 *   - a bad frame n with a valid header behind it that says n or more is damage: n had been synced;
 *   - a file whose size is no multiple of GROWTH_BYTES, or ends within a frame, or with no room for another header, has been cut: damage;
 *   - anything else behind the last good frame is an edit that was being written: it never counted.
 * Whoever writes seals a frame once it is synced, by a header behind it that says so (FrameKind.Seal, itself not synced), or the last frame of all could
 * not be told from one that was being written.
 *
 * Threads: any; nothing is written here.
 */
import { crc32 } from '../../../shared/checksum.js';
import { ConcordError } from '../../../shared/errors.js';
import type { Env } from '../../../shared/env/env.js';
import type { LsmIdentity } from '../types.js';
import {
  FRAME_HEADER_BYTES,
  FrameKind,
  GROWTH_BYTES,
  HEADER_BYTES,
  PAYLOAD_BYTES_MAX,
  checkOwner,
  corruptManifest,
  decodeEdit,
  decodeHeader,
  frameBytes,
  frameKind,
  framePayloadBytes,
  frameSequence,
  isFrameHeader,
  isPayloadIntact,
  type ManifestHeader,
} from './format.js';
import { CURRENT_NAME, manifestName, manifestNumber } from './names.js';
import { EMPTY_STATE, applyEdit, checkState, type LsmState, type VersionEdit } from './state.js';

/** A file larger than this was not written by us. */
const MANIFEST_BYTES_MAX = 2 * PAYLOAD_BYTES_MAX;

export interface ManifestFrame {
  readonly offset: number;
  readonly sequence: number;
  /** The whole state; otherwise a change of it. */
  readonly isSnapshot: boolean;
  readonly payloadBytes: number;
  readonly edit: VersionEdit;
}

export interface ManifestImage {
  readonly path: string;
  readonly number: number;
  readonly header: ManifestHeader;
  /** Of the frames' checksums. */
  readonly seed: number;
  readonly fileBytes: number;
  readonly state: LsmState;
  /** Of the last frame. */
  readonly sequence: number;
  /** Where the last frame begins and ends. */
  readonly lastFrame: number;
  readonly end: number;
  readonly snapshotBytes: number;
  /** The last frame is known to be durable. */
  readonly isSealed: boolean;
  /** What follows the end is nobody's: an edit that was being written. */
  readonly cut: { readonly offset: number; readonly reason: string } | undefined;
  /** All the bytes of the file. */
  readonly bytes: Uint8Array;
}

/** The number of the tree's manifest. @throws ERR_CORRUPT, ERR_IO */
function readCurrent(env: Env, directory: string, identity: LsmIdentity): number {
  const path = `${directory}/${CURRENT_NAME}`;
  const text = Buffer.from(readWhole(env, path, 4096, 'the pointer to the manifest is missing')).toString('latin1');
  const name = text.split('\n', 2)[1] ?? '';
  const number = manifestNumber(name);
  if (number === undefined || currentText(identity, number) !== text) {
    throw corruptManifest(path, 0, 'the pointer to the manifest is damaged, or of another tree');
  }
  return number;
}

/** The content of CURRENT. */
export function currentText(identity: LsmIdentity, number: number): string {
  const text = `CKV-LSM-CURRENT 1\n${manifestName(number)}\n`;
  const whose = Buffer.from(
    `${Buffer.from(identity.storeId).toString('hex')} ${identity.shard} ${identity.tree}\n${text}`,
  );
  return `${text}${crc32(whose, 0, whose.length).toString(16).padStart(8, '0')}\n`;
}

function readWhole(env: Env, path: string, bytesMax: number, missing: string): Uint8Array {
  let file;
  try {
    file = env.open(path, 'read');
  } catch (error) {
    if (env.exists(path)) throw error;
    throw corruptManifest(path, 0, missing);
  }
  try {
    const size = file.size();
    if (size > bytesMax) throw corruptManifest(path, bytesMax, `the file has ${size} bytes`);
    const bytes = Buffer.allocUnsafeSlow(size);
    const read = file.read(bytes, 0, size, 0);
    return bytes.subarray(0, read);
  } finally {
    file.close();
  }
}

/** The manifest that CURRENT names. @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO */
export function readCurrentManifest(
  env: Env,
  directory: string,
  identity: LsmIdentity,
  onFrame?: (frame: ManifestFrame) => void,
): ManifestImage {
  const number = readCurrent(env, directory, identity);
  const path = `${directory}/${manifestName(number)}`;
  return readManifest(env, path, { identity, number }, onFrame);
}

/**
 * One file. `expected`: whose it must be; without it anybody's, under any name. onFrame sees the frames before one that is damaged.
 * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO
 */
export function readManifest(
  env: Env,
  path: string,
  expected: { readonly identity: LsmIdentity; readonly number: number } | undefined,
  onFrame?: (frame: ManifestFrame) => void,
): ManifestImage {
  const bytes = readWhole(env, path, MANIFEST_BYTES_MAX, 'the manifest is missing');
  const { header, seed } = decodeHeader(bytes, path);
  if (expected !== undefined) checkOwner(header, expected.identity, expected.number, path);
  const fileBytes = bytes.length;
  if (fileBytes % GROWTH_BYTES !== 0) {
    throw corruptManifest(
      path,
      fileBytes,
      `the file has ${fileBytes} bytes, no multiple of ${GROWTH_BYTES}: it was cut`,
    );
  }
  let state: LsmState = EMPTY_STATE;
  let at = HEADER_BYTES;
  let lastFrame = at;
  let sequence = 0;
  let snapshotBytes = 0;
  let isSealed = false;
  let cut: { offset: number; reason: string } | undefined;
  for (;;) {
    const next = sequence + 1;
    if (at + FRAME_HEADER_BYTES > fileBytes) {
      throw corruptManifest(path, fileBytes, `the file was cut behind frame ${sequence}`);
    }
    const kind = isFrameHeader(bytes, at, seed) ? frameKind(bytes, at) : 0;
    if (kind === FrameKind.Seal && sequence > 0 && frameSequence(bytes, at) === sequence) {
      isSealed = true;
      cut = judgeTail(bytes, at + FRAME_HEADER_BYTES, at, next, seed, path, 'bytes behind the seal');
      break;
    }
    if (kind === 0 || kind === FrameKind.Seal) {
      cut = judgeTail(bytes, at, at, next, seed, path, `no valid header where frame ${next} should be`);
      break;
    }
    if (frameSequence(bytes, at) !== next || (kind === FrameKind.Snapshot) !== (next === 1)) {
      const text = `frame ${frameSequence(bytes, at)} of kind ${kind} stands where ${next} should be`;
      throw corruptManifest(path, at, text);
    }
    const payloadBytes = framePayloadBytes(bytes, at);
    const end = at + frameBytes(payloadBytes);
    if (end > fileBytes) throw corruptManifest(path, at, `the file was cut within frame ${next}`);
    if (!isPayloadIntact(bytes, at, seed)) {
      const reason = `the payload of frame ${next} does not match its crc`;
      // Its own header is none of those behind it.
      cut = judgeTail(bytes, at + 8, at, next, seed, path, reason) ?? { offset: at, reason };
      break;
    }
    const payloadStart = at + FRAME_HEADER_BYTES;
    const edit = decodeEdit(bytes, payloadStart, payloadStart + payloadBytes, path, header.version);
    const after = applyEdit(state, edit);
    if (typeof after === 'string') throw corruptManifest(path, at, `frame ${next}: ${after}`);
    state = after;
    if (kind === FrameKind.Snapshot) snapshotBytes = end - at;
    onFrame?.({ offset: at, sequence: next, isSnapshot: kind === FrameKind.Snapshot, payloadBytes, edit });
    lastFrame = at;
    at = end;
    sequence = next;
  }
  // The first frame was synced before anything could lead here.
  if (sequence === 0) throw corruptManifest(path, HEADER_BYTES, 'the state at the beginning is damaged');
  const problem = checkState(state)[0];
  if (problem !== undefined) throw corruptManifest(path, lastFrame, problem);
  const number = header.number;
  return {
    path,
    number,
    header,
    seed,
    fileBytes,
    state,
    sequence,
    lastFrame,
    end: at,
    snapshotBytes,
    isSealed,
    cut,
    bytes,
  };
}

/**
 * Frame `next` is not at `at`, or not good. Looks from `from` on for what proves that it had been synced; otherwise says whether anything is there at all.
 * @throws ERR_CORRUPT
 */
function judgeTail(
  bytes: Uint8Array,
  from: number,
  at: number,
  next: number,
  seed: number,
  path: string,
  reason: string,
): { offset: number; reason: string } | undefined {
  let union = 0;
  for (let place = from; place < bytes.length; place += 8) {
    for (let byte = place; byte < place + 8; byte++) union |= bytes[byte]!;
    if (!isFrameHeader(bytes, place, seed)) continue;
    const sequence = frameSequence(bytes, place);
    const isSeal = frameKind(bytes, place) === FrameKind.Seal;
    if (sequence > next || (isSeal && sequence === next)) {
      const proof = `${isSeal ? 'the seal of' : ''} frame ${sequence} at ${place} says it had been synced`.trimStart();
      throw corruptManifest(path, at, `${reason}, but ${proof}`);
    }
  }
  return union === 0 ? undefined : { offset: at, reason };
}

/** Whose tree a directory holds, from the header of any manifest there that has a sound one; undefined: nobody can tell. @throws ERR_IO, ERR_PERMISSION */
export function identityOfTree(env: Env, directory: string): LsmIdentity | undefined {
  const bytes = Buffer.alloc(HEADER_BYTES);
  for (const name of env.list(directory).reverse()) {
    if (manifestNumber(name) === undefined) continue;
    const file = env.open(`${directory}/${name}`, 'read');
    try {
      const read = file.read(bytes, 0, HEADER_BYTES, 0);
      return decodeHeader(bytes.subarray(0, read), file.path).header.identity;
    } catch (error) {
      if (!isDamage(error)) throw error;
    } finally {
      file.close();
    }
  }
  return undefined;
}

/** Whether the error says that bytes are not what was written. */
export function isDamage(error: unknown): error is ConcordError {
  return error instanceof ConcordError && (error.code === 'ERR_CORRUPT' || error.code === 'ERR_FORMAT_VERSION');
}
