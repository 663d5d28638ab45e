/**
 * Records of an NDJSON or CSV stream, with the line each begins on and what is wrong with bad ones. Memory stays flat: a group of records
 * is read when the one before has been taken.
 */
import { isUtf8 } from 'node:buffer';
import { Readable, pipeline } from 'node:stream';
import { parse } from 'csv-parse';
import { CliFailure } from './exit.js';

export type RecordFormat = 'ndjson' | 'csv';

export interface SourceRecord {
  /** 1-based. */
  readonly line: number;
  /** The parsed record, unless `problem` says why there is none. */
  readonly value?: unknown;
  readonly problem?: string;
}

export interface RecordSource {
  /** Groups of records, in order. */
  readonly groups: AsyncIterable<readonly SourceRecord[]>;
  /** Bytes of the input taken so far. */
  readonly bytesRead: () => number;
}

/** Longer lines are a sign that the file is not NDJSON, and would have to be held in memory whole. */
const LINE_BYTES_MAX = 256 * 1024 * 1024;
const CSV_GROUP = 256;

interface CsvRecord {
  readonly record: Record<string, string>;
  readonly info: { readonly lines: number };
}

export function readRecords(input: Readable, format: RecordFormat): RecordSource {
  let bytes = 0;
  async function* counted(): AsyncGenerator<Buffer> {
    try {
      for await (const chunk of input as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        yield chunk;
      }
    } catch (error) {
      throw new CliFailure('ERR_INPUT', (error as Error).message);
    }
  }
  // It may fail before anyone reads, while the store is being opened: the reader hears of it then.
  input.on('error', () => undefined);
  return { groups: format === 'csv' ? csvGroups(counted()) : ndjsonGroups(counted()), bytesRead: () => bytes };
}

function parseLine(bytes: Buffer, line: number): SourceRecord | undefined {
  if (!isUtf8(bytes)) return { line, problem: 'not valid UTF-8' };
  let text = bytes.toString('utf8');
  if (line === 1 && text.charCodeAt(0) === 0xfeff) text = text.slice(1);
  if (text.trim() === '') return undefined;
  try {
    return { line, value: JSON.parse(text) as unknown };
  } catch (error) {
    return { line, problem: `not JSON: ${(error as Error).message}` };
  }
}

async function* ndjsonGroups(chunks: AsyncIterable<Buffer>): AsyncGenerator<SourceRecord[]> {
  let line = 0;
  /** Pieces of a line that goes on in the next chunk. */
  let begun: Buffer[] = [];
  let begunBytes = 0;
  for await (const chunk of chunks) {
    const group: SourceRecord[] = [];
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(0x0a, start);
      if (end < 0) break;
      const piece = chunk.subarray(start, end);
      const bytes = begunBytes === 0 ? piece : Buffer.concat([...begun, piece]);
      begun = [];
      begunBytes = 0;
      const record = parseLine(bytes, ++line);
      if (record) group.push(record);
      start = end + 1;
    }
    if (start < chunk.length) {
      begun.push(chunk.subarray(start));
      begunBytes += chunk.length - start;
      if (begunBytes > LINE_BYTES_MAX) {
        throw new CliFailure('ERR_INPUT', `line ${line + 1} is longer than ${LINE_BYTES_MAX} bytes; is this NDJSON?`);
      }
    }
    if (group.length > 0) yield group;
  }
  if (begunBytes > 0) {
    const record = parseLine(Buffer.concat(begun), line + 1);
    if (record) yield [record];
  }
}

const BOM = Buffer.from('\ufeff');

async function* withoutBom(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let head: Buffer | undefined = Buffer.alloc(0);
  for await (const chunk of chunks) {
    if (head === undefined) {
      yield chunk;
      continue;
    }
    head = Buffer.concat([head, chunk]);
    if (head.length < BOM.length) continue;
    yield head.subarray(BOM.equals(head.subarray(0, BOM.length)) ? BOM.length : 0);
    head = undefined;
  }
  if (head !== undefined) yield head;
}

/** The parser hands on bytes as characters, so that what is not UTF-8 is found where it stands. undefined: it is not. */
function textOf(latin1: string): string | undefined {
  if (!/[\x80-\xff]/.test(latin1)) return latin1;
  const bytes = Buffer.from(latin1, 'latin1');
  return isUtf8(bytes) ? bytes.toString('utf8') : undefined;
}

/**
 * Lines of CSV. The parser's count is of the line a record ends on, and takes a CR LF inside of quotes for two line ends.
 * Told of all records, bad ones too, in their order.
 */
class CsvLines {
  #surplus = 0;

  /** The line that a record of these fields begins on. `ends`: what the parser says. */
  begin(fields: readonly string[], ends: number): number {
    let inside = 0;
    let pairs = 0;
    for (const field of fields) {
      inside += field.match(/[\r\n]/g)?.length ?? 0;
      pairs += field.match(/\r\n/g)?.length ?? 0;
    }
    const line = ends - inside - this.#surplus;
    this.#surplus += pairs;
    return line;
  }
}

function columnsOf(header: readonly string[]): string[] {
  return header.map((name) => {
    const text = textOf(name);
    if (text === undefined) throw new CliFailure('ERR_INPUT', 'the names of the columns are not valid UTF-8');
    return text;
  });
}

function csvRecord(record: Record<string, string>, line: number): SourceRecord {
  for (const [column, field] of Object.entries(record)) {
    const text = textOf(field);
    if (text === undefined) return { line, problem: 'not valid UTF-8' };
    record[column] = text;
  }
  return { line, value: record };
}

async function* csvGroups(chunks: AsyncIterable<Buffer>): AsyncGenerator<SourceRecord[]> {
  let group: SourceRecord[] = [];
  /** The parser is ahead of the loop below: bad records wait here until the loop has come to their line. */
  const bad: SourceRecord[] = [];
  const lines = new CsvLines();
  const parser = parse({
    encoding: 'latin1',
    columns: (header: readonly string[]) => {
      lines.begin(header, 1);
      return columnsOf(header);
    },
    info: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    max_record_size: LINE_BYTES_MAX,
    on_skip: (error) => {
      const { lines: ends = 0, record } = (error ?? {}) as { lines?: number; record?: unknown };
      const fields = Array.isArray(record) ? record.filter((field) => typeof field === 'string') : [];
      bad.push({ line: lines.begin(fields, ends), problem: error?.message ?? 'not a CSV record' });
      return undefined;
    },
    on_record: (entry: CsvRecord): CsvRecord => {
      const { record, info } = entry;
      return { record, info: { lines: lines.begin(Object.values(record), info.lines) } };
    },
  });
  // A failing source destroys the parser with its error, which ends the loop below with it.
  pipeline(Readable.from(withoutBom(chunks), { objectMode: false }), parser, () => undefined);
  for await (const { record, info } of parser as AsyncIterable<CsvRecord>) {
    while (bad.length > 0 && bad[0]!.line < info.lines) group.push(bad.shift()!);
    group.push(csvRecord(record, info.lines));
    if (group.length >= CSV_GROUP) {
      const full = group;
      group = [];
      yield full;
    }
  }
  group.push(...bad);
  if (group.length > 0) yield group;
}
