/**
 * Who may begin: at most so many transactions of a thread are open at a time, the others wait, by priority and by how long they have waited.
 *
 * A waiting transaction gains a step of priority per `agingMs`. All gain at the same pace, so the order of any two never changes while they wait: it is that of
 * `since - priority * agingMs`. Hence the bound: one with priority p that has waited (q - p) * agingMs goes before every one of priority q ≥ p
 * that comes after that. No stream of whatever priority keeps it from its turn.
 * Threads: one.
 */
interface Waiting {
  readonly order: number;
  readonly number: number;
  readonly enter: () => void;
  isGone: boolean;
}

export class Admission {
  readonly #limit: number;
  readonly #agingMs: number;
  #active = 0;
  #numbers = 0;
  /** A heap: the one to go next first. */
  readonly #heap: Waiting[] = [];
  #gone = 0;

  constructor(limit: number, agingMs: number) {
    this.#limit = limit;
    this.#agingMs = agingMs;
  }

  get active(): number {
    return this.#active;
  }

  get waiting(): number {
    return this.#heap.length - this.#gone;
  }

  /** Takes a place, if one is free and nobody waits for it. */
  tryEnter(): boolean {
    if (this.#active >= this.#limit || this.waiting > 0) return false;
    this.#active++;
    return true;
  }

  /** Takes a place, whether there is one or not. */
  enter(): void {
    this.#active++;
  }

  /** `enter` is called when there is a place, which is taken then. Returns how to give it up before. */
  wait(priority: number, nowMs: number, enter: () => void): () => void {
    const waiting: Waiting = {
      order: nowMs - priority * this.#agingMs,
      number: this.#numbers++,
      enter,
      isGone: false,
    };
    this.#push(waiting);
    this.#next();
    return () => {
      if (waiting.isGone) return;
      waiting.isGone = true;
      this.#gone++;
    };
  }

  leave(): void {
    this.#active--;
    if (this.#heap.length > 0) this.#next();
  }

  #next(): void {
    while (this.#active < this.#limit) {
      const waiting = this.#pop();
      if (waiting === undefined) return;
      if (waiting.isGone) {
        this.#gone--;
        continue;
      }
      waiting.isGone = true;
      this.#active++;
      waiting.enter();
    }
  }

  #push(waiting: Waiting): void {
    const heap = this.#heap;
    let at = heap.push(waiting) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!goesBefore(waiting, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = waiting;
  }

  #pop(): Waiting | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && goesBefore(heap[child + 1]!, heap[child]!)) child++;
      if (!goesBefore(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function goesBefore(a: Waiting, b: Waiting): boolean {
  return a.order !== b.order ? a.order < b.order : a.number < b.number;
}
