/** concordkv stats, verify: what a store holds, and whether it is sound. */
import type { Command } from 'commander';
import { ConcordPool } from '../../index.js';
import { EXIT } from '../exit.js';
import { addCommonOptions, addStoreOptions, openForReading } from '../open.js';
import type { CommonOptions, StoreOptions } from '../open.js';
import { print } from '../output.js';

type SetExit = (code: number) => void;

/** Nested facts as `a.b.c: value` lines, in their order. */
function lines(facts: unknown, path = ''): string[] {
  if (typeof facts !== 'object' || facts === null) {
    const text = typeof facts === 'number' && Number.isInteger(facts) ? facts.toLocaleString('en-US') : String(facts);
    return [`${path}: ${text}`];
  }
  return Object.entries(facts).flatMap(([name, value]) => lines(value, path === '' ? name : `${path}.${name}`));
}

export function statsCommand(parent: Command, setExit: SetExit): void {
  addStoreOptions(parent.command('stats'))
    .summary('what a store holds and uses')
    .description('Prints counts, memory and files of a store. Opens it read-only.')
    .option('--prometheus', 'the metrics in Prometheus text format')
    .addHelpText(
      'after',
      `
Examples:
  $ concordkv stats --db ./cities
  $ concordkv stats --db ./cities --json`,
    )
    .action(async (options: StoreOptions & { prometheus?: boolean }) => {
      const { db } = await openForReading(options);
      try {
        if (options.prometheus) await print(await db.metrics());
        else if (options.json) await print(JSON.stringify(db.stats()) + '\n');
        else await print(lines(db.stats()).join('\n') + '\n');
      } finally {
        await db.close();
      }
      setExit(EXIT.ok);
    });
}

export function verifyCommand(parent: Command, setExit: SetExit): void {
  addCommonOptions(parent.command('verify'))
    .summary('check every file and page of a store')
    .description(
      'Checks checksums, formats and structure of all files. Changes nothing. Exits with 4 when something is wrong.',
    )
    .addHelpText(
      'after',
      `
Examples:
  $ concordkv verify --db ./cities
  $ concordkv verify --db ./cities --json`,
    )
    .action(async (options: CommonOptions) => {
      const result = await ConcordPool.verify(options.db);
      if (options.json) await print(JSON.stringify(result) + '\n');
      else if (result.ok) await print('ok\n');
      else {
        for (const problem of result.problems) {
          await print((typeof problem === 'string' ? problem : lines(problem).join(', ')) + '\n');
        }
      }
      setExit(result.ok ? EXIT.ok : EXIT.refused);
    });
}
