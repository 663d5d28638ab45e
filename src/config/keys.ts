/**
 * The schema as a tree of keys: what files, environment, command line, errors and documentation need to know of each. Threads: any.
 */
import { z } from 'zod';
import { configSchema, keyFacts } from './schema.js';
import type { KeyFacts, KeyKind } from './schema.js';
import { formatDuration, formatSize } from './text.js';

/** One key, with everything the other parts of the configuration need to know of it. */
export interface ConfigKey extends KeyFacts {
  /** 'store.memoryBytes' */
  readonly path: string;
  readonly segments: readonly string[];
  readonly schema: z.ZodType;
  /** Environment variable. */
  readonly variable: string;
  /** undefined if there is none. */
  readonly defaultValue: unknown;
  /** What it must be, for errors and documentation. */
  readonly allowed: string;
}

export interface ConfigSection {
  readonly path: string;
  readonly members: ReadonlyMap<string, ConfigKey | ConfigSection>;
}

export const isSection = (node: ConfigKey | ConfigSection): node is ConfigSection => 'members' in node;

/** Default, optional and prefault wrap what they stand for. */
function unwrapped(schema: z.ZodType): z.ZodType {
  let inner = schema;
  while (inner instanceof z.ZodDefault || inner instanceof z.ZodOptional || inner instanceof z.ZodPrefault) {
    inner = inner.unwrap() as z.ZodType;
  }
  return inner;
}

function formatNumber(value: number, kind: KeyKind): string {
  if (kind === 'bytes') return value < 1024 ? `${value} ${value === 1 ? 'byte' : 'bytes'}` : formatSize(value);
  return kind === 'ms' ? formatDuration(value) : String(value);
}

const either = (choices: readonly string[]): string =>
  choices.length < 2 ? choices.join('') : `${choices.slice(0, -1).join(', ')} or ${choices.at(-1)!}`;

function allowedOf(schema: z.ZodType, kind: KeyKind): string {
  if (schema instanceof z.ZodUnion) return either(schema.options.map((option) => allowedOf(option as z.ZodType, kind)));
  if (schema instanceof z.ZodEnum) return either(schema.options.map(String));
  if (schema instanceof z.ZodLiteral) {
    return either(
      [...schema.values].map((value) => (typeof value === 'number' ? formatNumber(value, kind) : String(value))),
    );
  }
  if (schema instanceof z.ZodNumber) {
    const { minValue, maxValue } = schema;
    const { multipleOf } = z.toJSONSchema(schema);
    const noun = kind === 'bytes' ? 'a size' : kind === 'ms' ? 'a time' : 'an integer';
    const low = formatNumber(minValue!, kind);
    const bounds =
      maxValue! >= Number.MAX_SAFE_INTEGER ? `from ${low} on` : `from ${low} to ${formatNumber(maxValue!, kind)}`;
    return `${noun} ${bounds}${multipleOf === undefined ? '' : `, a multiple of ${multipleOf}`}`;
  }
  if (schema instanceof z.ZodBoolean) return 'true or false';
  if (schema instanceof z.ZodArray) {
    const { element } = schema;
    return element instanceof z.ZodEnum
      ? `a list of ${either(element.options.map(String))}`
      : 'a list of texts that are not empty';
  }
  return 'a text that is not empty';
}

const snake = (segment: string): string => segment.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();

function variableOf(segments: readonly string[]): string {
  const named = segments[0] === 'store' ? segments.slice(1) : segments;
  return ['CONCORDKV', ...named.map(snake)].join('_');
}

function keyOf(schema: z.ZodType, segments: readonly string[], facts: KeyFacts): ConfigKey {
  const choices = unwrapped(schema);
  return {
    ...facts,
    ...(choices instanceof z.ZodEnum && { words: choices.options.map(String) }),
    path: segments.join('.'),
    segments,
    schema,
    variable: variableOf(segments),
    // Asked for seldom, and every thread that attaches to a pool comes through here.
    get defaultValue() {
      const absent = schema.safeParse(undefined);
      return absent.success ? absent.data : undefined;
    },
    get allowed() {
      if (facts.words === undefined) return allowedOf(choices, facts.kind);
      return `${either(facts.words)}, or another name of a-z, 0-9 and -`;
    },
  };
}

function sectionOf(schema: z.ZodObject, segments: readonly string[]): ConfigSection {
  const members = new Map<string, ConfigKey | ConfigSection>();
  for (const [name, member] of Object.entries<z.ZodType>(schema.shape)) {
    const path = [...segments, name];
    const inner = unwrapped(member);
    if (inner instanceof z.ZodObject) members.set(name, sectionOf(inner, path));
    else {
      const facts = keyFacts.get(member);
      if (facts === undefined) throw new Error(`configuration key ${path.join('.')} says nothing about itself`);
      members.set(name, keyOf(member, path, facts));
    }
  }
  return { path: segments.join('.'), members };
}

export const CONFIG_TREE: ConfigSection = sectionOf(configSchema, []);

export function keysOf(section: ConfigSection): ConfigKey[] {
  return [...section.members.values()].flatMap((member) => (isSection(member) ? keysOf(member) : [member]));
}

/** All keys in the order of the schema. */
export const CONFIG_KEYS: readonly ConfigKey[] = keysOf(CONFIG_TREE);

export function sectionAt(name: 'store' | 'http' | 'log'): ConfigSection {
  return CONFIG_TREE.members.get(name) as ConfigSection;
}
