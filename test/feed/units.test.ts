/** What the frames of a log mean: units, in the order of their commits; transactions over several shards, whole and once. */
import { describe, expect, test } from 'vitest';
import { decodeToken, encodeToken } from '../../dist/engines/feed/token.js';
import type { FeedPosition } from '../../dist/engines/feed/source.js';
import type { FeedFilter } from '../../dist/engines/feed/shard-feed.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { Random } from '../../dist/shared/random.js';
import { OperationKind } from '../../dist/engines/operation.js';
import {
  STORE_ID,
  ShardLog,
  applyBatch,
  beginningOf,
  chunk,
  del,
  expired,
  joined,
  prepare,
  put,
  putBlob,
  record,
  resolve,
  storeFeedOf,
  textsOf,
  unitsOf,
  type Row,
} from './scene.js';

function logsOf(count: number): ShardLog[] {
  const env = new MemEnv();
  return Array.from({ length: count }, (_, shard) => new ShardLog(env, shard));
}

function codeOf(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return (error as { code?: unknown }).code;
  }
  return undefined;
}

describe('the units of a shard', () => {
  test('are single operations, and what was joined', () => {
    const [log] = logsOf(1) as [ShardLog];
    log.commit(1, [put('a', '1'), joined([put('b', '2'), del('c'), put('d', '4')]), del('e')]);
    expect(textsOf([log])).toEqual(['1 put a=1', '2 put b=2, 3 del c, 4 put d=4', '5 del e']);
  });

  test('tell a delete of an entry whose time had come', () => {
    const [log] = logsOf(1) as [ShardLog];
    log.commit(1, [expired('a'), del('b'), expired('c', 7)]);
    expect(textsOf([log])).toEqual(['1 expired a', '2 del b', '3 expired c']);
  });

  test('are values in chunks at the place of their last record, whoever writes in between', () => {
    const [log] = logsOf(1) as [ShardLog];
    log.commit(1, [chunk(1, 7, 0, 9, Buffer.from('one')), put('x', '1')]);
    log.commit(3, [chunk(2, 1, 0, 6, Buffer.from('abc')), chunk(1, 7, 3, 9, Buffer.from('two'))]);
    log.commit(5, [chunk(1, 7, 6, 9, Buffer.from('end')), chunk(2, 1, 3, 6, Buffer.from('def'))]);
    log.commit(7, [putBlob('second', 2, 1, 6)]);
    log.commit(8, [putBlob('first', 1, 7, 9)]);
    expect(textsOf([log])).toEqual(['2 put x=1', '7 put second=abcdef', '8 put first=onetwoend']);
  });

  test('are large batches, with a number for each of their changes', () => {
    const [log] = logsOf(1) as [ShardLog];
    const batch = Buffer.concat([put('a', '1'), del('b'), put('c', '3')]);
    log.commit(1, [chunk(1, 1, 0, batch.length, batch.subarray(0, 20), true)]);
    log.commit(2, [chunk(1, 1, 20, batch.length, batch.subarray(20), true)]);
    log.commit(3, [applyBatch(1, 1, batch.length, 3)]);
    log.commit(6, [put('z', '')]);
    expect(textsOf([log])).toEqual(['3 put a=1, 4 del b, 5 put c=3', '6 put z=']);
  });

  test('are without what was given up: values, and transactions', () => {
    const [log] = logsOf(1) as [ShardLog];
    log.commit(1, [chunk(1, 1, 0, 6, Buffer.from('abc')), chunk(1, 1, 0, 0, Buffer.alloc(0))]);
    log.commit(3, [chunk(1, 2, 0, 3, Buffer.from('new'))]);
    log.commit(4, [prepare(90, 3, [put('never', '1')]), put('a', '1')]);
    log.commit(5, [putBlob('v', 1, 2, 3), resolve(90, 0)]);
    expect(textsOf([log])).toEqual(['4 put a=1', '5 put v=new']);
  });

  test('that began before the feed did are found: chunks and prepared writes', () => {
    const [log] = logsOf(1) as [ShardLog];
    log.commit(1, [chunk(1, 1, 0, 6, Buffer.from('abc'))]);
    log.commit(2, [prepare(50, 1, [put('p', '1'), put('q', '2')]), put('a', '1')]);
    const now = log.tail.end(() => log.publishedSeq);
    log.commit(3, [chunk(1, 1, 3, 6, Buffer.from('def'))]);
    log.commit(4, [putBlob('v', 1, 1, 6)]);
    log.commit(6, [put('b', '2'), resolve(50, 5)]);
    expect(textsOf([log], [now])).toEqual(['4 put v=abcdef', '5 put p=1, 5 put q=2', '6 put b=2']);
  });

  test('that began before the feed did, in a log that was cut since, are an error', () => {
    const [log] = logsOf(1) as [ShardLog];
    log.commit(1, [chunk(1, 1, 0, 6, Buffer.from('abc'))]);
    for (let seq = 2; seq < 40; seq++) log.commit(seq, [put('k', 'x'.repeat(4000))]);
    const now = log.tail.end(() => log.publishedSeq);
    log.commit(40, [chunk(1, 1, 3, 6, Buffer.from('def'))]);
    log.commit(41, [putBlob('v', 1, 1, 6)]);
    log.writer.truncate(30);
    expect(codeOf(() => textsOf([log], [now]))).toBe('ERR_FEED_TRUNCATED');
    // Who does not want the key need not know.
    const others: FeedFilter = {
      wants: (_, bytes, at, length) => bytes.toString('utf8', at, at + length) !== 'v',
      wantsRange: () => true,
    };
    log.commit(42, [put('w', '1')]);
    expect(unitsOf([log], storeFeedOf([log], [now], others)).map(({ text }) => text)).toEqual(['42 put w=1']);
  });

  test('that are larger than what is kept in memory are read again', () => {
    const [log] = logsOf(1) as [ShardLog];
    const parts = 600;
    const piece = (i: number): Buffer => Buffer.alloc(50_000, `${String(i).padStart(9, '0')} `);
    log.commit(1, [chunk(1, 1, 0, parts * 50_000, piece(0))]);
    for (let i = 1; i < parts; i++) log.commit(i + 1, [chunk(1, 1, i * 50_000, parts * 50_000, piece(i))]);
    log.commit(parts + 1, [putBlob('v', 1, 1, parts * 50_000)]);
    const feed = storeFeedOf([log], beginningOf([log]));
    while (feed.next(() => log.limits()) === 'more');
    const { change } = feed.ready[0]!.changes().next().value as { change: { value: Buffer; valueLength: number } };
    expect(change.valueLength).toBe(parts * 50_000);
    for (let i = 0; i < parts; i++)
      expect(change.value.subarray(i * 50_000, (i + 1) * 50_000).equals(piece(i)), `piece ${i}`).toBe(true);
  });

  test('are only those that are wanted, and the place moves on over the others', () => {
    const [log] = logsOf(1) as [ShardLog];
    const wanted: FeedFilter = { wants: (space) => space === 5, wantsRange: () => false };
    const feed = storeFeedOf([log], beginningOf([log]), wanted);
    log.commit(1, [
      put('a', '1'),
      put('b', '2', false, 5),
      joined([put('c', '3'), put('d', '4', false, 5)]),
      put('e', '5'),
    ]);
    expect(unitsOf([log], feed).map(({ text }) => text)).toEqual(['2 put b=2', '4 put d=4']);
    log.commit(6, [put('f', '')]);
    expect(unitsOf([log], feed)).toEqual([]);
    expect(feed.positions[0]).toMatchObject({ lsn: 3, seq: 6, unit: 0 });
  });

  test('in frames that are intact and mean nothing are errors with file and place', () => {
    const unknown = put('a', '1');
    unknown[0] = 99;
    const open = put('a', '1', true);
    const cleared = record(OperationKind.ClearRange, 0, Buffer.alloc(0), Buffer.alloc(0));
    for (const records of [
      [unknown],
      [put('b', ''), open],
      [open, cleared],
      [open, chunk(1, 1, 0, 0, Buffer.alloc(0))],
    ]) {
      const [log] = logsOf(1) as [ShardLog];
      const { writer } = log;
      writer.begin();
      for (const bytes of records) {
        writer.ensure(bytes.length);
        writer.bytes.set(bytes, writer.position);
        writer.position += bytes.length;
      }
      writer.commit(1, records.length);
      log.publishedSeq = records.length;
      let error: unknown;
      try {
        textsOf([log]);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: `${log.directory}/wal-0000000001.log` } });
      expect((error as { details: { offset: number } }).details.offset).toBeGreaterThanOrEqual(4096 + 48);
    }
  });
});

describe('a transaction over several shards', () => {
  test('comes whole when its last shard has it, and holds back what was committed after it', () => {
    const logs = logsOf(2) as [ShardLog, ShardLog];
    const [one, two] = logs;
    const feed = storeFeedOf(logs, beginningOf(logs));
    one.commit(1, [prepare(70, 3, [put('a', 'A'), put('b', 'B')]), put('x', '1')]);
    two.commit(2, [prepare(70, 3, [del('c')]), put('y', '1')]);
    // 3: the transaction's number. A group with higher ones ends it where it is prepared.
    one.commit(4, [put('x', '2'), resolve(70, 3)]);
    one.commit(5, [put('x', '3')]);
    two.commit(6, [put('y', '2'), resolve(70, 3)], { unpublished: true });
    expect(unitsOf(logs, feed).map(({ text }) => text)).toEqual(['1 put x=1', '2 put y=1']);
    two.publishedSeq = 6;
    expect(unitsOf(logs, feed).map(({ text }) => text)).toEqual([
      '3 put a=A, 3 put b=B, 3 del c',
      '4 put x=2',
      '5 put x=3',
      '6 put y=2',
    ]);
  });

  test('of which a part is older than the feed is not delivered in part', () => {
    const logs = logsOf(2) as [ShardLog, ShardLog];
    const [one, two] = logs;
    one.commit(1, [prepare(70, 3, [put('a', 'A')]), put('x', '1')]);
    two.commit(2, [prepare(70, 3, [put('b', 'B')]), put('y', '1')]);
    one.commit(4, [put('x', '2'), resolve(70, 3)]);
    const now = logs.map((log) => log.tail.end(() => log.publishedSeq));
    const feed = storeFeedOf(logs, now);
    two.commit(5, [resolve(70, 3), put('y', '2')]);
    expect(unitsOf(logs, feed).map(({ text }) => text)).toEqual(['5 put y=2']);
    // Whoever asks for all gets it whole.
    expect(textsOf(logs)).toContain('3 put a=A, 3 put b=B');
  });

  test('of which a part was cut off the log is not delivered in part', () => {
    const logs = logsOf(2) as [ShardLog, ShardLog];
    const [one, two] = logs;
    one.commit(1, [prepare(70, 3, [put('a', 'A')])].concat(put('x', '1')));
    two.commit(2, [prepare(70, 3, [put('b', 'B')]), put('y', '1')]);
    one.commit(4, [put('x', '2'), resolve(70, 3)]);
    two.commit(5, [resolve(70, 3), put('y', '2')]);
    for (let seq = 6; seq < 60; seq++) one.commit(seq, [put('x', 'x'.repeat(3000))]);
    one.writer.truncate(40);
    const texts = textsOf(logs);
    expect(texts.slice(0, 2)).toEqual(['2 put y=1', '5 put y=2']);
    expect(texts.join()).not.toContain('put b=B');
  });

  test('that the log of one of its shards does not have, and takes no more, is told as such', () => {
    const logs = logsOf(3);
    const [one, two, three] = logs as [ShardLog, ShardLog, ShardLog];
    one.commit(1, [prepare(70, 3, [put('a', 'A')]), put('x', '1')]);
    two.commit(2, [prepare(70, 3, [put('b', 'B')]), put('y', '1')]);
    two.lastSeq = 2;
    // It failed, and a higher number is published without the log.
    two.commit(3, [put('y', 'failed')], { unpublished: true });
    one.commit(5, [resolve(70, 4), put('x', '2')]);
    two.publishedSeq = 6;
    for (let seq = 7; seq < 60; seq++) three.commit(seq, [put('z', String(seq))]);
    const feed = storeFeedOf(logs, beginningOf(logs));
    expect(unitsOf(logs, feed).map(({ text }) => text)).toEqual(['1 put x=1', '2 put y=1']);
    expect(feed.stuck).toEqual({ id: 70, shard: 0, missingIn: 1 });
    // Opened again: what was in the file counts, and the part is there with another number.
    const { positions } = feed;
    const again = [one.reopen(), two.reopen(), three.reopen()];
    again[1]!.commit(62, [resolve(70, 61), put('y', '2')]);
    expect(textsOf(again, positions).filter((text) => !text.includes('put z='))).toEqual([
      '3 put y=failed',
      '4 put a=A, 61 put b=B',
      '5 put x=2',
      '62 put y=2',
    ]);
  });

  test('that a shard ends in a later life, behind other groups, is not passed over', () => {
    const logs = logsOf(2) as [ShardLog, ShardLog];
    const [one, two] = logs;
    one.commit(1, [prepare(70, 3, [put('a', 'A')]), put('x', '1')]);
    two.commit(2, [prepare(70, 3, [put('b', 'B')]), put('y', '1')]);
    const live = storeFeedOf(logs, beginningOf(logs));
    const token = unitsOf(logs, live).at(-1)!.positions;
    one.commit(4, [resolve(70, 3), put('x', '2')]);
    logs[1] = two.reopen();
    const [, again] = logs;
    again.commit(10, [expired('e')]);
    const rows = unitsOf(logs, storeFeedOf(logs, token));
    expect(rows.map(({ text }) => text)).toEqual(['10 expired e']);
    const { positions } = rows[0]!;
    expect(textsOf(logs, positions)).toEqual([]);
    // Its log fails too: what is missing comes in the life after.
    again.lastSeq = 10;
    again.publishedSeq = 11;
    const stuck = storeFeedOf(logs, positions);
    expect(unitsOf(logs, stuck)).toEqual([]);
    expect(stuck.stuck).toEqual({ id: 70, shard: 0, missingIn: 1 });
    logs[1] = again.reopen();
    const [, last] = logs;
    expect(textsOf(logs, stuck.positions)).toEqual([]);
    last.commit(21, [resolve(70, 20), put('y', '2')]);
    const behind = ['3 put a=A, 20 put b=B', '4 put x=2', '21 put y=2'];
    expect(textsOf(logs, positions)).toEqual(behind);
    expect(textsOf(logs, token)).toEqual(['10 expired e', ...behind]);
    expect(textsOf(logs)).toEqual(['1 put x=1', '2 put y=1', '10 expired e', ...behind]);
    // Who has had it does not get it again.
    const [whole] = unitsOf(logs, storeFeedOf(logs, positions)) as [Row];
    expect(textsOf(logs, whole.positions)).toEqual(behind.slice(1));
  });

  test('that a shard ends in a later life, and whose beginning there is cut off since, is told, not passed over', () => {
    const logs = logsOf(2) as [ShardLog, ShardLog];
    const [one, two] = logs;
    one.commit(1, [prepare(70, 3, [put('a', 'A')]), put('x', '1')]);
    two.commit(2, [prepare(70, 3, [put('b', 'B')]), put('y', '1')]);
    for (let seq = 3; seq < 60; seq++) two.commit(seq, [put('y', 'y'.repeat(3000))]);
    const token = unitsOf(logs, storeFeedOf(logs, beginningOf(logs))).at(-1)!.positions;
    one.commit(61, [resolve(70, 60), put('x', '2')]);
    logs[1] = two.reopen();
    const [, again] = logs;
    again.commit(70, [expired('e')]);
    again.commit(72, [resolve(70, 71), put('y', '2')]);
    expect(textsOf(logs, token)).toEqual(['70 expired e', '60 put a=A, 71 put b=B', '61 put x=2', '72 put y=2']);
    again.writer.truncate(45);
    expect(codeOf(() => textsOf(logs, token))).toBe('ERR_FEED_TRUNCATED');
  });

  test('that was prepared before the token and is cut off since is told, not passed over', () => {
    const logs = logsOf(2) as [ShardLog, ShardLog];
    const [one, two] = logs;
    one.commit(1, [prepare(70, 3, [put('a', 'A')]), put('x', '1')]);
    two.commit(2, [prepare(70, 3, [put('b', 'B')]), put('y', '1')]);
    for (let seq = 3; seq < 60; seq++) one.commit(seq, [put('x', 'x'.repeat(3000))]);
    const token = unitsOf(logs, storeFeedOf(logs, beginningOf(logs))).at(-1)!.positions;
    const now = logs.map((log) => log.tail.end(() => log.publishedSeq));
    one.commit(61, [resolve(70, 60), put('x', '2')]);
    two.commit(62, [resolve(70, 60), put('y', '2')]);
    const behind = ['60 put a=A, 60 put b=B', '61 put x=2', '62 put y=2'];
    expect(textsOf(logs, token)).toEqual(behind);
    const [whole, next] = unitsOf(logs, storeFeedOf(logs, token)) as [Row, Row];
    // The place of the token is kept, and what is newer.
    one.writer.truncate(45);
    expect(one.tail.beginning().lsn).toBeLessThanOrEqual(token[0]!.lsn);
    expect(codeOf(() => textsOf(logs, token))).toBe('ERR_FEED_TRUNCATED');
    expect(codeOf(() => textsOf(logs, now))).toBe('ERR_FEED_TRUNCATED');
    // Whoever has had it goes on, in the middle of the frame that ends it too.
    expect(textsOf(logs, whole.positions)).toEqual(behind.slice(1));
    expect(textsOf(logs, next.positions)).toEqual(behind.slice(2));
    // In the log that is left it never was.
    expect(textsOf(logs).slice(-2)).toEqual(['61 put x=2', '62 put y=2']);
    expect(textsOf(logs).join()).not.toContain('60 put');
  });

  test('in random interleavings: each unit once, whole, in the order of each shard; from every place on the rest', () => {
    const seed = Number(process.env['CONCORDKV_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
    const random = new Random(seed);
    for (let round = 0; round < 10; round++) runInterleaving(random, `seed ${seed}, round ${round}`);
  });
});

/** Three shards, operations and transactions in random order, a follower that looks now and then; then a follower from each place it was at. */
function runInterleaving(random: Random, what: string): void {
  const logs = logsOf(3);
  let counter = 1;
  const expected = new Set<string>();
  const decided: { id: number; number: number; open: Set<number> }[] = [];
  const prepared: { id: number; mask: number; text: string }[] = [];
  const feed = storeFeedOf(logs, beginningOf(logs));
  const rows: { text: string; positions: readonly FeedPosition[] }[] = [];
  const ofShard: string[][] = [[], [], []];
  // A group ends all that was decided before it took its numbers.
  const resolvesOf = (shard: number): Buffer[] =>
    decided.filter(({ open }) => open.delete(shard)).map(({ id, number }) => resolve(id, number));
  for (let step = 0; step < 120; step++) {
    const what = random.below(10);
    if (what === 0) {
      // A transaction is prepared in two or three shards.
      const id = counter++;
      const mask = [3, 5, 6, 7][random.below(4)]!;
      const texts: string[] = [];
      for (let shard = 0; shard < 3; shard++) {
        if ((mask & (1 << shard)) === 0) continue;
        const resolves = resolvesOf(shard);
        const writes = Array.from({ length: 1 + random.below(3) }, (_, i) => put(`t${id}.${shard}.${i}`, 'v'));
        writes.forEach((_, i) => texts.push(`N put t${id}.${shard}.${i}=v`));
        const seq = counter++;
        logs[shard]!.commit(seq, [...resolves, prepare(id, mask, writes), put(`p${seq}`, 'v')]);
        expected.add(`${seq} put p${seq}=v`);
        ofShard[shard]!.push(`${seq} put p${seq}=v`);
      }
      prepared.push({ id, mask, text: texts.join(', ') });
    } else if (what === 1 && prepared.length > 0) {
      const [{ id, mask, text }] = prepared.splice(random.below(prepared.length), 1) as [(typeof prepared)[0]];
      const isAborted = random.below(4) === 0;
      const number = isAborted ? 0 : counter++;
      decided.push({ id, number, open: new Set([0, 1, 2].filter((shard) => (mask & (1 << shard)) !== 0)) });
      if (isAborted) continue;
      expected.add(text.replaceAll('N', String(number)));
    } else {
      const shard = random.below(3);
      const first = counter;
      const records = resolvesOf(shard);
      const count = 1 + random.below(3);
      for (let i = 0; i < count; i++) {
        const text = `${first + i} put k${first + i}=v`;
        expected.add(text);
        ofShard[shard]!.push(text);
        records.splice(random.below(records.length + 1), 0, put(`k?${i}`, 'v'));
      }
      let i = 0;
      const named = records.map((bytes) => (bytes[0] === OperationKind.Put ? put(`k${first + i++}`, 'v') : bytes));
      counter += count;
      logs[shard]!.commit(first, named, { buffered: random.below(3) === 0 });
    }
    if (random.below(5) === 0) rows.push(...unitsOf(logs, feed));
  }
  for (let shard = 0; shard < 3; shard++) {
    const seq = counter++;
    logs[shard]!.commit(seq, [...resolvesOf(shard), put(`z${seq}`, 'v')]);
    expected.add(`${seq} put z${seq}=v`);
    ofShard[shard]!.push(`${seq} put z${seq}=v`);
  }
  rows.push(...unitsOf(logs, feed));
  const texts = rows.map(({ text }) => text);
  expect(new Set(texts), what).toEqual(expected);
  expect(texts.length, what).toBe(expected.size);
  for (const own of ofShard) {
    const inOrder = texts.filter((text) => own.includes(text));
    expect(inOrder, what).toEqual(own);
  }
  for (let i = 0; i < rows.length; i += 1 + random.below(4)) {
    const { positions } = decodeToken(
      encodeToken(STORE_ID, { positions: rows[i]!.positions, partial: undefined }),
      STORE_ID,
      3,
    );
    expect(new Set(textsOf(logs, positions)), `${what}, from ${i}`).toEqual(new Set(texts.slice(i + 1)));
  }
}

describe('tokens', () => {
  test('of anything else are refused', () => {
    const position = { generation: 3, offset: 4096, lsn: 17, seq: 99, unit: 2 };
    const token = encodeToken(STORE_ID, { positions: [position, position], partial: { shard: 1, records: 4 } });
    expect(decodeToken(token, STORE_ID, 2)).toEqual({
      positions: [position, position],
      partial: { shard: 1, records: 4 },
    });
    const other = Buffer.from(STORE_ID);
    other[3]! ^= 1;
    const refused = [
      () => decodeToken(token, STORE_ID, 3),
      () => decodeToken(token, other, 2),
      () => decodeToken(`${token}=`, STORE_ID, 2),
      () => decodeToken(token.slice(1), STORE_ID, 2),
      () => decodeToken('', STORE_ID, 2),
      () => decodeToken('now ', STORE_ID, 2),
    ];
    for (let i = 0; i < token.length; i++) {
      const changed = token.slice(0, i) + (token[i] === 'A' ? 'B' : 'A') + token.slice(i + 1);
      refused.push(() => decodeToken(changed, STORE_ID, 2));
    }
    for (const work of refused) expect(codeOf(work)).toBe('ERR_INVALID_ARG');
  });
});
