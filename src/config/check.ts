/**
 * What is given for keys, checked key by key against the schema. A problem names the key, where it was given, the value, what is allowed, and a fix.
 * Threads: any.
 */
import { isAbsolute, relative } from 'node:path';
import { invalidArgument } from '../shared/errors.js';
import { CONFIG_KEYS, isSection, keysOf } from './keys.js';
import type { ConfigKey, ConfigSection } from './keys.js';
import { resolveLsmOptions, type LsmTuning } from '../engines/lsm/options.js';
import { ENGINE_NAMES } from './schema.js';
import type { Config } from './schema.js';
import { formatSize, nearest, parseDuration, parseSize, textOfValue, valueOfText, withoutCredentials } from './text.js';

/** Where a value comes from. */
export type Origin =
  | { readonly source: 'default' }
  | { readonly source: 'file'; readonly file: string; readonly line: number; readonly column: number }
  | { readonly source: 'environment'; readonly variable: string }
  | { readonly source: 'flag'; readonly flag: string }
  /** Given in code. */
  | { readonly source: 'option' };

export function originText(origin: Origin, cwd?: string): string {
  switch (origin.source) {
    case 'file': {
      const near = cwd === undefined ? origin.file : relative(cwd, origin.file);
      const file = near === '' || near.startsWith('..') || isAbsolute(near) ? origin.file : near;
      return `${file}:${origin.line}`;
    }
    case 'environment':
      return origin.variable;
    case 'flag':
      return origin.flag;
    default:
      return origin.source;
  }
}

/** One thing that is wrong. `path` is '' if no key is at fault, a broken file for example. */
export interface ConfigProblem {
  readonly path: string;
  readonly origin: Origin;
  readonly message: string;
}

export type ConfigError = TypeError & { readonly code: 'ERR_INVALID_ARG'; readonly problems: readonly ConfigProblem[] };

/** All problems in one TypeError (ERR_INVALID_ARG). */
function configError(problems: readonly ConfigProblem[]): ConfigError {
  const error = invalidArgument(problems.map(({ message }) => message).join('; '));
  return Object.assign(error, { problems });
}

/** A value with its place; `entries` if it is a mapping. */
export interface ConfigNode {
  readonly value: unknown;
  readonly origin: Origin;
  readonly entries?: ReadonlyMap<string, ConfigNode>;
}

const OPTION: Origin = { source: 'option' };
const DEPTH_MAX = 8;

/** Options given in code as nodes. undefined means: not given. */
export function nodeOfOptions(value: unknown, depth = 0): ConfigNode {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || depth > DEPTH_MAX)
    return { value, origin: OPTION };
  const entries = new Map<string, ConfigNode>();
  for (const [name, member] of Object.entries(value)) {
    if (member !== undefined) entries.set(name, nodeOfOptions(member, depth + 1));
  }
  return { value, origin: OPTION, entries };
}

export interface GivenValue {
  readonly value: unknown;
  readonly origin: Origin;
}

/** What was found while walking what is given, by path of the key. */
export class Findings {
  readonly given = new Map<string, GivenValue>();
  readonly problems: ConfigProblem[] = [];
  readonly #cwd: string | undefined;

  constructor(cwd?: string) {
    this.#cwd = cwd;
  }

  /** `complaint` continues the name of the key or option. */
  refuse(path: string, origin: Origin, complaint: (place: string) => string): void {
    const isOption = origin.source === 'option';
    const name =
      path === '' ? (isOption ? 'options' : 'the file') : isOption ? `option ${path.replace(/^store\./, '')}` : path;
    const place = isOption ? '' : ` (${originText(origin, this.#cwd)})`;
    this.problems.push({ path, origin, message: `${name}${complaint(place)}` });
  }

  /** A file that cannot be understood. */
  addFault(origin: Origin, message: string): void {
    this.problems.push({ path: '', origin, message: `${originText(origin, this.#cwd)}: ${message}` });
  }

  /** Takes all keys of the node that the section has; later calls win over earlier ones. */
  addNode(node: ConfigNode, section: ConfigSection): void {
    const { entries, origin } = node;
    if (entries === undefined) {
      // A section whose lines are all comments is null in YAML.
      if (node.value === null && origin.source === 'file') return;
      this.refuse(section.path, origin, (place) => ` is ${shown(node.value)}${place}: it must be a mapping of keys`);
      return;
    }
    for (const [name, member] of entries) {
      const known = section.members.get(name);
      if (known === undefined) this.#unknown(section, name, member.origin);
      else if (isSection(known)) this.addNode(member, known);
      else this.addValue(known, member);
    }
  }

  addValue(key: ConfigKey, { value, origin }: ConfigNode): void {
    const isText = typeof value === 'string' && (key.kind === 'bytes' || key.kind === 'ms');
    this.#check(key, value, origin.source === 'file' && isText ? valueOfText(key, value) : value, origin);
  }

  /** From the environment or the command line. */
  addText(key: ConfigKey, text: string, origin: Origin): void {
    this.#check(key, text, valueOfText(key, text), origin);
  }

  #check(key: ConfigKey, raw: unknown, value: unknown, origin: Origin): void {
    const parsed = key.schema.safeParse(value);
    // The optional keys of the schema take undefined; given, it was null or a text at least.
    if (parsed.success) {
      this.given.set(key.path, { value: parsed.data, origin });
      return;
    }
    const fix = fixFor(key, raw, origin);
    this.refuse(
      key.path,
      origin,
      (place) => ` is ${shownOf(key, raw)}${place}: it must be ${key.allowed}${fix === undefined ? '' : `; ${fix}`}`,
    );
  }

  #unknown(section: ConfigSection, name: string, origin: Origin): void {
    const path = section.path === '' ? name : `${section.path}.${name}`;
    const isOption = origin.source === 'option';
    const keys = isOption ? keysOf(section) : CONFIG_KEYS;
    const meant = nearestKey(section, name, keys);
    const shownName = isOption && section.path.startsWith('store') ? meant?.replace(/^store\./, '') : meant;
    const proposal = shownName === undefined ? '' : `; did you mean ${shownName}?`;
    this.refuse(path, origin, (place) => `${place}: there is no such ${isOption ? 'option' : 'key'}${proposal}`);
  }

  /** Problems between keys that are each right. */
  checkTogether(store: {
    readonly engine?: string | undefined;
    readonly engineModules: readonly string[];
    readonly lsm: LsmTuning;
  }): void {
    const { engine, engineModules, lsm } = store;
    try {
      resolveLsmOptions(lsm);
    } catch (error) {
      const key = [...this.given.keys()].find((path) => path.startsWith('store.lsm.')) ?? 'store.lsm';
      const text = (error as Error).message;
      this.refuse(
        'store.lsm',
        this.given.get(key)?.origin ?? OPTION,
        (place) => `${place}: ${text.replace(/^lsm[:.] ?/, '')}`,
      );
    }
    if (engine === undefined || engineModules.length > 0 || (ENGINE_NAMES as readonly string[]).includes(engine))
      return;
    const origin = this.given.get('store.engine')?.origin ?? OPTION;
    const meant = nearest(engine, ENGINE_NAMES);
    const proposal = meant === undefined ? '' : `; did you mean ${meant}?`;
    this.refuse(
      'store.engine',
      origin,
      (place) =>
        ` is ${shown(engine)}${place}: there are ${ENGINE_NAMES.join(', ')}, and those engineModules register, of which none is given${proposal}`,
    );
  }

  throwProblems(): void {
    if (this.problems.length > 0) throw configError(this.problems);
  }
}

/** The path of the key that was probably meant: in the same section, else anywhere among the keys. */
function nearestKey(section: ConfigSection, name: string, keys: readonly ConfigKey[]): string | undefined {
  const near = nearest(name, [...section.members.keys()]);
  return near === undefined ? nearestPath(name, keys) : section.path === '' ? near : `${section.path}.${near}`;
}

/** By the last name of the path, else by all of it. */
function nearestPath(path: string, keys: readonly ConfigKey[]): string | undefined {
  const last = nearest(
    path.split('.').at(-1)!,
    keys.map(({ segments }) => segments.at(-1)!),
  );
  const whole = nearest(
    path,
    keys.map((key) => key.path),
  );
  return whole ?? keys.find(({ segments }) => segments.at(-1) === last)?.path;
}

export function keyAt(path: string): ConfigKey | undefined {
  return CONFIG_KEYS.find((key) => key.path === path);
}

/** For --set: a path that is no key. */
export function proposalFor(path: string): string {
  const meant = nearestPath(path, CONFIG_KEYS);
  return meant === undefined ? '; "concordkv config print" lists them' : `; did you mean ${meant}?`;
}

const SHOWN_CHARS_MAX = 80;

function shown(value: unknown): string {
  let text: string;
  if (typeof value === 'string') text = JSON.stringify(withoutCredentials(value));
  else if (typeof value === 'object' && value !== null) text = Array.isArray(value) ? 'a list' : 'a mapping';
  else text = typeof value === 'symbol' || typeof value === 'function' ? typeof value : String(value);
  return text.length <= SHOWN_CHARS_MAX ? text : `${text.slice(0, SHOWN_CHARS_MAX)}…`;
}

const shownOf = (key: ConfigKey, value: unknown): string => (key.isSecret ? textOfValue(key, value) : shown(value));

/** What to write instead, if that can be guessed. */
function fixFor(key: ConfigKey, raw: unknown, origin: Origin): string | undefined {
  const fits = (value: unknown): boolean => key.schema.safeParse(value).success;
  if (key.isSecret) return undefined;
  if (typeof raw === 'string') {
    const text = raw.trim();
    const isCode = origin.source === 'option';
    if (key.kind === 'bytes' || key.kind === 'ms') {
      const value = key.kind === 'bytes' ? parseSize(text) : parseDuration(text);
      if (isCode && value !== undefined && fits(value)) return `in code a number: ${value}`;
      if (/^\d+$/.test(text)) return largerUnit(key, Number(text), fits);
      if (value === undefined && /^-?\d/.test(text)) {
        return key.kind === 'bytes'
          ? 'units are KiB, MiB, GiB and TiB, as in 128MiB'
          : 'units are ms, s, m and h, as in 5s';
      }
    } else if (key.kind === 'integer' || key.kind === 'boolean') {
      const value = valueOfText(key, text);
      if (value !== text && fits(value)) return `write ${String(value)} without quotes`;
    } else if (key.kind === 'list') {
      if (raw !== '' && fits([text])) return `write a list: [${JSON.stringify(raw)}]`;
    }
    const word = key.words === undefined ? undefined : nearest(text, key.words);
    return word !== undefined && fits(word) ? `did you mean ${word}?` : undefined;
  }
  if (typeof raw === 'number') {
    if (key.kind === 'bytes') return largerUnit(key, raw, fits);
    if (key.kind === 'text' && fits(String(raw)) && origin.source === 'file') return `write "${raw}" in quotes`;
  }
  if (raw === null && origin.source === 'file') return 'leave the line out to use the default';
  return undefined;
}

/** A size that was meant in MiB or GiB: the likely reading of a number that is far too small. */
function largerUnit(key: ConfigKey, amount: number, fits: (value: unknown) => boolean): string | undefined {
  if (key.kind !== 'bytes' || !Number.isInteger(amount) || amount <= 0) return undefined;
  const meant = [amount * 2 ** 20, amount * 2 ** 30].find(fits);
  return meant === undefined ? undefined : `a plain number counts bytes; did you mean ${formatSize(meant)} (${meant})?`;
}

/** The given values as an object of nested sections. */
export function nested(given: ReadonlyMap<string, GivenValue>): Record<string, unknown> {
  const root: Record<string, unknown> = {};
  for (const [path, { value }] of given) {
    const segments = path.split('.');
    let at = root;
    for (const segment of segments.slice(0, -1)) at = (at[segment] ??= {}) as Record<string, unknown>;
    at[segments.at(-1)!] = value;
  }
  return root;
}

/** The value at a key's path. */
export function valueAt(config: Config, key: ConfigKey): unknown {
  let at: unknown = config;
  for (const segment of key.segments) at = (at as Record<string, unknown> | undefined)?.[segment];
  return at;
}
