/**
 * Latency histogram: 32 buckets per power of two of nanoseconds, so a quantile is right within 3 %. Recording is a few integer
 * operations; perf_hooks' histogram crosses into native code, which costs more than a cached read of the engines measured here.
 * Latencies above 4.29 s count as 4.29 s. Threads: one per histogram; counts travel as plain arrays.
 */
const BUCKETS = 896;
const NS_MAX = 4294967295;

export class Histogram {
  counts = new Float64Array(BUCKETS);

  /** `weight`: how many operations this sample stands for. */
  recordMs(ms, weight = 1) {
    const ns = Math.min(ms * 1e6, NS_MAX) >>> 0;
    const shift = ns < 64 ? 0 : 26 - Math.clz32(ns);
    this.counts[(shift << 5) + (ns >>> shift)] += weight;
  }

  merge(counts) {
    for (let i = 0; i < BUCKETS; i++) this.counts[i] += counts[i];
    return this;
  }

  get total() {
    return this.counts.reduce((sum, count) => sum + count, 0);
  }

  /** Microseconds. */
  quantile(q) {
    const rank = this.total * q;
    let seen = 0;
    for (let i = 0; i < BUCKETS; i++) {
      seen += this.counts[i];
      if (seen >= rank && seen > 0) return middleNs(i) / 1000;
    }
    return NaN;
  }

  summary() {
    if (this.total === 0) return undefined;
    let last = BUCKETS - 1;
    while (this.counts[last] === 0) last--;
    return {
      p50Us: this.quantile(0.5),
      p99Us: this.quantile(0.99),
      p999Us: this.quantile(0.999),
      maxUs: middleNs(last) / 1000,
    };
  }
}

function middleNs(bucket) {
  if (bucket < 64) return bucket;
  const shift = (bucket >>> 5) - 1;
  return (bucket - (shift << 5) + 0.5) * 2 ** shift;
}
