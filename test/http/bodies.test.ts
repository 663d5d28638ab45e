/** Bodies and answers on connections that end, or turn to nonsense, while the store is at work: its answers come when a test says so. */
import type { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { BodyReader, BodyRequest } from '../../dist/actors/gateway/http/body.js';
import { HttpServer } from '../../dist/actors/gateway/http/server.js';
import type { HttpPool } from '../../dist/actors/gateway/http/server.js';
import { Raw } from './server.js';

const IN_FLIGHT_MAX = 1 << 20;
/** Keys that begin so are written when a test says so. */
const SLOW = 'slow';

const waiting = new Map<string, () => void>();
const puts: string[] = [];
const store = {
  async put(key: string): Promise<boolean> {
    puts.push(key);
    if (key.startsWith(SLOW)) await new Promise<void>((resolve) => waiting.set(key, resolve));
    return true;
  },
} as unknown as HttpPool;
let server: HttpServer;

function finish(key: string): void {
  waiting.get(key)?.();
  waiting.delete(key);
}

beforeAll(async () => {
  server = await HttpServer.start(store, {
    port: 0,
    threads: 1,
    logLevel: 'silent',
    drainMs: 100,
    bodyBytesMax: IN_FLIGHT_MAX,
    bodyBytesInFlightMax: IN_FLIGHT_MAX,
  });
});
afterAll(async () => {
  for (const key of waiting.keys()) finish(key);
  await server.close();
});

function putText(key: string, declared: number, body: string): string {
  return `PUT /v1/kv/${key} HTTP/1.1\r\nhost: x\r\ncontent-length: ${declared}\r\n\r\n${body}`;
}

async function statusOf(bytes: number): Promise<number> {
  const { status } = await fetch(`${server.url}/v1/kv/whole`, { method: 'PUT', body: Buffer.alloc(bytes) });
  return status;
}

test('what a body takes of the budget comes back when it is written, whether its connection lives or not', async () => {
  const most = IN_FLIGHT_MAX - 1000;
  const raw = await Raw.open(server.port);
  raw.socket.write(putText(`${SLOW}-first`, 1, 'x') + putText(`${SLOW}-second`, most, 'x'.repeat(most)));
  await expect.poll(() => puts).toContain(`${SLOW}-second`);
  expect(await statusOf(most)).toBe(503);
  raw.socket.resetAndDestroy();
  await raw.closed;
  expect(await statusOf(most)).toBe(503);
  finish(`${SLOW}-second`);
  await expect.poll(() => statusOf(most)).toBe(204);
});

test('small bodies that one connection sends ahead count in the budget', async () => {
  const bytes = 60_000;
  const fitting = Math.floor(IN_FLIGHT_MAX / bytes);
  const reserve = vi.spyOn(BodyReader.prototype, 'reserve');
  onTestFinished(() => reserve.mockRestore());
  const raw = await Raw.open(server.port);
  raw.socket.once('end', () => raw.socket.destroy());
  for (let i = 0; i <= fitting; i++) raw.socket.write(putText(`${SLOW}-ahead-${i}`, bytes, 'x'.repeat(bytes)));
  // The last one is met, and refused, while the others are still held.
  await expect.poll(() => reserve.mock.results.map(({ value }) => value as boolean)).toContain(false);
  expect(puts).toContain(`${SLOW}-ahead-${fitting - 1}`);
  expect(await statusOf(bytes)).toBe(503);
  for (let i = 0; i < fitting; i++) finish(`${SLOW}-ahead-${i}`);
  await raw.closed;
  expect(puts).not.toContain(`${SLOW}-ahead-${fitting}`);
  expect(raw.text.match(/HTTP\/1\.1 \d+/g)).toEqual([...Array<string>(fitting).fill('HTTP/1.1 204'), 'HTTP/1.1 503']);
  await expect.poll(() => statusOf(bytes)).toBe(204);
});

test('nonsense behind a request is not answered in its place', async () => {
  const raw = await Raw.open(server.port);
  raw.socket.write(putText(`${SLOW}-before`, 1, 'x') + 'nonsense\r\n\r\n');
  raw.socket.once('end', () => raw.socket.destroy());
  await raw.closed;
  expect(puts).toContain(`${SLOW}-before`);
  expect(raw.text).toBe('');
});

test('a body in tiny chunks is kept in few pieces', () => {
  const sent = Buffer.alloc(20_000, 'any bytes');
  const reader = new BodyReader({ bodyBytesMax: sent.length, bodyBytesInFlightMax: sent.length });
  const request = new BodyRequest(new Socket());
  (request as IncomingMessage).headers = { 'transfer-encoding': 'chunked' };
  let received: Buffer | undefined;
  reader.read(request, (error, body) => {
    expect(error).toBeUndefined();
    received = body;
  });
  for (let at = 0; at < sent.length; at++) request.push(Buffer.from(sent.subarray(at, at + 1)));
  const concat = vi.spyOn(Buffer, 'concat');
  request.push(null);
  const [pieces] = concat.mock.calls.at(-1)!;
  concat.mockRestore();
  expect(received!.equals(sent)).toBe(true);
  expect(pieces.length).toBeLessThan(50);
});
