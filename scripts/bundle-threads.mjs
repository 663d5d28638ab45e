/**
 * After tsc: the entries of threads become files that hold all they load, so that threads start sooner. Compiled without this step they work as well.
 *
 * The record of incremental builds is removed: the next run of tsc writes every file anew, so that no bundle outlives a change of what it holds.
 */
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const ENTRIES = ['actors/shard/shard-thread.js', 'actors/jobs/tasks-thread.js', 'actors/jobs/lsm-tasks.js'];
const place = (path) => fileURLToPath(new URL(`../dist/${path}`, import.meta.url));

rmSync(place('.tsbuildinfo'), { force: true });
for (const entry of ENTRIES) {
  const bundle = await rolldown({
    input: place(entry),
    platform: 'node',
    // Packages stay what users have installed.
    external: (id) => !/^[./]/.test(id),
    // Nothing is left out: modules that are imported for what they do are among them.
    treeshake: false,
  });
  await bundle.write({ file: place(entry), format: 'esm', sourcemap: false });
  await bundle.close();
}
