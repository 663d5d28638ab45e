/**
 * tasks.ts for a thread that imports no modules of engines: `npm run build` puts all it loads into this one file (scripts/bundle.mjs), which makes the first
 * checkpoint of a thread two thirds cheaper to begin. Such modules would meet another copy of the registry here.
 * Threads: pool workers.
 */
export * from './tasks.js';
