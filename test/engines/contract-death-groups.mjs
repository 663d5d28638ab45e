/** Operations that follow from a seed and a number alone. */
import { Random } from '../../dist/shared/random.js';

const KEYS = 1500;

export function groupOf(seed, group) {
  const random = new Random(seed + group);
  const operations = [];
  for (let count = random.between(1, 40); count > 0; count--) {
    const key = Buffer.from(`key ${String(random.below(KEYS)).padStart(5, '0')}`);
    const kind = random.chance(0.25) ? 'del' : 'put';
    const large = random.chance(0.01);
    const value = Buffer.alloc(large ? random.between(3000, 20_000) : random.below(80), random.nextU32());
    operations.push({ kind, key, value, expiresAt: random.chance(0.1) ? random.between(1, 2 ** 47) : 0 });
  }
  return operations;
}
