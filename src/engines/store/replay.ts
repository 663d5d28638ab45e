/**
 * The replay of a shard's log: frames that a recovery finds are applied as the living shard applied their groups, with the numbers they were logged with.
 *
 *   frame()…  covered by the checkpoint: chunks of blobs, prepared transactions, and what engines with files of their own lack of it
 *             behind it: all of it
 *   finish()  blobs without an end go
 *
 * Must hold: a frame is applied exactly if its last number is above the published one. Readers of an adopted arena see neither half a group nor a state that
 * was before. What fitted once must fit again.
 * Threads: the shard's thread, before it serves anybody.
 */
import { ConcordError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import type { ArenaWriter } from '../../shared/memory/arena.js';
import { publishTrees } from '../btree/meta.js';
import { lsmSiteOf, type LsmSite } from '../lsm/attach.js';
import {
  OperationKind,
  RESOLVE_KEY_BYTES,
  checkOperation,
  operationKeyAt,
  operationSpan,
  readBlobReference,
  readKeyLength,
  readValueLength,
} from '../operation.js';
import { FRAME_HEADER_BYTES } from '../wal/format.js';
import type { WalFrame } from '../wal/recovery.js';
import { applyRecord } from './apply.js';
import { IncomingBlobs, type DroppedBlob } from './blobs.js';
import { NO_OPEN_SNAPSHOTS, type ShardStoreOptions } from './options.js';
import { RESOLVE_RECORD_BYTES, type PreparedTransaction, type PreparedTransactions } from './prepared.js';
import type { SpaceTable } from './space-table.js';

/** Operations applied between two publications. */
const RECOVERY_PUBLISH_OPERATIONS = 512;
const NOTHING_RESOLVED = { resolved: [], isWalked: false } as const;

export class Replay {
  readonly #spaces: SpaceTable;
  readonly #prepared: PreparedTransactions;
  readonly #arena: ArenaWriter;
  readonly #blobs: IncomingBlobs;
  publishedSeq: number;
  operations = 0;
  /** The last number that stands in the log. */
  logSeq = 0;
  readonly #isSalvage: boolean;
  readonly #env: Env;
  readonly #isReadOnly: boolean;
  /** Engines with files of their own may lack what the checkpoint covers for all others. */
  readonly #looksAtCovered: boolean;
  /** Told how far the replay has come: what is published is ahead of it while the log is covered. */
  readonly #lsm: LsmSite | undefined;
  /** The last number of the last frame that is wholly applied. */
  #appliedSeq = 0;
  #unpublished = 0;
  #lastSeq: number;

  constructor(
    spaces: SpaceTable,
    prepared: PreparedTransactions,
    arena: ArenaWriter,
    publishedSeq: number,
    options: ShardStoreOptions,
  ) {
    this.#spaces = spaces;
    this.#prepared = prepared;
    this.#arena = arena;
    this.#blobs = new IncomingBlobs(arena);
    this.#isSalvage = options.recoveryMode === 'salvage';
    this.publishedSeq = publishedSeq;
    this.#lastSeq = publishedSeq;
    this.#env = options.env;
    this.#isReadOnly = options.readOnly === true;
    this.#looksAtCovered = spaces.hasBackgrounds && options.adopt !== true;
    this.#lsm = this.#looksAtCovered ? lsmSiteOf(arena) : undefined;
    spaces.beginReplay(publishedSeq, options.adopt === true);
    const { sequences, count } = options.snapshots ?? NO_OPEN_SNAPSHOTS;
    spaces.setSnapshots(sequences, count);
    // Readers of an adopted arena go on reading: they must see neither half a batch, nor what the dead thread had shown go back to what was before.
    spaces.beginGroup(publishedSeq, true);
    // What fitted once must fit again, even if pages fill differently this time.
    arena.reserveMode = true;
  }

  frame(frame: WalFrame): void {
    const { bytes, firstSeq, operationCount, end } = frame;
    this.logSeq = firstSeq + operationCount - 1;
    const covered = firstSeq + operationCount - 1 <= this.#lastSeq;
    const isApplied = !covered || this.#looksAtCovered;
    let seq = firstSeq;
    const { resolved, isWalked } = endsWithResolve(bytes, frame.start, end)
      ? this.#resolvesOf(frame, covered, isApplied)
      : NOTHING_RESOLVED;
    // The live store published after each group. Where its memory was nearly used up, so must this.
    if (isApplied && this.#unpublished > 0) {
      let operations = operationCount;
      let payloadBytes = end - frame.start;
      for (const { prepared } of resolved) {
        operations += prepared.operations;
        payloadBytes += prepared.writes.length;
      }
      if (!this.#spaces.admitsAny(operations, payloadBytes)) this.#publish();
    }
    this.#spaces.lsn = frame.lsn;
    for (const { prepared, number } of resolved) {
      this.#prepared.applyWrites(prepared, number);
      this.operations += prepared.operations;
      this.#unpublished += prepared.operations;
    }
    for (let at = frame.start; at < end;) {
      const size = checkOperation(bytes, at, end);
      const kind = bytes[at];
      if (kind === OperationKind.Prepare) {
        if (!isWalked) this.#prepared.replayPrepare(bytes, at, frame.lsn);
      } else if (kind === OperationKind.Resolve) {
        if (!isWalked) throw damaged(frame, at, 'a transaction is resolved by a record that is not the last');
      } else if (isApplied && (covered || this.#isSalvage) && this.#isMissingBlob(bytes, at)) {
        // Of a covered one the chunks may have been cut off: then whatever it was for has it.
        seq += operationSpan(bytes, at);
      } else if (isApplied) {
        seq = applyRecord(this.#spaces, bytes, at, seq, this.#blobs);
        this.operations++;
      } else if (kind === OperationKind.Chunk) {
        this.#blobs.receive(bytes, at, frame.lsn);
      } else {
        this.#forgetBlobOf(bytes, at);
      }
      at += size;
    }
    if (!isApplied) return;
    this.#appliedSeq = firstSeq + operationCount - 1;
    this.#lastSeq = Math.max(this.#lastSeq, this.#appliedSeq);
    this.#unpublished += operationCount;
    if (this.#unpublished >= RECOVERY_PUBLISH_OPERATIONS) this.#publish();
  }

  /** Looks at the Prepare and Resolve records of a frame that has some: what is resolved comes before all other operations. */
  #resolvesOf(
    frame: WalFrame,
    covered: boolean,
    isApplied: boolean,
  ): { resolved: { prepared: PreparedTransaction; number: number }[]; isWalked: true } {
    const { bytes, start, end, lsn } = frame;
    const resolved: { prepared: PreparedTransaction; number: number }[] = [];
    for (let at = start, size; at < end; at += size) {
      size = checkOperation(bytes, at, end);
      if (bytes[at] === OperationKind.Prepare) this.#prepared.replayPrepare(bytes, at, lsn);
      if (bytes[at] !== OperationKind.Resolve) continue;
      const { prepared, number } = this.#prepared.replayResolve(bytes, at);
      if (number === 0 || !isApplied) continue;
      if (prepared !== undefined) resolved.push({ prepared, number });
      // Of a covered one the Prepare record may have been cut off: then whatever it was for has it. Likewise if a dead thread has applied it.
      else if (!covered && number > this.#lastSeq && !this.#isSalvage)
        throw damaged(frame, at, `a transaction is committed with number ${number} that was not prepared`);
    }
    return { resolved, isWalked: true };
  }

  /** A record that names a blob of which some chunks are lost. */
  #isMissingBlob(bytes: Buffer, at: number): boolean {
    if (bytes[at] !== OperationKind.PutBlob && bytes[at] !== OperationKind.ApplyBatch) return false;
    const reference = readBlobReference(bytes, operationKeyAt(bytes, at) + readKeyLength(bytes, at));
    return !this.#blobs.isComplete(reference.client, reference.blob, reference.offset);
  }

  /** A covered final record: its blob is in the checkpoint already. */
  #forgetBlobOf(payload: Uint8Array, at: number): void {
    if (payload[at] !== OperationKind.PutBlob && payload[at] !== OperationKind.ApplyBatch) return;
    const reference = readBlobReference(payload, operationKeyAt(payload, at) + readKeyLength(payload, at));
    this.#blobs.take(reference.client, reference.blob, reference.offset)?.overflow?.abort();
  }

  #publish(): void {
    publishTrees(this.#arena, this.#lastSeq);
    if (this.#lsm !== undefined) this.#lsm.replayedSeq = this.#appliedSeq;
    this.#spaces.endGroup();
    if (!this.#isReadOnly && this.#spaces.relieve(this.#env.now(), false)) publishTrees(this.#arena, this.#lastSeq);
    this.#arena.reclaim();
    this.publishedSeq = this.#lastSeq;
    this.#spaces.beginGroup(this.publishedSeq, true);
    this.#unpublished = 0;
  }

  /** Publishes the rest; blobs without an end were never acknowledged and go. Returns their names. */
  finish(): DroppedBlob[] {
    const dropped = this.#blobs.dropAll();
    if (this.#unpublished > 0) this.#publish();
    if (this.#lsm !== undefined) this.#lsm.replayedSeq = Infinity;
    this.#spaces.endReplay();
    this.#arena.reserveMode = false;
    return dropped;
  }
}

/** Whether the payload may end with a Resolve record: they are the last ones. Cheap, and wrong only in that other bytes may look like one. */
function endsWithResolve(bytes: Uint8Array, start: number, end: number): boolean {
  const at = end - RESOLVE_RECORD_BYTES;
  return (
    at >= start &&
    bytes[at] === OperationKind.Resolve &&
    bytes[at + 1] === 0 &&
    readKeyLength(bytes, at) === RESOLVE_KEY_BYTES &&
    readValueLength(bytes, at) === 0
  );
}

function damaged({ file, offset, start, lsn }: WalFrame, at: number, text: string): ConcordError {
  // Where the record stands in its file.
  const place = offset + FRAME_HEADER_BYTES + (at - start);
  return new ConcordError('ERR_CORRUPT', `${file} at ${place}: ${text}`, { file, offset: place, lsn });
}
