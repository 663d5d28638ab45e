/**
 * Decisions that are applied on all their shards, and whose outcome one of these may not have on its disk yet: it could lose it, and ask.
 *
 *   add() ──▶ added ──release()──▶ the line of a shard that is behind ──▶ … ──▶ the line of another that is ──▶ no shard is: told
 *
 * Each waits in one line, and is looked at again when the shard of that line has come forward. So a shard that never does (its log has failed, it stays
 * down) keeps what it has taken part in, and nothing else; and a look costs what it may release.
 *
 * Must hold: what is told was needed by none of its shards, as they said after it was added.
 * Threads: the coordinator's.
 */

/** What there is to know of the shards' logs. */
export interface ShardSyncs {
  readonly count: number;
  /**
   * The lowest number of a transaction that the shard has applied and might not know of after a failure; Infinity: none. True for a transaction from
   * before its bit on the board is set.
   */
  decisionsNeededFrom(shard: number): number;
}

/** Numbers of each in a line: id, number, participants (two). Nothing but numbers: there may be some hundred thousand. */
const WIDTH = 4;

export class AwaitingDecisions {
  readonly #shards: ShardSyncs;
  /** By shard, as of the last look. */
  readonly #neededFrom: Float64Array;
  readonly #lines: number[][];
  #added: number[] = [];

  constructor(shards: ShardSyncs) {
    this.#shards = shards;
    this.#neededFrom = new Float64Array(shards.count);
    this.#lines = Array.from({ length: shards.count }, () => []);
  }

  /** One that every shard of the masks has applied. */
  add(id: number, number: number, maskLow: number, maskHigh: number): void {
    this.#added.push(id, number, maskLow, maskHigh);
  }

  /** Tells those that no shard can ask for any more. */
  release(tell: (id: number) => void): void {
    const lines = this.#lines;
    const added = this.#added;
    if (added.length === 0 && lines.every(({ length }) => length === 0)) return;
    const advanced: number[] = [];
    for (let shard = 0; shard < lines.length; shard++) {
      const needed = this.#shards.decisionsNeededFrom(shard);
      if (needed > this.#neededFrom[shard]!) advanced.push(shard);
      this.#neededFrom[shard] = needed;
    }
    for (const shard of advanced) {
      const line = lines[shard]!;
      if (line.length === 0) continue;
      lines[shard] = [];
      this.#place(line, tell);
    }
    this.#added = [];
    this.#place(added, tell);
  }

  clear(): void {
    this.#added = [];
    for (let shard = 0; shard < this.#lines.length; shard++) this.#lines[shard] = [];
  }

  #place(waiting: readonly number[], tell: (id: number) => void): void {
    for (let at = 0; at < waiting.length; at += WIDTH) {
      const [id, number] = [waiting[at]!, waiting[at + 1]!];
      const [low, high] = [waiting[at + 2]!, waiting[at + 3]!];
      const shard = this.#lastOf(low, high);
      if (this.#neededFrom[shard]! > number) tell(id);
      else this.#lines[shard]!.push(id, number, low, high);
    }
  }

  /** The participant that is furthest behind: the others have probably come forward when it has. */
  #lastOf(low: number, high: number): number {
    const needed = this.#neededFrom;
    let last = -1;
    for (let half = 0; half < 2; half++) {
      for (let left = half === 0 ? low : high; left !== 0; left &= left - 1) {
        const shard = 32 * half + 31 - Math.clz32(left & -left);
        if (last < 0 || needed[shard]! < needed[last]!) last = shard;
      }
    }
    return last;
  }
}
