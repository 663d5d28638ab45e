/**
 * The engines that come with the product. Importing this file makes them known in the thread; whoever opens a store or reads one imports it.
 */
import { arrayEngine } from './array/engine.js';
import { btreeEngine } from './btree/engine.js';
import { addEngine } from './engine.js';
import { hashEngine } from './hash/engine.js';
import { lsmEngine } from './lsm/engine.js';
import { memtableEngine } from './memtable/engine.js';
import { rbtreeEngine } from './rbtree/engine.js';

for (const engine of [btreeEngine, hashEngine, rbtreeEngine, arrayEngine, memtableEngine, lsmEngine]) addEngine(engine);
