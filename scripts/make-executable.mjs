/** After tsc: the command of package.json's "bin" must be executable when it is run through a link, as in a checkout. */
import { chmodSync } from 'node:fs';

chmodSync(new URL('../dist/cli.js', import.meta.url), 0o755);
