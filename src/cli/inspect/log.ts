/** Inspection of write-ahead logs: one segment, or the log of a shard. Threads: main thread only; files are only read. */
import type { Env } from '../../shared/env/env.js';
import type { ErrorRecord } from '../../shared/errors.js';
import { findCheckpoint } from '../../engines/checkpoint/reader.js';
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
    return { lines: segmentLines(report, listFrames), facts: { path, ...report, problems }, problems };
  } catch (error) {
    const damage = damageOf(error);
    return { lines: [], facts: { path, problems: [damage] }, problems: [damage] };
  }
}

function segmentLines({ header, frames, usedBytes, fileBytes }: WalSegmentReport, listFrames: boolean): string[] {
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
      lines.push(...segmentLines(report, listFrames));
      logs.push({ path, ...report, problems: undefined, frames: listFrames ? report.frames : report.frames.length });
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
