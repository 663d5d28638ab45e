/**
 * Config files as trees of values that know their line. Two forms, told apart by the name:
 *
 *   .json           JSON as editors' settings use it: comments and a comma after the last member are allowed
 *   .yaml, .yml     YAML 1.2, core schema, one document
 *
 * Must hold: any bytes lead to a tree or to a problem with its line; names such as __proto__ are names like any other. Threads: any.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { extname } from 'node:path';
import type * as Yaml from 'yaml';
import { ConcordError, fromSystemError } from '../shared/errors.js';
import type { ConfigNode, Findings, Origin } from './check.js';
import { SCHEMA_KEY } from './schema.js';

/** A config file is a page or two; this is somebody's data. */
const FILE_BYTES_MAX = 1 << 20;
const DEPTH_MAX = 16;
/** Values, with those that aliases repeat. */
const NODES_MAX = 10_000;

/** Reads and parses the file; problems go to `findings`, and undefined comes back. @throws ERR_NOT_FOUND, ERR_PERMISSION, ERR_IO */
export function readConfigFile(file: string, findings: Findings): ConfigNode | undefined {
  let bytes: Uint8Array;
  try {
    bytes = readUpTo(file, FILE_BYTES_MAX + 1);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new ConcordError('ERR_NOT_FOUND', `there is no config file ${file}`, { file }, { cause: error });
    }
    throw fromSystemError(error, 'reading config file', file);
  }
  return parseConfigFile(file, bytes, findings);
}

/** The file, or as much of it: a pipe has no size, and a device has no end. */
function readUpTo(file: string, bytesMax: number): Uint8Array {
  const bytes = Buffer.alloc(bytesMax);
  let length = 0;
  const descriptor = openSync(file, 'r');
  try {
    while (length < bytesMax) {
      const read = readSync(descriptor, bytes, length, bytesMax - length, null);
      if (read === 0) break;
      length += read;
    }
  } finally {
    closeSync(descriptor);
  }
  return bytes.subarray(0, length);
}

export function parseConfigFile(file: string, bytes: Uint8Array, findings: Findings): ConfigNode | undefined {
  const source = new Source(file);
  try {
    if (bytes.length > FILE_BYTES_MAX) throw source.fault(0, `longer than ${FILE_BYTES_MAX} bytes`);
    source.text = decode(bytes, source);
    const root = extname(file).toLowerCase() === '.json' ? parseJson(source) : parseYaml(source);
    if (root.entries?.has(SCHEMA_KEY) !== true) return root;
    const entries = new Map(root.entries);
    entries.delete(SCHEMA_KEY);
    return { ...root, entries };
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    findings.addFault(error.origin, error.message);
    return undefined;
  }
}

function decode(bytes: Uint8Array, source: Source): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw source.fault(0, 'not UTF-8');
  }
}

/** Why a file cannot be understood, and where. */
class Fault extends Error {
  readonly origin: Origin;

  constructor(origin: Origin, message: string) {
    super(message);
    this.origin = origin;
  }
}

class Source {
  readonly file: string;
  text = '';
  #nodes = 0;
  /** Offsets at which lines begin, made when the first one is asked for. */
  #lineStarts: number[] | undefined;

  constructor(file: string) {
    this.file = file;
  }

  origin(offset: number): Origin {
    this.#lineStarts ??= [0, ...[...this.text.matchAll(/\n/g)].map(({ index }) => index + 1)];
    const starts = this.#lineStarts;
    let low = 0;
    for (let high = starts.length - 1; low < high;) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle]! <= offset) low = middle;
      else high = middle - 1;
    }
    return { source: 'file', file: this.file, line: low + 1, column: offset - starts[low]! + 1 };
  }

  fault(offset: number, message: string): Fault {
    return new Fault(this.origin(offset), message);
  }

  count(offset: number, depth: number): void {
    if (depth > DEPTH_MAX) throw this.fault(offset, `nested deeper than ${DEPTH_MAX}`);
    if (++this.#nodes > NODES_MAX) throw this.fault(offset, `more than ${NODES_MAX} values`);
  }

  mapping(offset: number, members: readonly { name: string; at: number; node: ConfigNode }[]): ConfigNode {
    const entries = new Map<string, ConfigNode>();
    for (const { name, at, node } of members) {
      if (entries.has(name)) throw this.fault(at, `${JSON.stringify(name)} is there twice`);
      // The line of the name: where a person looks.
      entries.set(name, { ...node, origin: this.origin(at) });
    }
    return { value: {}, origin: this.origin(offset), entries };
  }
}

// ---- JSON -------------------------------------------------------------------------------------------------------------------------------

function parseJson(source: Source): ConfigNode {
  const { text } = source;
  let at = 0;

  const found = (): string => {
    const character = text.codePointAt(at);
    return character === undefined ? 'the end' : JSON.stringify(String.fromCodePoint(character));
  };
  const skip = (): void => {
    for (;;) {
      while (/[ \t\r\n]/.test(text[at] ?? '')) at++;
      if (text.startsWith('//', at)) {
        const end = text.indexOf('\n', at);
        at = end < 0 ? text.length : end;
      } else if (text.startsWith('/*', at)) {
        const end = text.indexOf('*/', at + 2);
        if (end < 0) throw source.fault(at, 'a comment that does not end');
        at = end + 2;
      } else return;
    }
  };
  const string = (): string => {
    const start = at;
    for (at++; text[at] !== '"'; at++) {
      if (at >= text.length || text[at] === '\n') throw source.fault(start, 'a text that does not end');
      if (text[at] === '\\') at++;
    }
    at++;
    try {
      return JSON.parse(text.slice(start, at)) as string;
    } catch {
      throw source.fault(start, 'a text with a wrong escape or a control character');
    }
  };
  const list = <T>(close: string, member: () => T): T[] => {
    const members: T[] = [];
    at++;
    for (skip(); text[at] !== close; skip()) {
      members.push(member());
      skip();
      if (text[at] === ',') at++;
      else if (text[at] !== close) throw source.fault(at, `expected "," or "${close}", found ${found()}`);
    }
    at++;
    return members;
  };
  const value = (depth: number): ConfigNode => {
    const start = at;
    source.count(start, depth);
    if (text[at] === '{') {
      const members = list('}', () => {
        const nameAt = at;
        if (text[at] !== '"') throw source.fault(at, `expected a name in double quotes, found ${found()}`);
        const name = string();
        skip();
        if (text[at] !== ':') throw source.fault(at, `expected ":" after ${JSON.stringify(name)}, found ${found()}`);
        at++;
        skip();
        return { name, at: nameAt, node: value(depth + 1) };
      });
      return source.mapping(start, members);
    }
    const origin = source.origin(start);
    if (text[at] === '[') return { value: list(']', () => value(depth + 1).value), origin };
    if (text[at] === '"') return { value: string(), origin };
    const word = /^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])/.exec(
      text.slice(at, at + 400),
    )?.[0];
    if (word === undefined) throw source.fault(at, `expected a value, found ${found()}`);
    at += word.length;
    return { value: JSON.parse(word) as unknown, origin };
  };

  skip();
  if (at === text.length) return { value: null, origin: source.origin(0) };
  const root = value(0);
  skip();
  if (at < text.length) throw source.fault(at, `expected the end, found ${found()}`);
  return root;
}

// ---- YAML -------------------------------------------------------------------------------------------------------------------------------

function parseYaml(source: Source): ConfigNode {
  // Loaded here: it takes longer than opening a small store, and most have no YAML file.
  const yaml = createRequire(import.meta.url)('yaml') as typeof Yaml;
  const [document, second] = yaml.parseAllDocuments(source.text, {
    version: '1.2',
    schema: 'core',
    uniqueKeys: false,
    prettyErrors: false,
    logLevel: 'silent',
  }) as Yaml.Document.Parsed[];
  if (second !== undefined) throw source.fault(second.range[0], 'a second document; one is enough');
  const error = document?.errors[0] ?? document?.warnings[0];
  // The library calls itself for each level, until the stack is full.
  if (error?.code === 'RESOURCE_EXHAUSTION') throw source.fault(error.pos[0], `nested deeper than ${DEPTH_MAX}`);
  if (error !== undefined) throw source.fault(error.pos[0], error.message.split('\n', 1)[0]!);
  const offsetOf = (node: Yaml.Node | null): number => node?.range?.[0] ?? 0;

  const nodeOf = (node: Yaml.Node | null, depth: number): ConfigNode => {
    const offset = offsetOf(node);
    source.count(offset, depth);
    if (node === null) return { value: null, origin: source.origin(offset) };
    if (yaml.isAlias(node)) {
      const target = node.resolve(document!);
      if (target === undefined) throw source.fault(offset, `no anchor *${node.source}`);
      return nodeOf(target, depth + 1);
    }
    if (yaml.isMap(node)) {
      const members = node.items.map(({ key, value }) => {
        if (!yaml.isScalar(key) || typeof key.value !== 'string') {
          throw source.fault(yaml.isNode(key) ? offsetOf(key) : offset, 'the name of a key must be a text');
        }
        return { name: key.value, at: offsetOf(key), node: nodeOf(value as Yaml.Node | null, depth + 1) };
      });
      return source.mapping(offset, members);
    }
    const origin = source.origin(offset);
    if (yaml.isSeq(node))
      return { value: node.items.map((item) => nodeOf(item as Yaml.Node | null, depth + 1).value), origin };
    return { value: yaml.isScalar(node) ? node.value : undefined, origin };
  };
  return nodeOf(document?.contents ?? null, 0);
}
