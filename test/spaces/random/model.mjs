/**
 * What the random life of a store is made of, and how an answer is compared with what it must be: keys, values, ranges, and the model of a space.
 *
 *   model   Map: key → { value, expiresAt }; what has expired stays in it
 *
 * Whether an entry that expires was there depends on when within a call the store looked at its clock. So what is known of a read is when it began and when it had
 * ended, and an entry whose time lies between may be in the answer or not. Threads: any; no state.
 */
import { randomOf } from '../../soak/model.mjs';

const MIB = 2 ** 20;
const KEY_BYTES_MAX = 4096;

/** An answer that is not what it must be. */
export class Wrong extends Error {}

/** Choices from a seed. */
export class Choices {
  #random;

  constructor(seed) {
    this.#random = randomOf(seed);
  }

  below(bound) {
    return this.#random.below(bound);
  }

  /** True in so many percent. */
  isIn(percent) {
    return this.#random.below(10_000) < percent * 100;
  }

  of(list) {
    return list[this.#random.below(list.length)];
  }

  /** weights: [weight, what][] */
  weighted(weights) {
    let left = this.#random.below(weights.reduce((sum, [weight]) => sum + weight, 0));
    return weights.find(([weight]) => (left -= weight) < 0)[1];
  }

  /** Few enough to meet again, with long common beginnings among them, and of every length that is allowed. */
  key() {
    return this.weighted([
      [85, () => `k${this.below(400)}`],
      [8, () => `p${this.below(12)}/${'x'.repeat(this.below(200))}`],
      [2, () => ''],
      [2, () => 'y'.repeat(KEY_BYTES_MAX - this.below(4))],
      [3, () => `L${'z'.repeat(300 * this.below(13))}`],
    ])();
  }

  /** Begins with `name`, which no other value has. */
  value(name) {
    const bytes = this.weighted([
      [700, () => this.below(60)],
      [250, () => this.below(5000)],
      [40, () => this.below(70_000)],
      [1, () => this.below(MIB)],
    ])();
    return name.padEnd(bytes, `.${name}`);
  }

  range() {
    const range = {};
    if (this.isIn(30)) range.prefix = this.of(['k', 'k1', 'p', 'p1', 'L', '', 'none']);
    if (this.isIn(30)) range[this.of(['gt', 'gte'])] = this.key();
    if (this.isIn(30)) range[this.of(['lt', 'lte'])] = this.key();
    return range;
  }

  scan() {
    const scan = this.range();
    if (this.isIn(50)) scan.reverse = true;
    if (this.isIn(30)) scan.limit = this.below(30);
    return scan;
  }
}

/** Of the bytes of keys: all of them are ASCII. */
const byBytes = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

export function isWithin(key, { prefix, gt, gte, lt, lte }) {
  return (
    (prefix === undefined || key.startsWith(prefix)) &&
    (gt === undefined || key > gt) &&
    (gte === undefined || key >= gte) &&
    (lt === undefined || key < lt) &&
    (lte === undefined || key <= lte)
  );
}

/** For messages. */
export function brief(text) {
  if (text === undefined) return 'nothing';
  return text.length > 40 ? `${text.slice(0, 24)}… of ${text.length}` : `"${text}"`;
}

/** Whether an entry is there for a read between two times: true, false, or undefined if that is not known. */
export function isThere(entry, { from, to }) {
  if (entry === undefined) return false;
  if (entry.expiresAt === undefined || entry.expiresAt > to) return true;
  return entry.expiresAt <= from ? false : undefined;
}

/** @throws Wrong */
export function checkValue(what, got, entry, time) {
  const there = isThere(entry, time);
  if (got === undefined ? there !== true : there !== false && got === entry.value) return;
  const expected = there === false ? 'nothing' : brief(entry.value);
  const expiry =
    entry?.expiresAt === undefined ? '' : `, which expires at ${entry.expiresAt}, read ${time.from}…${time.to}`;
  throw new Wrong(`${what}: ${brief(got)} instead of ${expected}${expiry}`);
}

/** The entries of a scan against those of the model, in order. @throws Wrong */
export function checkEntries(what, got, model, scan, time) {
  const keys = [...model.keys()].filter((key) => isWithin(key, scan)).sort(byBytes);
  if (scan.reverse) keys.reverse();
  const limit = scan.limit ?? Infinity;
  const told = `${what}, a scan of ${JSON.stringify(scan).slice(0, 200)}`;
  let count = 0;
  for (const key of keys) {
    if (count === limit) break;
    const entry = model.get(key);
    const there = isThere(entry, time);
    if (count < got.length && got[count][0] === key) {
      checkValue(`${told}, under ${brief(key)}`, got[count][1], entry, time);
      count++;
    } else if (there === true) {
      const instead = count < got.length ? brief(got[count][0]) : 'its end';
      throw new Wrong(`${told}: ${instead} instead of ${brief(key)} after ${count} entries`);
    }
  }
  if (count < got.length)
    throw new Wrong(`${told}: ${brief(got[count][0])} after ${count} entries, which is not there`);
}

/** @throws Wrong */
export function checkCount(what, got, model, range, time) {
  let [least, most] = [0, 0];
  for (const [key, entry] of model) {
    if (!isWithin(key, range)) continue;
    const there = isThere(entry, time);
    if (there === true) least++;
    if (there !== false) most++;
  }
  if (got < least || got > most) throw new Wrong(`${what}: ${got} entries instead of ${least}…${most}`);
}
