/**
 * The runner's expect without its bookkeeping (calls counted, the test remembered), which takes longer than the comparison: for loops that compare
 * hundreds of thousands of times. Same matchers and messages; not for snapshots, poll(), resolves and rejects.
 */
import { chai, expect as full, type Assertion } from 'vitest';

export const expect: { <T>(value: T, message?: string): Assertion<T>; fail: typeof full.fail } = Object.assign(
  <T>(value: T, message?: string) => chai.expect(value, message) as unknown as Assertion<T>,
  { fail: full.fail },
);
