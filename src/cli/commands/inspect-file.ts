/** concordkv inspect sst, manifest, wal, page, level: the structure of files as text, and whether it is sound. */
import * as fs from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { NodeEnv } from '../../shared/env/node-env.js';
import { CliFailure, EXIT, usage } from '../exit.js';
import { inspectLog } from '../inspect/log.js';
import { inspectPages } from '../inspect/page.js';
import { jsonOf, type Report } from '../inspect/report.js';
import { inspectLevels, inspectManifest, inspectTableFile, treesIn } from '../inspect/tree.js';
import { parseInteger } from '../open.js';
import { print } from '../output.js';

type SetExit = (code: number) => void;

const LIMIT_DEFAULT = 1000;

interface Place {
  readonly path: string;
  readonly isDirectory: boolean;
}

/** @throws ERR_NOT_FOUND */
function placeOf(text: string): Place {
  const path = resolve(text);
  const found = fs.statSync(path, { throwIfNoEntry: false });
  if (found === undefined) throw new CliFailure('ERR_NOT_FOUND', `${text}: there is no such file or directory`);
  return { path, isDirectory: found.isDirectory() };
}

function mustBeFile({ path, isDirectory }: Place, what: string): string {
  if (isDirectory) throw usage(`${path} is a directory; name ${what}`);
  return path;
}

function mustBeDirectory({ path, isDirectory }: Place, what: string): string {
  if (!isDirectory) throw usage(`${path} is a file; name ${what}`);
  return path;
}

async function show(report: Report, asJson: boolean, setExit: SetExit): Promise<void> {
  const { lines, facts, problems } = report;
  if (asJson) await print(jsonOf(facts) + '\n');
  else {
    const found = problems.map(({ code, message }) => `${code}: ${message}`);
    const end = problems.length === 0 ? ['sound'] : ['', ...found];
    await print([...lines, ...end].join('\n').replace(/^\n/, '') + '\n');
  }
  setExit(problems.length === 0 ? EXIT.ok : EXIT.refused);
}

export function inspectCommand(parent: Command, setExit: SetExit): void {
  const inspect = parent
    .command('inspect')
    .summary('what is in a file of a store')
    .description(
      'Prints the structure of a file and checks all of it. Reads only, and needs no lock: close the store first if the answer is to be exact. Exits with 4 when something is wrong.',
    )
    .addHelpText(
      'after',
      `
Examples:
  $ concordkv inspect sst ./cities/shard-0000/lsm-1/000017.sst --blocks
  $ concordkv inspect manifest ./cities/shard-0000/lsm-1 --edits
  $ concordkv inspect wal ./cities/shard-0000
  $ concordkv inspect page ./cities/shard-0000/tree-00001.pages --page 8
  $ concordkv inspect level ./cities --tables --verify`,
    );
  const add = (name: string, summary: string, argument: string, what: string): Command =>
    inspect
      .command(name)
      .summary(summary)
      .description(`${summary[0]!.toUpperCase()}${summary.slice(1)}.`)
      .argument(argument, what)
      .option('--json', 'machine-readable output; errors as {"error":{"code","message"}} on stderr');
  const limit = (command: Command): Command =>
    command.option('--limit <n>', `rows shown at most (default: ${LIMIT_DEFAULT})`, parseInteger(1), LIMIT_DEFAULT);

  limit(add('sst', 'a table or a blob file of an LSM-Tree', '<file>', 'NNNNNN.sst or NNNNNN.blob'))
    .option('--blocks', 'list the data blocks')
    .option('--entries', 'list entries')
    .addHelpText(
      'after',
      '\nExample:\n  $ concordkv inspect sst ./cities/shard-0000/lsm-1/000017.sst --entries --limit 20',
    )
    .action(async (path: string, options: { json?: boolean; blocks?: boolean; entries?: boolean; limit: number }) => {
      const file = mustBeFile(placeOf(path), 'a table or a blob file in it');
      const { blocks = false, entries = false } = options;
      await show(
        inspectTableFile(new NodeEnv(), file, { blocks, entries, limit: options.limit }),
        options.json === true,
        setExit,
      );
    });

  add('manifest', 'the manifest of an LSM-Tree', '<file or directory>', 'MANIFEST-NNNNNN, or the directory of the tree')
    .option('--edits', 'list the edits')
    .addHelpText('after', '\nExample:\n  $ concordkv inspect manifest ./cities/shard-0000/lsm-1 --edits')
    .action(async (path: string, options: { json?: boolean; edits?: boolean }) => {
      const place = placeOf(path);
      const report = inspectManifest(new NodeEnv(), place.path, place.isDirectory, options.edits === true);
      await show(report, options.json === true, setExit);
    });

  add(
    'wal',
    'a segment of a log, or the log of a shard',
    '<file or directory>',
    'wal-NNNNNNNNNN.log, or the directory of a shard or store',
  )
    .option('--frames', 'list the records')
    .addHelpText('after', '\nExample:\n  $ concordkv inspect wal ./cities/shard-0000 --frames')
    .action(async (path: string, options: { json?: boolean; frames?: boolean }) => {
      const place = placeOf(path);
      const report = inspectLog(new NodeEnv(), place.path, place.isDirectory, options.frames === true);
      if (place.isDirectory && report.lines.length === 0)
        throw usage(`${place.path} has no log, and no shard with one`);
      await show(report, options.json === true, setExit);
    });

  limit(
    add('page', 'pages of a B+Tree: of a page file or a checkpoint', '<file>', 'tree-NNNNN.pages or checkpoint-….ckpt'),
  )
    .option(
      '--page <n>',
      'show this page: its slot in a page file, its number in --pages of a checkpoint',
      parseInteger(1),
    )
    .option('--pages', 'list the pages')
    .addHelpText('after', '\nExample:\n  $ concordkv inspect page ./cities/shard-0000/tree-00001.pages --page 8')
    .action(async (path: string, options: { json?: boolean; page?: number; pages?: boolean; limit: number }) => {
      const file = mustBeFile(placeOf(path), 'a page file or a checkpoint in it');
      const { page, pages = false } = options;
      await show(
        inspectPages(new NodeEnv(), file, { page, pages, limit: options.limit }),
        options.json === true,
        setExit,
      );
    });

  add('level', 'LSM-Trees level by level', '<directory>', 'of a tree, a shard or a store')
    .option('--tables', 'list the tables')
    .option('--verify', 'look at every byte of tables and blob files')
    .addHelpText('after', '\nExample:\n  $ concordkv inspect level ./cities --tables')
    .action(async (path: string, options: { json?: boolean; tables?: boolean; verify?: boolean }) => {
      const env = new NodeEnv();
      const directory = mustBeDirectory(placeOf(path), 'the directory it is in');
      if (treesIn(env, directory).length === 0) throw usage(`${directory} has no LSM-Tree`);
      const { tables = false, verify = false } = options;
      await show(inspectLevels(env, directory, tables, verify), options.json === true, setExit);
    });
}
