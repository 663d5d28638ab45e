/**
 * Failures as HTTP answers: `{"error":{"code","message"}}` with a status.
 *
 * Codes of the engine keep their row of the error table. The face adds the few that only HTTP can meet; they are listed here and in
 * docs/http.md. Messages of unexpected failures stay in the log: a client learns the code and nothing of the machine.
 */
import { ConcordError, ERROR_TABLE } from '../../../shared/errors.js';

export const HTTP_FAILURES = {
  ERR_KEY_ABSENT: { status: 404, text: 'there is no such key' },
  ERR_ROUTE: { status: 404, text: 'there is no such route' },
  ERR_METHOD: { status: 405, text: 'the route does not support this method' },
  ERR_PRECONDITION: { status: 412, text: 'the condition of the request does not hold' },
  ERR_BODY_TOO_LARGE: { status: 413, text: 'the body is longer than the limit' },
  ERR_BODY_CUT: { status: 400, text: 'the body ended early' },
  ERR_HEADER_TOO_LARGE: { status: 431, text: 'the request line and headers are longer than the limit' },
  ERR_REQUEST_TIMEOUT: { status: 408, text: 'the request did not arrive in time' },
  ERR_HTTP_SYNTAX: { status: 400, text: 'the bytes are not an HTTP request' },
  ERR_OVERLOADED: { status: 503, text: 'too many large bodies at once; try again' },
  ERR_SHUTTING_DOWN: { status: 503, text: 'the server is shutting down' },
} as const satisfies Record<string, { status: number; text: string }>;

export type HttpFailureCode = keyof typeof HTTP_FAILURES;

/** A failure of the face itself. */
export class HttpFailure extends Error {
  readonly code: HttpFailureCode;
  /** ERR_METHOD: the methods that the route has. */
  readonly allow: string | undefined;

  constructor(code: HttpFailureCode, message: string = HTTP_FAILURES[code].text, allow?: string) {
    super(message);
    this.name = 'HttpFailure';
    this.code = code;
    this.allow = allow;
  }
}

export interface FailureAnswer {
  readonly status: number;
  readonly code: string;
  readonly message: string;
  /** Worth an error line in the log: the server's fault, not the client's. */
  readonly unexpected: boolean;
}

/** The answer for whatever was thrown. */
export function answerOf(error: unknown): FailureAnswer {
  if (error instanceof HttpFailure) {
    return { status: HTTP_FAILURES[error.code].status, code: error.code, message: error.message, unexpected: false };
  }
  if (error instanceof ConcordError) {
    const status = error.httpStatus;
    if (status === 500) return { status, code: error.code, message: ERROR_TABLE[error.code].text, unexpected: true };
    return { status, code: error.code, message: error.message, unexpected: false };
  }
  const { code, statusCode } = (error ?? {}) as { code?: unknown; statusCode?: unknown };
  if (code === 'ERR_INVALID_ARG' || code === 'FST_ERR_BAD_URL' || code === 'FST_ERR_MAX_PARAM_LENGTH') {
    return { status: 400, code: 'ERR_INVALID_ARG', message: (error as Error).message, unexpected: false };
  }
  if (typeof statusCode === 'number' && statusCode >= 400 && statusCode < 500) {
    return { status: statusCode, code: 'ERR_HTTP_SYNTAX', message: (error as Error).message, unexpected: false };
  }
  return { status: 500, code: 'ERR_INTERNAL', message: ERROR_TABLE.ERR_INTERNAL.text, unexpected: true };
}

export function bodyOf(answer: { code: string; message: string }): Buffer {
  return Buffer.from(JSON.stringify({ error: { code: answer.code, message: answer.message } }) + '\n');
}

/** A whole answer for a connection whose request never became one (syntax error, header overflow, timeout). */
export function rawAnswer(code: HttpFailureCode): string {
  const { status, text } = HTTP_FAILURES[code];
  const body = bodyOf({ code, message: text }).toString();
  const reason = { 400: 'Bad Request', 408: 'Request Timeout', 431: 'Request Header Fields Too Large' }[status as 400];
  return (
    `HTTP/1.1 ${status} ${reason}\r\nconnection: close\r\ncontent-type: application/json\r\n` +
    `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  );
}
