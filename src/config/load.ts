/**
 * Where configuration comes from, put together. Later ones win:
 *
 *   defaults  <  file  <  environment  <  command line  <  options in code
 *
 * The file is the one named by `file`, --config or CONCORDKV_CONFIG, in this order, else concordkv.json, .yaml or .yml of the working directory.
 * What is wrong is refused wherever it stands, also if something stronger hides it. Nothing is read but that file, the environment handed in and
 * the arguments handed in. Threads: any.
 */
import { existsSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import { invalidArgument } from '../shared/errors.js';
import { Findings, keyAt, nested, nodeOfOptions, proposalFor, valueAt } from './check.js';
import type { ConfigError, ConfigProblem, GivenValue, Origin } from './check.js';
import { readConfigFile } from './file.js';
import { CONFIG_KEYS, CONFIG_TREE } from './keys.js';
import type { ConfigKey } from './keys.js';
import { configSchema } from './schema.js';
import type { Config, ConfigInput } from './schema.js';
import { nearest } from './text.js';

const CONFIG_FILE_NAMES = ['concordkv.json', 'concordkv.yaml', 'concordkv.yml'] as const;
const FILE_VARIABLE = 'CONCORDKV_CONFIG';
const PREFIX = 'CONCORDKV_';
/** Of the project's own tests. */
const TEST_PREFIX = 'CONCORDKV_TEST_';

/** What loadConfig works with; everything has a default. */
export interface LoadConfigOptions {
  /** Where the file is looked for, and what relative paths count from. Default: the working directory. */
  readonly cwd?: string;
  /** Default: process.env. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Flags as on the command line, such as ['--memory', '2g', '--set', 'store.order=64']. Default: none. */
  readonly argv?: readonly string[];
  /** Options in code, which win over everything else. */
  readonly explicit?: ConfigInput;
  /** A path: this file, which must exist. true: as the head says. false: no file. Default true. */
  readonly file?: string | boolean;
}

export interface LoadedConfig {
  /** Every key with its value in effect. Paths are absolute. */
  readonly values: Config;
  /** Where each key's value comes from, by its path, such as 'store.memoryBytes'. */
  readonly origins: Readonly<Record<string, Origin>>;
  /** The file that was read. */
  readonly file: string | undefined;
  /** Variables that look like ours and are not: probably misspelt. */
  readonly warnings: readonly string[];
}

/** @throws TypeError (ERR_INVALID_ARG) with every problem in `problems`; ERR_NOT_FOUND if a file that was named is not there; ERR_IO, ERR_PERMISSION */
export function loadConfig(options: LoadConfigOptions = {}): LoadedConfig {
  const { env = process.env, argv = [], explicit = {}, file: wanted = true } = options;
  const cwd = resolve(options.cwd ?? '.');
  const findings = new Findings(cwd);
  const flags = readFlags(argv);
  const file = findFile(cwd, wanted, flags.file, env[FILE_VARIABLE]);
  if (file !== undefined) {
    const root = readConfigFile(file, findings);
    if (root !== undefined) findings.addNode(root, CONFIG_TREE);
  }
  const warnings = addEnvironment(env, findings);
  addFlags(flags.settings, findings);
  findings.addNode(nodeOfOptions(explicit), CONFIG_TREE);
  findings.throwProblems();

  const given = new Map<string, GivenValue>();
  for (const [path, found] of findings.given) given.set(path, { ...found, value: atPlace(path, found, cwd) });
  const values = configSchema.parse(nested(given));
  findings.checkTogether(values.store);
  findings.throwProblems();
  const origins: Record<string, Origin> = {};
  for (const { path } of CONFIG_KEYS) origins[path] = given.get(path)?.origin ?? { source: 'default' };
  return { values, origins, file, warnings };
}

/** A path named relatively counts from the file that names it, else from the working directory. */
function atPlace(path: string, { value, origin }: GivenValue, cwd: string): unknown {
  if (keyAt(path)?.isPath !== true) return value;
  const base = origin.source === 'file' ? dirname(origin.file) : cwd;
  if (typeof value === 'string') return value === ':memory:' ? value : resolve(base, value);
  // Modules: what does not begin with a dot or a slash is the name of a package, or a URL.
  return (value as string[]).map((name) =>
    /^\.{1,2}[/\\]/.test(name) || isAbsolute(name) ? resolve(base, name) : name,
  );
}

function findFile(
  cwd: string,
  wanted: string | boolean,
  flag: string | false | undefined,
  variable: string | undefined,
): string | undefined {
  if (wanted === false) return undefined;
  if (typeof wanted === 'string') return resolve(cwd, wanted);
  if (flag === false) return undefined;
  const named = flag ?? (variable === '' ? undefined : variable);
  if (named !== undefined) return resolve(cwd, named);
  const found = CONFIG_FILE_NAMES.filter((name) => existsSync(resolve(cwd, name)));
  if (found.length > 1) {
    throw invalidArgument(
      `${cwd} has ${found.join(' and ')}: keep one, or say which with --config or ${FILE_VARIABLE}`,
    );
  }
  return found[0] === undefined ? undefined : resolve(cwd, found[0]);
}

/** Adds what CONCORDKV_* variables say; returns warnings of those nobody knows. A variable that is set to nothing counts as not set. */
function addEnvironment(env: Readonly<Record<string, string | undefined>>, findings: Findings): string[] {
  for (const key of CONFIG_KEYS) {
    const text = env[key.variable];
    if (text !== undefined && text !== '')
      findings.addText(key, text, { source: 'environment', variable: key.variable });
  }
  const known = [FILE_VARIABLE, ...CONFIG_KEYS.map(({ variable }) => variable)];
  return Object.keys(env)
    .filter((name) => name.startsWith(PREFIX) && !name.startsWith(TEST_PREFIX) && !known.includes(name))
    .sort()
    .map((name) => {
      const meant = nearest(
        name.slice(PREFIX.length),
        known.map((variable) => variable.slice(PREFIX.length)),
      );
      return `${name} is no variable of ConcordKV and is ignored${meant === undefined ? '' : `; did you mean ${PREFIX}${meant}?`}`;
    });
}

interface Setting {
  readonly flag: string;
  readonly text: string;
}

/** --name text and --name=text. */
function readFlags(argv: readonly string[]): { file: string | false | undefined; settings: Setting[] } {
  let file: string | false | undefined;
  const settings: Setting[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i]!;
    if (argument === '--no-config') {
      file = false;
      continue;
    }
    if (!argument.startsWith('--')) throw invalidArgument(`${argument}: flags begin with --`);
    const equals = argument.indexOf('=');
    const flag = equals < 0 ? argument : argument.slice(0, equals);
    const text = equals < 0 ? argv[++i] : argument.slice(equals + 1);
    if (text === undefined) throw invalidArgument(`${flag} needs a value`);
    if (flag === '--config') file = text;
    else settings.push({ flag, text });
  }
  return { file, settings };
}

function addFlags(settings: readonly Setting[], findings: Findings): void {
  for (const { flag, text } of settings) {
    if (flag !== '--set') {
      const key = CONFIG_KEYS.find((candidate) => candidate.flag === flag);
      if (key === undefined)
        throw invalidArgument(`${flag} is no flag of the configuration; give a key with --set key=value`);
      addFlag(key, flag, text, findings);
      continue;
    }
    const equals = text.indexOf('=');
    const path = (equals < 0 ? text : text.slice(0, equals)).trim();
    const origin: Origin = { source: 'flag', flag: `--set ${path}` };
    const key = keyAt(path);
    if (path === '')
      throw invalidArgument(`--set takes key=value, such as --set store.durability=os, got ${JSON.stringify(text)}`);
    if (equals < 0) findings.refuse(path, origin, () => ': --set takes key=value, such as --set store.durability=os');
    else if (key === undefined)
      findings.refuse(path, origin, () => ` (--set): there is no such key${proposalFor(path)}`);
    else findings.addText(key, text.slice(equals + 1), origin);
  }
}

function addFlag(key: ConfigKey, flag: string, text: string, findings: Findings): void {
  const origin: Origin = { source: 'flag', flag };
  // The flag says nothing of a unit, and a second too many is better noticed than a thousand.
  if (key.kind === 'ms' && /^\s*\d+(\.\d+)?\s*$/.test(text) && Number(text) !== 0) {
    const amount = text.trim();
    findings.refuse(
      key.path,
      origin,
      (place) => ` is ${amount}${place}: say the unit, as in ${amount}s or ${amount}ms`,
    );
    return;
  }
  findings.addText(key, text, origin);
}

/** What was given, by path: everything but defaults. */
export function givenValues(loaded: LoadedConfig): Map<string, GivenValue> {
  const given = new Map<string, GivenValue>();
  for (const key of CONFIG_KEYS) {
    const origin = loaded.origins[key.path]!;
    if (origin.source !== 'default') given.set(key.path, { value: valueAt(loaded.values, key), origin });
  }
  return given;
}

/** Everything that is wrong with a file, by itself. @throws ERR_NOT_FOUND, ERR_IO, ERR_PERMISSION */
export function checkConfigFile(file: string, cwd = process.cwd()): readonly ConfigProblem[] {
  try {
    loadConfig({ cwd, env: {}, file });
    return [];
  } catch (error) {
    const { problems } = error as Partial<ConfigError>;
    if (problems === undefined) throw error;
    return problems;
  }
}

/** The store's options that were given, as ConcordPool.open takes them. */
export function storeOptions(loaded: LoadedConfig): Record<string, unknown> {
  const given = givenValues(loaded);
  given.delete('store.directory');
  return (nested(given)['store'] ?? {}) as Record<string, unknown>;
}
