/** The version of an installed package, whatever its `exports` hide. */
import { readFileSync } from 'node:fs';

export function packageVersion(name) {
  const manifest = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(manifest, 'utf8')).version;
}
