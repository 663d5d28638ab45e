/** When a client's requests become visible to the shard. */
import { expect, test } from 'vitest';
import { ShardLink } from '../../dist/actors/client/shard-link.js';
import { REQUEST_HEADER_BYTES } from '../../dist/actors/shard/request.js';
import { RingConsumer, createRing } from '../../dist/shared/memory/ring.js';

function linkOf(): { send: (recordBytes: number) => void; seen: () => number; wakeUps: () => number } {
  const requests = createRing(1 << 20);
  let wakeUps = 0;
  const onPublish = (): void => void wakeUps++;
  const link = new ShardLink(0, 1, requests, createRing(4096), () => undefined, onPublish);
  const shard = new RingConsumer(requests);
  let seen = 0;
  return {
    send(recordBytes) {
      const at = link.reserve(recordBytes);
      link.requests.bytes.fill(0, at, at + REQUEST_HEADER_BYTES + recordBytes);
      void link.submit();
    },
    seen() {
      while (shard.next() >= 0) seen++;
      return seen;
    },
    wakeUps: () => wakeUps,
  };
}

test('a large batch is seen at once, so that the shard works while the caller makes the next one', () => {
  const { send, seen, wakeUps } = linkOf();
  send(100_000);
  expect([seen(), wakeUps()]).toEqual([1, 1]);
  send(100_000);
  expect([seen(), wakeUps()]).toEqual([2, 2]);
});

test('small requests are seen eight at a time', () => {
  const { send, seen, wakeUps } = linkOf();
  for (let request = 1; request <= 7; request++) send(100);
  expect([seen(), wakeUps()]).toEqual([0, 0]);
  send(100);
  expect([seen(), wakeUps()]).toEqual([8, 1]);
});
