/** Inspection of write-ahead logs: one segment, or the log of a shard. Threads: main thread only; files are only read. */
import type { Env } from '../../shared/env/env.js';
import type { ErrorRecord } from '../../shared/errors.js';
import { ConcordError } from '../../shared/errors.js';
import { findCheckpoint } from '../../engines/checkpoint/reader.js';
import {
  OperationKind,
  PREPARE_KEY_BYTES,
  OPERATION_HEADER_BYTES,
  checkOperation,
  checkWrites,
  readPrepareKey,
  readResolveNumber,
  readTransactionId,
  readValueLength,
} from '../../engines/operation.js';
import { COORDINATOR_SHARD } from '../../engines/txn/decision-log.js';
import { FRAME_HEADER_BYTES } from '../../engines/wal/format.js';
import { inspectSegment, verifyWal, type WalSegmentReport } from '../../engines/wal/inspect.js';
import { listSegments } from '../../engines/wal/recovery.js';
import { amount, columns, damageOf, problem, shownId, shownTime, type Report } from './report.js';

export function inspectLog(env: Env, path: string, isDirectory: boolean, listFrames: boolean): Report {
  return isDirectory ? inspectDirectory(env, path, listFrames) : inspectFile(env, path, listFrames);
}

function inspectFile(env: Env, path: string, listFrames: boolean): Report {
  try {
    const report = inspectSegment(env, path);
    // One file alone cannot excuse an unfinished last frame: only the whole log tells it from damage.
    const problems = report.problems.map(({ file, offset, text }) => problem(file, offset, text));
    const transactions = listFrames ? transactionsOf(env, path, report, problems) : undefined;
    const lines = segmentLines(report, listFrames, transactions);
    return { lines, facts: { path, ...report, transactions, problems }, problems };
  } catch (error) {
    const damage = damageOf(error);
    return { lines: [], facts: { path, problems: [damage] }, problems: [damage] };
  }
}

/** What a record of the log says of a transaction over several shards. */
interface TransactionEvent {
  /** Of the record that it stands in. */
  readonly lsn: number;
  readonly id: number;
  readonly what: 'prepared' | 'committed' | 'given up';
  /** Of what is prepared: writes, shards, and the client that asked for it. */
  readonly writes?: number;
  readonly shards?: readonly number[];
  readonly client?: number;
  /** Of what is committed. */
  readonly number?: number;
}

/** Records that are not what their checksums vouch for are problems. */
function transactionsOf(
  env: Env,
  path: string,
  { header, frames }: WalSegmentReport,
  problems: ErrorRecord[],
): TransactionEvent[] {
  const events: TransactionEvent[] = [];
  // Its records are others.
  if (header.shard === COORDINATOR_SHARD) return events;
  const file = env.open(path, 'read');
  try {
    for (const { lsn, offset, payloadBytes } of frames) {
      const bytes = Buffer.allocUnsafe(payloadBytes);
      const read = file.read(bytes, 0, payloadBytes, offset + FRAME_HEADER_BYTES);
      try {
        for (let at = 0, size; at < read; at += size) {
          size = checkOperation(bytes, at, read);
          const event = transactionOf(bytes, at, lsn);
          if (event !== undefined) events.push(event);
        }
      } catch (error) {
        if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') throw error;
        problems.push(problem(path, offset, `record ${lsn}: ${error.message}`));
      }
    }
  } finally {
    file.close();
  }
  return events;
}

function transactionOf(bytes: Buffer, at: number, lsn: number): TransactionEvent | undefined {
  if (bytes[at] === OperationKind.Resolve) {
    const id = readTransactionId(bytes, at);
    const number = readResolveNumber(bytes, at);
    return number === 0 ? { lsn, id, what: 'given up' } : { lsn, id, what: 'committed', number };
  }
  if (bytes[at] !== OperationKind.Prepare) return undefined;
  const { id, maskLow, maskHigh, client } = readPrepareKey(bytes, at);
  const start = at + OPERATION_HEADER_BYTES + PREPARE_KEY_BYTES;
  const writes = checkWrites(bytes, start, start + readValueLength(bytes, at));
  const shards: number[] = [];
  for (let shard = 0; shard < 64; shard++) {
    if (((shard < 32 ? maskLow : maskHigh) & (1 << (shard & 31))) !== 0) shards.push(shard);
  }
  return { lsn, id, what: 'prepared', writes, shards, client };
}

function eventLines(events: readonly TransactionEvent[]): string[] {
  if (events.length === 0) return [];
  return [
    '',
    ...columns(
      ['record', 'transaction', 'state', 'number', 'writes', 'shards', 'client'],
      events.map(({ lsn, id, what, number, writes, shards, client }) => [
        lsn,
        id,
        what,
        number ?? '',
        writes ?? '',
        shards?.join(' ') ?? '',
        client ?? '',
      ]),
    ),
  ];
}

function segmentLines(
  { header, frames, usedBytes, fileBytes }: WalSegmentReport,
  listFrames: boolean,
  transactions: readonly TransactionEvent[] = [],
): string[] {
  const last = frames.at(-1);
  const records = last === undefined ? 'no records' : `records ${header.firstLsn} to ${last.lsn}`;
  const lines = [
    `segment ${header.generation} of shard ${header.shard}, store ${shownId(header.storeId)}`,
    `file        ${amount(fileBytes)}, used up to ${usedBytes}`,
    `begun       ${shownTime(header.createdAt)}${header.zeroed ? '' : ', in a file that was used before'}`,
    `holds       ${records}`,
  ];
  if (!listFrames) return lines;
  lines.push('');
  lines.push(
    ...columns(
      ['record', 'at', 'bytes', 'first number', 'operations', 'synced up to'],
      frames.map((frame) => [
        frame.lsn,
        frame.offset,
        frame.payloadBytes,
        frame.firstSeq,
        frame.operationCount,
        frame.syncedLsn,
      ]),
    ),
    ...eventLines(transactions),
  );
  return lines;
}

/** The log of a shard: its segments, and what a recovery would say of it. Of a store: of all its shards. */
function inspectDirectory(env: Env, directory: string, listFrames: boolean): Report {
  const segments = listSegments(env, directory);
  const lines: string[] = [];
  const problems: ErrorRecord[] = [];
  const logs: unknown[] = [];
  if (segments.length === 0) {
    for (const name of env.list(directory).filter((inner) => /^shard-\d+$/.test(inner))) {
      const report = inspectDirectory(env, `${directory}/${name}`, listFrames);
      if (lines.length > 0) lines.push('');
      lines.push(`${directory}/${name}`, ...report.lines);
      problems.push(...report.problems);
      logs.push(report.facts);
    }
    return { lines, facts: { directory, shards: logs, problems }, problems };
  }
  let owner: WalSegmentReport['header'] | undefined;
  for (const { path } of segments) {
    try {
      const report = inspectSegment(env, path);
      owner ??= report.header;
      if (logs.length > 0) lines.push('');
      const transactions = listFrames ? transactionsOf(env, path, report, problems) : undefined;
      lines.push(...segmentLines(report, listFrames, transactions));
      const shown = listFrames ? report.frames : report.frames.length;
      logs.push({ path, ...report, problems: undefined, frames: shown, transactions });
    } catch (error) {
      const damage = damageOf(error);
      lines.push(damage.message);
      logs.push({ path, damage });
      if (owner === undefined) problems.push(damage);
    }
  }
  if (owner !== undefined) {
    const { storeId, shard } = owner;
    const checkpoint = findCheckpoint(env, directory);
    const fromLsn = (checkpoint?.lsn ?? 0) + 1;
    const { frames, lastLsn, cut, problems: found } = verifyWal(env, directory, { storeId, shard, fromLsn });
    lines.push('');
    lines.push(`a recovery from record ${fromLsn} finds ${frames} records, the last is ${lastLsn}`);
    if (cut !== undefined) lines.push(`it leaves an unfinished record behind: ${cut.reason}`);
    problems.push(...found.map(({ file, offset, text }) => problem(file, offset, text)));
    return { lines, facts: { directory, fromLsn, lastLsn, cut: cut ?? null, segments: logs, problems }, problems };
  }
  return { lines, facts: { directory, segments: logs, problems }, problems };
}
