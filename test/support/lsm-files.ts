/** Files of an LSM-Tree in a closed store. Threads: the test's. */
import { identityOfTree, readCurrentManifest } from '../../dist/engines/lsm/manifest/read.js';
import { removeOrphans } from '../../dist/engines/lsm/manifest/manifest.js';
import type { LsmState } from '../../dist/engines/lsm/manifest/state.js';
import { NodeEnv } from '../../dist/shared/env/node-env.js';

/** What the manifest says. */
export function stateOfTree(tree: string): LsmState {
  const env = new NodeEnv();
  return readCurrentManifest(env, tree, identityOfTree(env, tree)!).state;
}

/**
 * Removes what the manifest does not name, as the next opening would: files of merges that the end of the store cut short, or that nobody could delete before it.
 * Then every table and every blob file that is there counts.
 */
export function removeLeftovers(tree: string): void {
  removeOrphans(new NodeEnv(), tree, stateOfTree(tree));
}
