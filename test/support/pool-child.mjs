/**
 * A process of its own for tests of pools: node pool-child.mjs SCENE DIRECTORY. Prints JSON lines.
 *   hold       opens, writes one entry, prints a line, stays
 *   stranger   becomes another user, if it is root, and reports what it may do with the store
 */
import { ConcordPool } from '../../dist/index.js';

const [scene, directory] = process.argv.slice(2);
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

async function attempt(work) {
  try {
    return { value: await work() };
  } catch (error) {
    return { code: error.code, file: error.details?.file, errno: error.details?.errno, message: error.message };
  }
}

async function readAll(options) {
  const db = await ConcordPool.open(directory, options);
  const entries = await db.iterator().all();
  await db.close();
  return entries;
}

if (scene === 'hold') {
  const db = await ConcordPool.open(directory, { shards: 1 });
  await db.put('held', 'yes');
  print({ pid: process.pid });
  setInterval(() => undefined, 1000);
} else if (scene === 'stranger') {
  if (process.getuid?.() === 0) {
    process.setgroups([]);
    process.setgid(65534);
    process.setuid(65534);
  }
  print({
    open: await attempt(() => readAll({})),
    readOnly: await attempt(() => readAll({ readOnly: true })),
    verify: await attempt(() => ConcordPool.verify(directory)),
    create: await attempt(async () => (await ConcordPool.open(`${directory}/new`)).close()),
  });
}
