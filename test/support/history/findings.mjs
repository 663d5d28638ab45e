/** What a checker found: all counted, the first of each name kept. */

const KEPT_PER_NAME = 10;

/** @typedef {{ name: string, txns: number[], text: string }} Finding */

export class Findings {
  /** @type {Finding[]} */
  kept = [];
  /** @type {Record<string, number>} */
  counts = {};

  /** @param {string} name @param {number[]} txns @param {string} text */
  add(name, txns, text) {
    const count = (this.counts[name] ?? 0) + 1;
    this.counts[name] = count;
    if (count <= KEPT_PER_NAME) this.kept.push({ name, txns, text });
  }

  get names() {
    return Object.keys(this.counts).sort();
  }
}
