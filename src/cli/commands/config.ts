/** concordkv config: what is in effect and where it comes from, whether a file is right, its JSON schema, a file to start from. */
import { writeFileSync } from 'node:fs';
import { extname, relative } from 'node:path';
import type { Command } from 'commander';
import { originText, valueAt } from '../../config/check.js';
import { configJsonSchema } from '../../config/json-schema.js';
import { CONFIG_KEYS } from '../../config/keys.js';
import { checkConfigFile } from '../../config/load.js';
import type { LoadedConfig } from '../../config/load.js';
import { configTemplate } from '../../config/reference.js';
import { jsonOfValue, textOfValue } from '../../config/text.js';
import { ConcordError, fromSystemError } from '../../shared/errors.js';
import { CliFailure, EXIT, usage } from '../exit.js';
import { addConfigOptions, addKeyFlags, configLoader, warn } from '../open.js';
import { print } from '../output.js';

type SetExit = (code: number) => void;
interface Json {
  readonly json?: boolean;
}

const JSON_OPTION = ['--json', 'machine-readable output; errors as {"error":{"code","message"}} on stderr'] as const;

export function configCommand(parent: Command, setExit: SetExit): void {
  const config = parent
    .command('config')
    .summary('show and check the configuration')
    .description(
      'Options come from defaults, a configuration file, CONCORDKV_* variables and the command line; later ones win.\n' +
        'docs/configuration.md lists every key.',
    )
    .addHelpText(
      'after',
      `
Examples:
  $ concordkv config print
  $ CONCORDKV_DURABILITY=os concordkv config print --port 80 --json
  $ concordkv config check deploy/concordkv.yaml
  $ concordkv config schema > concordkv.schema.json
  $ concordkv config init`,
    );
  printCommand(config, setExit);
  checkCommand(config, setExit);
  config
    .command('schema')
    .summary('the JSON schema of a configuration file')
    .description('Prints the JSON schema of a configuration file, for editors and other tools.')
    .option(...JSON_OPTION)
    .action(async () => {
      await print(`${JSON.stringify(configJsonSchema(), undefined, 2)}\n`);
      setExit(EXIT.ok);
    });
  initCommand(config, setExit);
}

function printCommand(config: Command, setExit: SetExit): void {
  const command = config
    .command('print')
    .summary('the values in effect, and where each comes from')
    .description(
      'Prints every key with the value a command started here would use, and where it comes from. Takes the flags of all commands. Opens no store.',
    )
    .option('--given', 'without defaults')
    .option(...JSON_OPTION);
  addKeyFlags(addConfigOptions(command), () => true).action(
    async (options: Json & { given?: boolean }, acting: Command) => {
      const loaded = configLoader(acting)();
      for (const warning of loaded.warnings) warn(warning, options.json === true);
      const keys = CONFIG_KEYS.filter(({ path }) => !options.given || loaded.origins[path]!.source !== 'default');
      if (options.json) {
        const facts = keys.map((key) => {
          const value = jsonOfValue(key, valueAt(loaded.values, key));
          return [key.path, { value, origin: loaded.origins[key.path]!, changes: key.changes }];
        });
        await print(`${JSON.stringify({ file: loaded.file ?? null, keys: Object.fromEntries(facts) as unknown })}\n`);
      } else await print(table(keys, loaded));
      setExit(EXIT.ok);
    },
  );
}

const VALUE_CHARS_MAX = 48;

function table(keys: typeof CONFIG_KEYS, loaded: LoadedConfig): string {
  const cwd = process.cwd();
  const rows = keys.map((key) => {
    const value = valueAt(loaded.values, key);
    return [key.path, value === undefined ? '-' : textOfValue(key, value), originText(loaded.origins[key.path]!, cwd)];
  });
  const width = (column: number): number =>
    Math.max(0, ...rows.map((row) => Math.min(VALUE_CHARS_MAX, row[column]!.length)));
  const widths = [width(0), width(1)];
  const lines = rows.map(
    ([path, value, origin]) => `${path!.padEnd(widths[0]!)}  ${value!.padEnd(widths[1]!)}  ${origin!}\n`,
  );
  const file = loaded.file === undefined ? 'no configuration file' : `configuration file ${loaded.file}`;
  return `# ${file}\n${lines.join('')}`;
}

function checkCommand(config: Command, setExit: SetExit): void {
  config
    .command('check')
    .argument('<file>', 'a .json, .yaml or .yml file')
    .summary('whether a configuration file is right')
    .description(
      'Checks a configuration file by itself. Prints each problem on a line and exits with 4 when there is one.',
    )
    .option(...JSON_OPTION)
    .action(async (file: string, options: Json) => {
      const problems = checked(file);
      if (options.json) await print(`${JSON.stringify({ ok: problems.length === 0, problems })}\n`);
      else await print(problems.length === 0 ? 'ok\n' : problems.map(({ message }) => `${message}\n`).join(''));
      setExit(problems.length === 0 ? EXIT.ok : EXIT.refused);
    });
}

function checked(file: string): ReturnType<typeof checkConfigFile> {
  try {
    return checkConfigFile(file);
  } catch (error) {
    if (error instanceof ConcordError && error.code === 'ERR_NOT_FOUND')
      throw new CliFailure('ERR_INPUT', error.message);
    throw error;
  }
}

function initCommand(config: Command, setExit: SetExit): void {
  config
    .command('init')
    .argument('[file]', 'a .yaml, .yml or .json file', 'concordkv.yaml')
    .summary('write a file with every key in a comment')
    .description(
      'Writes a configuration file in which every key stands in a comment, with its default. Overwrites nothing unless told to.',
    )
    .option('--force', 'overwrite the file if it is there')
    .option(...JSON_OPTION)
    .action(async (file: string, options: Json & { force?: boolean }) => {
      const form = { '.yaml': 'yaml', '.yml': 'yaml', '.json': 'json' }[extname(file).toLowerCase()];
      if (form === undefined) throw usage(`${file}: a configuration file ends in .yaml, .yml or .json`);
      try {
        writeFileSync(file, configTemplate(form as 'yaml' | 'json'), { flag: options.force ? 'w' : 'wx' });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EEXIST') {
          throw new CliFailure('ERR_EXISTS', `${file} is there already; --force overwrites it`);
        }
        throw fromSystemError(error, 'writing', file);
      }
      const name = relative(process.cwd(), file) || file;
      await print(options.json ? `${JSON.stringify({ file })}\n` : `wrote ${name}\n`);
      setExit(EXIT.ok);
    });
}
