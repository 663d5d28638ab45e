/** Random operations as data, so that several engines can be given the same ones. */
import type { Random } from '../../dist/shared/random.js';
import { keyOf, type EngineScene } from './contract-scene.js';

export type Operation =
  | { readonly kind: 'put'; readonly key: Buffer; readonly value: Buffer; readonly expiresAt: number }
  | { readonly kind: 'del'; readonly key: Buffer }
  | { readonly kind: 'clear'; readonly low: Buffer | undefined; readonly high: Buffer | undefined };

export interface Mix {
  readonly keys: number;
  /** Share of puts whose value goes to pages of its own. */
  readonly large: number;
  /** Share of operations that are range deletes. */
  readonly clears: number;
  readonly nowMs: number;
}

export const MIX: Mix = { keys: 400, large: 0.004, clears: 0.004, nowMs: 1_000_000 };

/** The same number is the same key. Some are empty, prefixes of others, of bytes 0 and 255, or as long as a key may be. */
export function keyAt(index: number): Buffer {
  switch (index % 11) {
    case 3:
      return Buffer.alloc(index % 40, index % 3 === 0 ? 0 : 0xff);
    case 5:
      return keyOf(index - 1).subarray(0, 4 + (index % 7));
    case 7:
      return Buffer.concat([keyOf(index - 1), Buffer.alloc(index % 5, index % 2 === 0 ? 0 : 0x80)]);
    case 9:
      return index % 22 === 9 ? Buffer.alloc(40 + (index % 90), `long ${index % 50} `) : keyOf(index);
    case 10:
      return index % 66 === 10 ? Buffer.alloc(4096 - (index % 3), index) : Buffer.of(index, index >> 8);
    default:
      return keyOf(index);
  }
}

export function randomValue(random: Random, large: number): Buffer {
  const kind = random.nextFloat();
  const length =
    kind < large ? random.between(4000, 40_000) : kind < 0.03 ? random.between(300, 3000) : random.below(60);
  const value = Buffer.alloc(length, random.nextU32());
  if (length >= 4) value.writeUInt32LE(random.nextU32(), length - 4);
  return value;
}

export function randomOperation(random: Random, { keys, large, clears, nowMs }: Mix): Operation {
  const kind = random.nextFloat();
  const key = keyAt(random.below(keys));
  if (kind < clears) {
    const low = random.chance(0.1) ? undefined : key;
    // Mostly short ranges: the entries must not be gone all the time.
    const high = random.chance(0.05) ? undefined : Buffer.concat([key.subarray(0, 9), Buffer.of(0x39, 0xff)]);
    return { kind: 'clear', low, high };
  }
  if (kind < 0.3) return { kind: 'del', key };
  const expiresAt = random.chance(0.2) ? nowMs + random.between(-20, 60) : 0;
  return { kind: 'put', key, value: randomValue(random, large), expiresAt };
}

export function apply(scene: EngineScene, operation: Operation): void {
  if (operation.kind === 'put') scene.put(operation.key, operation.value, operation.expiresAt);
  else if (operation.kind === 'del') scene.del(operation.key);
  else scene.removeRange(operation.low, operation.high);
}

/** One group of up to `most` random operations, not published yet. */
export function randomGroup(scene: EngineScene, random: Random, most: number, mix: Partial<Mix> = {}): void {
  const full = { ...MIX, nowMs: scene.nowMs, ...mix };
  for (let count = random.between(1, most); count > 0; count--) apply(scene, randomOperation(random, full));
}
