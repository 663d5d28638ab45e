import { describe, expect, it } from 'vitest';
import { SparePlaces } from '../../../dist/shared/memory/spare-places.js';

describe('spare places of a page', () => {
  it('are given out when their epoch is safe, the smallest that is large enough first', () => {
    const places = new SparePlaces(4);
    places.add(2, 100, 40, 7);
    places.add(2, 200, 50, 5);
    places.add(2, 300, 30, 5);
    expect(places.take(2, 35, 4)).toBe(0);
    expect(places.take(2, 35, 6)).toBe(200);
    expect(places.take(2, 35, 6)).toBe(0);
    expect(places.take(2, 35, 7)).toBe(100);
    expect(places.take(2, 31, 7)).toBe(0);
    expect(places.take(2, 30, 7)).toBe(300);
    expect(places.take(2, 1, 7)).toBe(0);
  });

  it('are the page’s own, and forgotten with it', () => {
    const places = new SparePlaces(3);
    for (let unit = 0; unit < 3; unit++) places.add(unit, 64 + unit, 20, 1);
    places.forget(1);
    expect([0, 1, 2].map((unit) => places.take(unit, 20, 1))).toEqual([64, 0, 66]);
  });

  it('of more than a few the largest are kept, and of those the oldest', () => {
    const places = new SparePlaces(1);
    for (const [offset, bytes] of [[1, 10], [2, 20], [3, 30], [4, 40], [5, 20], [6, 10], [7, 25]] as const) places.add(0, offset, bytes, 1); // prettier-ignore
    expect([0, 1, 2, 3, 4].map(() => places.take(0, 1, 1))).toEqual([2, 7, 3, 4, 0]);
  });

  it('are told apart by epochs beyond 2^32', () => {
    const places = new SparePlaces(1);
    for (const epoch of [2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 40 + 2 ** 31]) {
      places.add(0, 8, 16, epoch);
      expect(places.take(0, 16, epoch - 1)).toBe(0);
      expect(places.take(0, 16, epoch)).toBe(8);
      places.add(0, 8, 16, epoch);
      expect(places.take(0, 16, epoch + 1000)).toBe(8);
    }
  });
});
