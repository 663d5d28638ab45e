/**
 * What the thread of a shard starts with. `npm run build` puts all it loads into this one file (scripts/bundle.mjs): a thread that reads two hundred
 * files needs twice the time to open a store. Modules of engines that are not built in would meet another copy of the registry there, so a thread that
 * imports some starts with shard-worker.js. Threads: the shard's.
 */
import './shard-worker.js';
