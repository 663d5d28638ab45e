/**
 * The workloads by name, in the order they run. Each module exports
 *
 *   name, question     what it answers, and what not
 *   store              'empty' (a fresh store before each turn), 'os' or 'sync' (the loaded store, opened with that durability)
 *   rows(scale)        [{ row, ops, contenders: [{ engine, variant, label }], params, … }]
 *   run(session, variant, params)   one turn, in the engine's process → { ops, seconds, histograms, extra? }
 *
 * `params` is what rows() gave, plus `ops` and `round`. The order of rows is the order of the tables.
 */
import * as fill from './fill.mjs';
import * as read from './read.mjs';
import * as scan from './scan.mjs';
import * as threads from './threads.mjs';
import * as write from './write.mjs';
import * as ycsb from './ycsb.mjs';
import * as durable from './durable.mjs';

export const workloads = new Map(
  [fill, read, scan, threads, write, ycsb, durable].map((module) => [module.name, module]),
);
