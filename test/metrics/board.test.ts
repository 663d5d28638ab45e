/** The board by itself: whose block is whose, and that nothing is lost or counted twice when threads and spaces go. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { Counter, MetricsBoard, SharedDocument, boardBytes } from '../../dist/actors/metrics/board.js';
import { ThreadMeters } from '../../dist/actors/metrics/meters.js';
import { ControlBlock } from '../../dist/actors/control-block.js';

const CLIENTS = 4;

function newBoard(): MetricsBoard {
  return new MetricsBoard(new SharedArrayBuffer(boardBytes(CLIENTS, 2)), 0, CLIENTS, 2);
}

function gets(board: MetricsBoard, spaceId?: number): number {
  return board.usage().get(spaceId)?.count('Gets') ?? 0;
}

test('what threads count of a space is added up, and stays when they leave', () => {
  const board = newBoard();
  for (let round = 0; round < 50; round++) {
    for (let client = 0; client < CLIENTS; client++) {
      const meters = new ThreadMeters(board, client);
      for (const space of [0, 7]) {
        meters.of(space).counts[Counter.Gets]! += 1 + space;
        meters.of(space).writeTook(0.001 * (client + 1));
      }
      expect(gets(board, 7)).toBe((round * CLIENTS + client + 1) * 8);
      if (client > 0) board.leave(client);
    }
    board.leave(0);
  }
  expect(gets(board, 0)).toBe(50 * CLIENTS);
  expect(gets(board)).toBe(50 * CLIENTS * 9);
  expect(board.usage().get(0)!.writes.count).toBe(50 * CLIENTS);
  expect(board.usage().get(0)!.writes.largest).toBeCloseTo(4000, 6);
  // One block per space for all that have left.
  expect(board.freeBlocks).toBe(1024 - 2);
});

test('a thread that has let go counts where nobody looks', () => {
  const board = newBoard();
  const meters = new ThreadMeters(board, 1);
  const meter = meters.of(3);
  meter.counts[Counter.Gets] = 5;
  meters.detach();
  board.leave(1);
  meter.counts[Counter.Gets]!++;
  meters.of(4).counts[Counter.Gets]!++;
  expect(gets(board)).toBe(5);
});

test('a space that was dropped gives its blocks back and stays in the total', () => {
  const board = newBoard();
  const meters = new ThreadMeters(board, 2);
  for (let space = 10; space < 3010; space++) {
    meters.of(space).counts[Counter.Gets]!++;
    meters.forget(space);
    board.collect((id) => id > space);
  }
  expect(gets(board)).toBe(3000);
  expect(board.freeBlocks).toBe(1024);
});

test('a thread that leaves behind a space which is then dropped leaves no block', () => {
  const board = newBoard();
  new ThreadMeters(board, 2).of(10).counts[Counter.Gets]!++;
  board.leave(2);
  expect(gets(board, 10)).toBe(1);
  board.collect(() => false);
  expect(gets(board, 10)).toBe(0);
  expect(gets(board)).toBe(1);
  expect(board.freeBlocks).toBe(1024);
});

test('spaces that find no block of their own are counted together', () => {
  const board = newBoard();
  const meters = new ThreadMeters(board, 0);
  for (let space = 0; space < 1100; space++) meters.of(space).counts[Counter.Gets]!++;
  expect(board.freeBlocks).toBe(0);
  expect(gets(board, 1023)).toBe(1);
  expect(gets(board, 1099)).toBe(0);
  expect(gets(board)).toBe(1100);
  board.leave(0);
  expect(gets(board)).toBe(1100);
});

test('a reader never sees less than before, nor anything twice, while threads come and go', async () => {
  const control = ControlBlock.create(1);
  const { board } = control;
  const worker = new Worker(new URL('./board-reader.mjs', import.meta.url), { workerData: { sab: control.sab } });
  let total = 0;
  // From when it reads on, for so long, and until it has read often enough.
  const reading = once(worker, 'message');
  let isReading = false;
  const begun = (): void => void (isReading = true);
  reading.then(begun, begun);
  let deadline = Infinity;
  while (!isReading || performance.now() < deadline) {
    if (isReading && deadline === Infinity) deadline = performance.now() + 1000;
    for (let i = 0; i < 20; i++) {
      // Counted once; then it moves to what threads counted that have left, and on to the rest when the space is gone.
      new ThreadMeters(board, 0).of(5 + (i % 3)).counts[Counter.Gets]! += 1000;
      total += 1000;
      board.leave(0);
      if (i % 5 === 0) board.collect(() => false);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await reading;
  const answer = once(worker, 'message') as Promise<[{ wrong: number; reads: number; last: number }]>;
  worker.postMessage('stop');
  const [{ wrong, reads, last }] = await answer;
  expect(reads).toBeGreaterThan(10);
  expect(wrong).toBe(0);
  expect(last).toBe(total);
});

test('a document is whole or is not there, and one that does not fit leaves the one before', () => {
  const board = newBoard();
  const document = board.shardDocument(1);
  expect(document.read()).toBeUndefined();
  expect(document.write('{"a":1}')).toBe(true);
  expect(board.shardDocument(1).read()).toBe('{"a":1}');
  expect(board.shardDocument(0).read()).toBeUndefined();
  expect(document.write('x'.repeat(document.roomBytes + 1))).toBe(false);
  expect(document.read()).toBe('{"a":1}');
  expect(document.write('é'.repeat(document.roomBytes / 2))).toBe(true);
});

test('a document whose writer died in the middle is not read until its successor is there', () => {
  const sab = new SharedArrayBuffer(4096);
  const document = new SharedDocument(sab, 0, 4096);
  document.write('{}');
  // As SeqLock.begin() leaves it: the sequence is odd, the owner is in.
  const words = new Int32Array(sab);
  words[0]!++;
  words[1] = 1;
  expect(new SharedDocument(sab, 0, 4096).read()).toBeUndefined();
  const successor = new SharedDocument(sab, 0, 4096);
  successor.takeOver();
  expect(successor.read()).toBeUndefined();
  expect(successor.write('[1]')).toBe(true);
  expect(document.read()).toBe('[1]');
});
