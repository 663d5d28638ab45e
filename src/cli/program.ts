/** The command line: commands, their help, and what becomes of their failures. Threads: main thread only. */
import { createRequire } from 'node:module';
import { Command, CommanderError } from 'commander';
import { configCommand } from './commands/config.js';
import { delCommand, getCommand, putCommand, scanCommand } from './commands/entries.js';
import { inspectCommand } from './commands/inspect-file.js';
import { statsCommand, verifyCommand } from './commands/inspect.js';
import { loadCommand } from './commands/load.js';
import { serveCommand } from './commands/serve.js';
import { EXIT, report, usage } from './exit.js';
import { OutputClosed, watchOutput } from './output.js';

const EPILOGUE = `
Exit codes:
  0  done                      3  get: there is no such key
  1  failed                    4  verify, inspect, config check: problems found · put: the condition did not hold
  2  wrong command line        130, 143  ended by SIGINT, SIGTERM after closing the store

Examples:
  $ concordkv put greeting hello --db ./data
  $ concordkv get greeting --db ./data
  $ concordkv load cities.ndjson --db ./cities --key country,name,cityId
  $ concordkv serve --db ./files
  $ concordkv config print

Options come from the command line, CONCORDKV_* variables and a configuration file, in this order: docs/configuration.md.
"concordkv <command> --help" tells more.`;

/** The command and all below it. */
function withInner(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withInner)];
}

/** Runs one command line; resolves with the exit code. */
export async function run(argv: readonly string[]): Promise<number> {
  watchOutput();
  const asJson = argv.includes('--json');
  let exitCode: number = EXIT.ok;
  const setExit = (code: number): void => void (exitCode = code);
  const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

  const program = new Command('concordkv')
    .description('ConcordKV: an embedded, multi-threaded key-value store.')
    .version(version, '-V, --version')
    .helpCommand(true)
    .showSuggestionAfterError()
    .addHelpText('after', EPILOGUE);
  loadCommand(program, setExit);
  getCommand(program, setExit);
  putCommand(program, setExit);
  delCommand(program, setExit);
  scanCommand(program, setExit);
  statsCommand(program, setExit);
  verifyCommand(program, setExit);
  inspectCommand(program, setExit);
  serveCommand(program, setExit);
  configCommand(program, setExit);
  for (const command of withInner(program)) {
    // Errors are printed once, by report(), in the form asked for.
    command.exitOverride().configureOutput({ outputError: () => undefined });
  }

  try {
    await program.parseAsync(argv);
  } catch (error) {
    if (error instanceof OutputClosed) return EXIT.ok;
    if (error instanceof CommanderError) {
      // Asked-for help and version end in an error of commander's, too; help without a command is a wrong command line.
      if (error.exitCode === 0) return EXIT.ok;
      if (error.code === 'commander.help') return EXIT.usage;
      return report(usage(error.message.replace(/^error: /, '')), asJson);
    }
    return report(error, asJson);
  }
  return exitCode;
}
