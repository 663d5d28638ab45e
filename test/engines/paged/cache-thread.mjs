// A thread of the cache test: reads and inserts blocks that prove themselves, until word 0 of `control` is set; throws at the first wrong byte. Its own word
// is set when it has done enough of both for the test.
import { parentPort, workerData } from 'node:worker_threads';
import { PageCache } from '../../../dist/shared/memory/page-cache.js';
import { Random } from '../../../dist/shared/random.js';

const { layout, owner, seed, control } = workerData;
const cache = new PageCache(layout, owner);
const random = new Random(seed);
const into = new Uint32Array(16384);
const intoBytes = new Uint8Array(into.buffer);
const words = new Uint32Array(16384);
const wordBytes = new Uint8Array(words.buffer);
let hits = 0;
let inserted = 0;
const wordOf = (block, index) => (Math.imul(block + 1, 0x9e3779b1) ^ Math.imul(index, 0x85ebca6b)) >>> 0;
while (Atomics.load(control, 0) === 0) {
  for (let i = 0; i < 200; i++) {
    const block = Math.floor(random.nextFloat() ** 2 * 700);
    const wordCount = 64 + (block % 40) * 64;
    // Every second block is looked at where it lies.
    const inPlace = i % 2 === 0 ? cache.locate(1, block) : 0;
    if (inPlace > 0) {
      const { foundBytes, foundAt } = cache;
      intoBytes.set(foundBytes.subarray(foundAt, foundAt + inPlace));
    }
    const length = i % 2 === 0 ? (inPlace > 0 && cache.confirm() ? inPlace : 0) : cache.read(1, block, intoBytes, 0);
    if (length > 0) {
      hits++;
      if (length !== wordCount * 4) throw new Error(`block ${block}: ${length} bytes`);
      for (let index = 0; index < wordCount; index++) {
        if (into[index] !== wordOf(block, index)) throw new Error(`block ${block}: word ${index} is ${into[index]}`);
      }
      if (random.nextFloat() < 0.01) cache.forget(1, block);
      continue;
    }
    for (let index = 0; index < wordCount; index++) words[index] = wordOf(block, index);
    if (cache.insert(1, block, wordBytes, 0, wordCount * 4)) inserted++;
  }
  if (hits > 100 && inserted > 100) Atomics.store(control, owner, 1);
}
parentPort.postMessage({ hits, inserted });
