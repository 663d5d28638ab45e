/**
 * The engines that come with the product. Importing this file makes them known in the thread; whoever opens a store or reads one imports it.
 */
import { btreeEngine } from './btree/engine.js';
import { addEngine } from './engine.js';
import { memtableEngine } from './memtable/engine.js';
import { hashEngine } from './hash/engine.js';

addEngine(btreeEngine);
addEngine(hashEngine);
addEngine(memtableEngine);
