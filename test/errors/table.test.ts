/** The table of failures: what it promises, and that docs/errors.md says the same. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ConcordError, ERROR_TABLE, type ErrorCode } from '../../dist/index.js';
import { fromSystemError, invalidArgument, toErrorRecord } from '../../dist/shared/errors.js';

const rows = Object.entries(ERROR_TABLE) as [ErrorCode, (typeof ERROR_TABLE)[ErrorCode]][];

/** Rows of the Markdown table whose first cell is a code. */
function documented(): { code: string; text: string; retryable: string; httpStatus: string }[] {
  const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
  return page
    .split('\n')
    .filter((line) => line.startsWith('| `ERR_'))
    .map((line) => {
      const [code, retryable, httpStatus, text] = line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()) as [string, string, string, string];
      return { code: code.replaceAll('`', ''), retryable, httpStatus, text };
    });
}

test('docs/errors.md and the table are the same, row by row', () => {
  const expected = rows.map(([code, { text, retryable, httpStatus }]) => ({
    code,
    retryable: retryable ? 'yes' : 'no',
    httpStatus: String(httpStatus),
    text,
  }));
  expect(documented()).toEqual(expected);
});

test('every code begins with ERR_, every status is one of HTTP, every text is one lower-case line', () => {
  for (const [code, { httpStatus, text }] of rows) {
    expect(code).toMatch(/^ERR_[A-Z_]+$/);
    expect(httpStatus).toBeGreaterThanOrEqual(400);
    expect(httpStatus).toBeLessThan(600);
    expect(text).toMatch(/^[a-z][^\n]+[^.\n]$/);
  }
});

describe('a ConcordError', () => {
  test('takes retryable and status from its row and crosses threads as a record', () => {
    const error = new ConcordError('ERR_LOCKED', 'the text', { pid: 7 });
    expect(error).toMatchObject({
      name: 'ConcordError',
      code: 'ERR_LOCKED',
      retryable: true,
      httpStatus: 503,
      details: { pid: 7 },
    });
    const back = ConcordError.fromRecord(structuredClone(error.toRecord()));
    expect(back).toMatchObject({ code: 'ERR_LOCKED', message: 'the text', retryable: true, details: { pid: 7 } });
    expect(back).toBeInstanceOf(Error);
  });

  test('anything thrown becomes a record', () => {
    expect(toErrorRecord(new ConcordError('ERR_IO', 'x'))).toEqual({ code: 'ERR_IO', message: 'x', details: {} });
    expect(toErrorRecord(new RangeError('odd'))).toMatchObject({
      code: 'ERR_INTERNAL',
      message: expect.stringContaining('odd') as string,
    });
    expect(toErrorRecord('text')).toEqual({ code: 'ERR_INTERNAL', message: 'text', details: {} });
  });

  test.each([
    ['ENOSPC', 'ERR_DISK_FULL'],
    ['EDQUOT', 'ERR_DISK_FULL'],
    ['EACCES', 'ERR_PERMISSION'],
    ['EPERM', 'ERR_PERMISSION'],
    ['EROFS', 'ERR_PERMISSION'],
    ['EIO', 'ERR_IO'],
    ['EMFILE', 'ERR_IO'],
  ])('of the system error %s has the code %s and names the file', (errno, code) => {
    const cause = Object.assign(new Error('from the system'), { code: errno });
    const error = fromSystemError(cause, 'writing', '/some/file');
    expect(error).toMatchObject({ code, details: { file: '/some/file', errno }, cause });
    expect(error.message).toContain('/some/file');
    expect(fromSystemError(error, 'again', '/other')).toBe(error);
  });

  test("a caller's mistake is a TypeError with a code", () => {
    expect(invalidArgument('what')).toBeInstanceOf(TypeError);
    expect(invalidArgument('what')).toMatchObject({ code: 'ERR_INVALID_ARG', message: 'what' });
  });
});
