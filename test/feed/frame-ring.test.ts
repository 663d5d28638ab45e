/** What a store without files keeps for those who watch: everything while they keep up, a coded error when they do not. */
import { describe, expect, test } from 'vitest';
import {
  DATA_BYTE,
  FrameRingTail,
  FrameRingWriter,
  clearWatcher,
  createFrameRing,
} from '../../dist/engines/feed/frame-ring.js';
import type { FeedLimits, FeedPosition } from '../../dist/engines/feed/source.js';
import { ShardFeed } from '../../dist/engines/feed/shard-feed.js';
import { Random } from '../../dist/shared/random.js';
import { ALL, prepare, put, resolve } from './scene.js';

const CLIENT = 3;

const limits = (publishedSeq: number): FeedLimits => ({
  publishedSeq,
  lastSeq: Infinity,
  syncedLsn: 0,
  durable: false,
});

function frames(tail: FrameRingTail, publishedSeq: number): string[] {
  const texts: string[] = [];
  for (;;) {
    const frame = tail.next(limits(publishedSeq));
    if (frame !== undefined) texts.push(`${frame.firstSeq} ${frame.bytes.toString('latin1', frame.start, frame.end)}`);
    else if (!tail.isSearching) return texts;
  }
}

function append(writer: FrameRingWriter, seq: number, text: string, count = 1): void {
  const bytes = Buffer.from(`..${text}..`);
  writer.append(bytes, 2, bytes.length - 2, seq, count);
}

function codeOf(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return (error as { code?: unknown }).code;
  }
  return undefined;
}

describe('the ring of frames', () => {
  test('gives what is published, to whoever watched before', () => {
    const sab = createFrameRing(4096);
    const writer = new FrameRingWriter(sab, 0);
    append(writer, 1, 'nobody watches');
    const tail = new FrameRingTail(sab, 0);
    const release = tail.watch(CLIENT);
    tail.seek(tail.end(() => 1));
    append(writer, 2, 'one', 3);
    expect(frames(tail, 4 - 1)).toEqual([]);
    expect(frames(tail, 4)).toEqual(['2 one']);
    append(writer, 5, 'two');
    append(writer, 6, 'three');
    expect(frames(tail, 5)).toEqual(['5 two']);
    expect(frames(tail, 6)).toEqual(['6 three']);
    release();
    append(writer, 7, 'nobody watches');
    const { position } = tail;
    const again = new FrameRingTail(sab, 0);
    again.watch(CLIENT);
    again.seek(position);
    expect(codeOf(() => frames(again, 7))).toBe('ERR_FEED_TRUNCATED');
  });

  test('goes on with a position while somebody else watches', () => {
    const sab = createFrameRing(4096);
    const writer = new FrameRingWriter(sab, 0);
    const tail = new FrameRingTail(sab, 0);
    tail.watch(CLIENT);
    tail.seek(tail.end(() => 0));
    append(writer, 1, 'one');
    append(writer, 2, 'two');
    tail.next(limits(2));
    const again = new FrameRingTail(sab, 0);
    again.seek(tail.position);
    expect(frames(again, 2)).toEqual(['2 two']);
    const all = new FrameRingTail(sab, 0);
    all.seek(all.beginning());
    expect(frames(all, 2)).toEqual(['1 one', '2 two']);
  });

  test('passes over the group that was on its way when a feed began', () => {
    const sab = createFrameRing(4096);
    const writer = new FrameRingWriter(sab, 0);
    append(writer, 10, 'seen by nobody, published late');
    const tail = new FrameRingTail(sab, 0);
    tail.watch(CLIENT);
    tail.seek(tail.end(() => 9));
    expect(frames(tail, 10)).toEqual([]);
    append(writer, 11, 'next');
    expect(frames(tail, 11)).toEqual(['11 next']);
  });

  test('does not give what a dead writer had not published', () => {
    const sab = createFrameRing(4096);
    const writer = new FrameRingWriter(sab, 0);
    const tail = new FrameRingTail(sab, 0);
    tail.watch(CLIENT);
    tail.seek(tail.end(() => 0));
    append(writer, 1, 'one');
    append(writer, 2, 'never published');
    const successor = new FrameRingWriter(sab, 1);
    append(successor, 3, 'three');
    expect(frames(tail, 3)).toEqual(['1 one', '3 three']);
  });

  test('gives everything to readers that keep up and tells those that do not, however frames lie', () => {
    const seed = Number(process.env['CONCORDKV_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
    const random = new Random(seed);
    for (let round = 0; round < 60; round++) {
      const sab = createFrameRing(64 * (4 + random.below(60)));
      const writer = new FrameRingWriter(sab, 0);
      const quick = new FrameRingTail(sab, 0);
      const slow = new FrameRingTail(sab, 0);
      quick.watch(CLIENT);
      for (const tail of [quick, slow]) tail.seek(tail.end(() => 0));
      const written: string[] = [];
      const seen: string[] = [];
      const seenLate: string[] = [];
      let isCut = false;
      for (let seq = 1; seq <= 300; seq++) {
        const text = 'x'.repeat(random.below((sab.byteLength - DATA_BYTE) / 2 - 31));
        written.push(`${seq} ${text}`);
        append(writer, seq, text);
        seen.push(...frames(quick, seq));
        if (isCut || random.below(4) > 0) continue;
        try {
          seenLate.push(...frames(slow, seq));
        } catch (error) {
          expect((error as { code?: unknown }).code).toBe('ERR_FEED_TRUNCATED');
          isCut = true;
        }
      }
      expect(seen, `seed ${seed}`).toEqual(written);
      expect(seenLate, `seed ${seed}`).toEqual(written.slice(0, seenLate.length));
    }
  });

  test('keeps nothing more when the threads that watched are gone', () => {
    const sab = createFrameRing(4096);
    const writer = new FrameRingWriter(sab, 0);
    const tails = [0, 31, 32, 255].map((client) => {
      const tail = new FrameRingTail(sab, 0);
      tail.watch(client);
      return tail;
    });
    const second = new FrameRingTail(sab, 0);
    const release = second.watch(255);
    for (const client of [0, 31, 32]) clearWatcher(sab, client);
    append(writer, 1, 'one');
    for (const tail of tails) expect(frames(tail, 1)).toEqual(['1 one']);
    // One feed of a thread ends, another one goes on.
    release();
    release();
    append(writer, 2, 'two');
    expect(frames(tails[3]!, 2)).toEqual(['2 two']);
    const { position } = tails[3]!;
    clearWatcher(sab, 255);
    append(writer, 3, 'nobody watches');
    const again = new FrameRingTail(sab, 0);
    again.watch(255);
    again.seek(position);
    expect(codeOf(() => frames(again, 3))).toBe('ERR_FEED_TRUNCATED');
    append(writer, 4, 'four');
    again.seek(again.beginning());
    expect(frames(again, 4)).toEqual(['4 four']);
  });

  test('tells of a transaction whose beginning it went round over, but not of one that nobody watched beginning', () => {
    const sab = createFrameRing(4096);
    const writer = new FrameRingWriter(sab, 0);
    const units = (source: FrameRingTail, at: FeedPosition, seq: number): number[] => {
      const feed = new ShardFeed(0, source, ALL, at);
      const seqs: number[] = [];
      while (feed.advance(limits(seq))) for (; feed.head !== undefined; feed.pass()) seqs.push(feed.head.seq);
      return seqs;
    };
    const appendAll = (seq: number, ...records: Buffer[]): void => {
      const bytes = Buffer.concat(records);
      writer.append(bytes, 0, bytes.length, seq, 1);
    };
    appendAll(1, prepare(70, 3, [put('a', 'A')]), put('x', '1'));
    const now = new FrameRingTail(sab, 0);
    now.watch(CLIENT);
    const begun = now.end(() => 1);
    appendAll(2, prepare(80, 3, [put('b', 'B')]), put('x', '2'));
    const tail = new FrameRingTail(sab, 0);
    tail.seek(tail.beginning());
    expect(tail.next(limits(2))?.firstSeq).toBe(2);
    const token = tail.position;
    appendAll(4, resolve(70, 3), put('x', '4'));
    expect(units(now, begun, 4)).toEqual([2, 4]);
    appendAll(6, resolve(80, 5), put('x', '6'));
    expect(units(new FrameRingTail(sab, 0), { ...token, seq: 4 }, 6)).toEqual([5, 6]);
    // The ring goes round over the frames before the token.
    let seq = 7;
    for (; new FrameRingTail(sab, 0).beginning().offset < token.offset; seq++) appendAll(seq, put('x', ''));
    expect(new FrameRingTail(sab, 0).beginning().offset).toBe(token.offset);
    const at = { ...token, seq: 4 };
    expect(codeOf(() => units(new FrameRingTail(sab, 0), at, seq - 1))).toBe('ERR_FEED_TRUNCATED');
    const left = new FrameRingTail(sab, 0);
    expect(units(left, left.beginning(), seq - 1)).not.toContain(5);
  });

  test('tells of a change that was too large to be kept', () => {
    const sab = createFrameRing(4096);
    const writer = new FrameRingWriter(sab, 0);
    const tail = new FrameRingTail(sab, 0);
    tail.watch(CLIENT);
    tail.seek(tail.end(() => 0));
    append(writer, 1, 'x'.repeat(3000));
    expect(codeOf(() => frames(tail, 1))).toBe('ERR_FEED_TRUNCATED');
    const next = new FrameRingTail(sab, 0);
    next.watch(CLIENT);
    next.seek(next.end(() => 1));
    append(writer, 2, 'small');
    expect(frames(next, 2)).toEqual(['2 small']);
  });

  test('holding any bytes is read without harm', () => {
    const seed = Number(process.env['CONCORDKV_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
    const random = new Random(seed);
    for (let round = 0; round < 300; round++) {
      const sab = createFrameRing(1024);
      const writer = new FrameRingWriter(sab, 0);
      const tail = new FrameRingTail(sab, 0);
      tail.watch(CLIENT);
      tail.seek(tail.end(() => 0));
      for (let seq = 1; seq < 8; seq++) append(writer, seq, 'x'.repeat(random.below(60)));
      new Uint8Array(sab, DATA_BYTE).set(random.bytes(8 + random.below(32)), random.below(200) & ~7);
      const code = codeOf(() => frames(tail, 7));
      expect([undefined, 'ERR_CORRUPT', 'ERR_FEED_TRUNCATED'], `seed ${seed}`).toContain(code);
    }
  });
});
