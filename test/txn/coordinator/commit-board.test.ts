import { describe, expect, it } from 'vitest';
import { CommitBoard, commitBoardBytes } from '../../../dist/actors/commit-board.js';

const SHARDS = 40;

function board(): CommitBoard {
  return new CommitBoard(new SharedArrayBuffer(commitBoardBytes(SHARDS)), 0, SHARDS);
}

describe('the commit board', () => {
  it('tells the shard that comes last, and no other, that an entry is applied everywhere', () => {
    const commits = board();
    commits.append(7, 10, 0b101, 1 << 3);
    commits.append(8, 11, 0b100, 0);
    expect(commits.setApplied(2, 0)).toBe(false);
    expect(commits.setApplied(2, 1)).toBe(true);
    expect(commits.setApplied(35, 0)).toBe(false);
    const done: number[] = [];
    commits.collect((id) => done.push(id));
    expect(done).toEqual([]);
    expect(commits.setApplied(0, 0)).toBe(true);
    commits.collect((id) => done.push(id));
    expect(done).toEqual([7, 8]);
  });
});
