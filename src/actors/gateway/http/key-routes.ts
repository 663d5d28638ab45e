/**
 * PUT GET HEAD DELETE /v1/kv/{key}: answered on node:http itself. They come before the framework, whose objects per request would cost a good part of
 * what such a request takes.
 *
 * Bodies are opaque: no content type is interpreted, refused or buffered. Contract: docs/http.md. Threads: each server thread builds its own.
 */
import type { ServerResponse } from 'node:http';
import { ConcordError, invalidArgument } from '../../../shared/errors.js';
import { Answers } from './answers.js';
import { BodyReader } from './body.js';
import type { BodyRequest } from './body.js';
import { OPERATION } from './counters.js';
import { HttpFailure } from './failures.js';
import type { HttpOptions } from './options.js';
import { parseDurability, parseQuery, requireAscii } from './scan.js';
import type { HttpPutOptions, HttpStore } from './store.js';

export const KEY_ROUTE = '/v1/kv/';
const BYTES_TYPE = 'application/octet-stream';
/** Attempts of `If-Match: *`, a read followed by a conditional write, before ERR_CONFLICT. */
const MATCH_ANY_ATTEMPTS = 16;

type WriteConditions = HttpPutOptions & { matchAny?: true };

export class KeyRoutes {
  readonly #store: HttpStore;
  readonly #answers: Answers;
  readonly #bodies: BodyReader;

  constructor(store: HttpStore, options: HttpOptions, answers: Answers) {
    this.#store = store;
    this.#answers = answers;
    this.#bodies = new BodyReader(options);
  }

  /** Answers the request, now or later, if it is for one of these routes; false otherwise. */
  take(request: BodyRequest, response: ServerResponse): boolean {
    if (!request.url!.startsWith(KEY_ROUTE)) return false;
    switch (request.method) {
      case 'GET':
      case 'HEAD':
        this.#bodies.ignore(request);
        this.#get(request, response);
        return true;
      case 'PUT':
        this.#put(request, response);
        return true;
      case 'DELETE':
        this.#bodies.ignore(request);
        void this.#delete(request, response);
        return true;
      default:
        return false;
    }
  }

  #get(request: BodyRequest, response: ServerResponse): void {
    const startedMs = performance.now();
    let entry: ReturnType<HttpStore['getEntrySync']>;
    try {
      entry = this.#store.getEntrySync(keyOf(request.url!));
    } catch (error) {
      this.#answers.fail(response, error, OPERATION.get, startedMs);
      return;
    }
    if (entry === undefined) {
      this.#answers.absent(response, OPERATION.get, startedMs);
      return;
    }
    const tag = etagOf(entry.version);
    const known = request.headers['if-none-match'];
    if (known !== undefined && lists(known, tag)) {
      this.#answers.send(response, OPERATION.get, startedMs, 304, ['etag', tag]);
      return;
    }
    const headers = ['etag', tag, 'content-type', BYTES_TYPE];
    this.#answers.send(response, OPERATION.get, startedMs, 200, headers, asBuffer(entry.value));
  }

  #put(request: BodyRequest, response: ServerResponse): void {
    const startedMs = performance.now();
    this.#bodies.read(request, (error, body) => {
      if (error !== undefined) {
        this.#answers.fail(response, error, OPERATION.put, startedMs);
        return;
      }
      this.#write(request, body).then(
        (isStored) => {
          this.#bodies.release(body.length);
          if (isStored) this.#answers.send(response, OPERATION.put, startedMs, 204, []);
          else this.#answers.fail(response, new HttpFailure('ERR_PRECONDITION'), OPERATION.put, startedMs);
        },
        (failure: unknown) => {
          this.#bodies.release(body.length);
          this.#answers.fail(response, failure, OPERATION.put, startedMs);
        },
      );
    });
  }

  /** False: a condition does not hold. */
  #write(request: BodyRequest, body: Buffer): Promise<boolean> {
    try {
      const key = keyOf(request.url!);
      const conditions = conditionsOf(request);
      if (conditions === undefined) return this.#store.put(key, body);
      const { matchAny, ...rest } = conditions;
      return matchAny ? this.#putExisting(key, body, rest) : this.#store.put(key, body, rest);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  async #putExisting(key: string, body: Buffer, durability: HttpPutOptions): Promise<boolean> {
    for (let attempt = 0; attempt < MATCH_ANY_ATTEMPTS; attempt++) {
      const entry = this.#store.getEntrySync(key);
      if (entry === undefined) return false;
      if (await this.#store.put(key, body, { ...durability, ifVersion: entry.version })) return true;
    }
    throw new ConcordError('ERR_CONFLICT', `the key changed ${MATCH_ANY_ATTEMPTS} times while it was being written`);
  }

  async #delete(request: BodyRequest, response: ServerResponse): Promise<void> {
    const startedMs = performance.now();
    try {
      const key = keyOf(request.url!);
      const conditions = conditionsOf(request);
      if (conditions?.ifAbsent) throw invalidArgument('If-None-Match has no meaning for DELETE');
      if (this.#store.getEntrySync(key) === undefined) {
        if (conditions?.ifVersion !== undefined || conditions?.matchAny) throw new HttpFailure('ERR_PRECONDITION');
        this.#answers.absent(response, OPERATION.delete, startedMs);
        return;
      }
      const { durability, ifVersion } = conditions ?? {};
      const isDeleted = await this.#store.del(key, {
        ...(durability !== undefined && { durability }),
        ...(ifVersion !== undefined && { ifVersion }),
      });
      if (!isDeleted) throw new HttpFailure('ERR_PRECONDITION');
      this.#answers.send(response, OPERATION.delete, startedMs, 204, []);
    } catch (error) {
      this.#answers.fail(response, error, OPERATION.delete, startedMs);
    }
  }
}

/** The key exactly as sent: everything between the route and the query, percent-decoded. */
function keyOf(url: string): string {
  const queryAt = url.indexOf('?');
  const raw = queryAt < 0 ? url.slice(KEY_ROUTE.length) : url.slice(KEY_ROUTE.length, queryAt);
  requireAscii(raw);
  if (!raw.includes('%')) return raw;
  try {
    return decodeURIComponent(raw);
  } catch {
    throw invalidArgument('the key is not percent-encoded UTF-8');
  }
}

/** Conditions and durability of a write, from the headers and the query; undefined when there are none. */
function conditionsOf({ headers, url }: BodyRequest): WriteConditions | undefined {
  const ifNoneMatch = headers['if-none-match'];
  const ifMatch = headers['if-match'];
  const header = headers['concordkv-durability'];
  if (ifNoneMatch === undefined && ifMatch === undefined && header === undefined && !url!.includes('?'))
    return undefined;
  const write: WriteConditions = {};
  const durability = parseQuery(url!, ['durability']).get('durability') ?? header;
  if (durability !== undefined) write.durability = parseDurability(String(durability));
  if (ifNoneMatch !== undefined) {
    if (ifNoneMatch.trim() !== '*') throw invalidArgument('a write understands If-None-Match only as *');
    if (ifMatch !== undefined) throw invalidArgument('If-Match and If-None-Match contradict each other');
    write.ifAbsent = true;
  } else if (ifMatch !== undefined) {
    if (ifMatch.trim() === '*') write.matchAny = true;
    else write.ifVersion = versionOf(ifMatch);
  }
  return write;
}

function etagOf(version: number): string {
  return `"${version}"`;
}

/** Never 0, which stands for an entry that is not there. */
function versionOf(tag: string): number {
  const match = /^\s*"([1-9]\d{0,14})"\s*$/.exec(tag);
  if (!match) throw invalidArgument(`If-Match is ${JSON.stringify(tag)}; it must be one ETag of this server, or *`);
  return Number(match[1]);
}

/** True when If-None-Match lists the tag; weak and strong tags compare alike, as GET asks for. */
function lists(header: string, tag: string): boolean {
  return header.split(',').some((part) => {
    const candidate = part.trim();
    return candidate === '*' || candidate === tag || candidate === `W/${tag}`;
  });
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
