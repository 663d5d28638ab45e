/**
 * After tsc: what is loaded together becomes one file, so that programs, the command and threads start sooner. Compiled without this step they work as well.
 *
 * **Threads.** The entry of a thread becomes a file that holds all it loads. Nothing of it is shared with other modules of that thread.
 *
 * **The package.** What users import, and what the command loads, becomes a few files in dist/chunks/, by the layers of src/:
 *
 *   chunks/shared.js ◀── chunks/engines.js ◀── chunks/pool.js ◀── chunks/cli.js
 *
 * Every module exists once there: the file in whose place a chunk has come only names what that chunk exports. So a class, a registry or a diagnostics channel is the
 * same from whichever file it is imported: by modules of engines, by threads that load some, by tests. What is loaded later or never by these two stays in its file.
 *
 * Comments stay in the declarations: a bundle without them is half as large, and Latin-1 for the most part, which is scanned faster and kept at half the size.
 *
 * The record of incremental builds is removed: the next run of tsc writes every file anew, so that no bundle outlives a change of what it holds.
 */
import { readFileSync, rmSync } from 'node:fs';
import { posix, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const THREADS = [
  'actors/coordinator/coordinator-worker.js',
  'actors/jobs/lsm-tasks.js',
  'actors/jobs/tasks-thread.js',
  'actors/shard/shard-thread.js',
];
const LAYERS = ['shared', 'engines', 'pool', 'cli'];
const DIST = fileURLToPath(new URL('../dist/', import.meta.url));
const CHUNKS = 'chunks';

const place = (name) => DIST + name.split('/').join(sep);
const nameOf = (id) => relative(DIST, id).split(sep).join('/');

/** What bundles have in common. `moved`: names of the modules that will lie in CHUNKS. */
const settings = (moved = new Map()) => ({
  platform: 'node',
  // Packages stay what users have installed.
  external: (id) => !/^[./]/.test(id),
  // Nothing is left out: modules that are imported for what they do are among them.
  treeshake: false,
  plugins: [
    {
      name: 'modules',
      resolveId(id, importer, { isEntry }) {
        if (isEntry || moved.size === 0 || !id.startsWith('.')) return undefined;
        const name = posix.join(posix.dirname(nameOf(importer)), id);
        return moved.has(name) ? undefined : { id: place(name), external: 'relative' };
      },
      load(id) {
        const name = nameOf(id);
        // Such characters occur in texts and comments only.
        let code = readFileSync(id, 'utf8').replace(/[^\0-\xff]/g, escaped);
        // What a module finds beside itself is where it lay.
        if (moved.has(name))
          code = code.replaceAll('import.meta.url', `new URL('${posix.relative(CHUNKS, name)}', import.meta.url).href`);
        return { code, map: readFileSync(`${id}.map`, 'utf8') };
      },
    },
  ],
});
const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
const output = { format: 'esm', comments: { legal: true, annotation: false, jsdoc: false }, sourcemap: true };

/** The modules that an entry loads before it runs. */
async function modulesOf(entry) {
  const bundle = await rolldown({ ...settings(), input: place(entry) });
  const { output: chunks } = await bundle.generate({ format: 'esm' });
  await bundle.close();
  const loaded = new Set([chunks.find((chunk) => chunk.isEntry).fileName]);
  for (const fileName of loaded) {
    for (const other of chunks.find((chunk) => chunk.fileName === fileName)?.imports ?? []) loaded.add(other);
  }
  return chunks
    .filter(({ fileName }) => loaded.has(fileName))
    .flatMap(({ moduleIds }) => moduleIds.filter((id) => id.startsWith(DIST)).map(nameOf));
}

async function bundleThread(entry) {
  const bundle = await rolldown({ ...settings(), input: place(entry) });
  await bundle.write({ ...output, file: place(entry) });
  await bundle.close();
}

async function bundlePackage() {
  const layers = new Map();
  for (const name of await modulesOf('index.js')) layers.set(name, /^(shared|engines)\//.exec(name)?.[1] ?? 'pool');
  for (const name of await modulesOf('cli.js'))
    if (!layers.has(name)) layers.set(name, /^engines\//.test(name) ? 'engines' : 'cli');
  // With the command itself: it waits for its end, which nothing else may wait for.
  layers.delete('cli.js');

  const entries = [...layers.keys(), 'cli.js'];
  const bundle = await rolldown({
    ...settings(layers),
    input: Object.fromEntries(entries.map((name) => [name.slice(0, -'.js'.length), place(name)])),
    preserveEntrySignatures: 'strict',
  });
  await bundle.write({
    ...output,
    dir: DIST,
    minifyInternalExports: false,
    entryFileNames: '[name].js',
    chunkFileNames: `${CHUNKS}/[name].js`,
    codeSplitting: {
      groups: LAYERS.map((layer, index) => ({
        name: layer,
        test: (id) => layers.get(nameOf(id)) === layer,
        priority: LAYERS.length - index,
      })),
    },
  });
  await bundle.close();
  // What only names the exports of a chunk has no lines of its own.
  for (const name of layers.keys()) rmSync(place(`${name}.map`));
}

rmSync(place('.tsbuildinfo'), { force: true });
rmSync(place(CHUNKS), { recursive: true, force: true });
for (const entry of THREADS) await bundleThread(entry);
await bundlePackage();
