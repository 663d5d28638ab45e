/**
 * How an answer leaves: status, headers and body go to the connection at once, and are counted.
 *
 * Headers are a flat list of names and values, which Node writes as it is, without a table of its own per answer.
 * Threads: one per server thread.
 */
import type { ServerResponse } from 'node:http';
import type { Logger } from 'pino';
import type { HttpCounters } from './counters.js';
import { HTTP_FAILURES, HttpFailure, answerOf, bodyOf } from './failures.js';

const JSON_TYPE = 'application/json';
const ABSENT_BODY = bodyOf({ code: 'ERR_KEY_ABSENT', message: HTTP_FAILURES.ERR_KEY_ABSENT.text });

export interface AnswerContext {
  readonly counters: HttpCounters;
  readonly log: Logger;
  /** True from the begin of an orderly close: every answer then ends its connection. */
  draining: boolean;
}

export class Answers {
  readonly #context: AnswerContext;

  constructor(context: AnswerContext) {
    this.#context = context;
  }

  /** `startedMs`: performance.now() when the handler began. `headers` are the callee's to add to. Of HEAD the body is not sent. */
  send(
    response: ServerResponse,
    operation: number,
    startedMs: number,
    status: number,
    headers: string[],
    body?: Buffer,
  ): void {
    const { counters, draining } = this.#context;
    counters.answered(operation, status, startedMs);
    if (draining) headers.push('connection', 'close');
    if (body !== undefined) headers.push('content-length', String(body.length));
    response.writeHead(status, headers);
    response.end(body);
  }

  absent(response: ServerResponse, operation: number, startedMs: number): void {
    this.send(response, operation, startedMs, 404, ['content-type', JSON_TYPE], ABSENT_BODY);
  }

  fail(response: ServerResponse, error: unknown, operation: number, startedMs: number): void {
    const { counters, log, draining } = this.#context;
    const answer = answerOf(error);
    const { status, code } = answer;
    if (answer.unexpected) log.error({ err: error, method: response.req.method, code }, 'request failed');
    if (response.headersSent || response.destroyed) {
      counters.answered(operation, status, startedMs);
      return;
    }
    const headers = ['content-type', JSON_TYPE];
    // The rest of a refused body is not worth reading.
    if ((status === 413 || code === 'ERR_OVERLOADED') && !draining) headers.push('connection', 'close');
    if (status === 503 || status === 507) headers.push('retry-after', '1');
    if (error instanceof HttpFailure && error.allow !== undefined) headers.push('allow', error.allow);
    this.send(response, operation, startedMs, status, headers, bodyOf(answer));
  }
}
