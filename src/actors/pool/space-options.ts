/**
 * Options of a space: what db.space() takes, what the store remembers of it, and what contradicts what. Threads: any.
 */
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import type { KeyEncodingName } from '../../shared/codec/key-encoding.js';
import { isWellFormed } from '../../shared/codec/text.js';
import {
  resolveValueEncoding,
  type CustomValueEncoding,
  type ValueEncoding,
  type ValueEncodingName,
} from '../../shared/codec/value-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { Findings, nested, nodeOfOptions } from '../../config/check.js';
import { sectionAt, type ConfigSection } from '../../config/keys.js';
import { engineNamed, type EngineTuning } from '../../engines/engine.js';
import { resolveLsmOptions, type LsmTuning } from '../../engines/lsm/options.js';
import type { SpaceRecord } from './manifest.js';

/** What an engine may be told, remembered with the space. Each engine heeds its own and ignores the rest. */
export interface TuningOptions {
  /** B+Tree: most children of a branch and entries of a leaf, 3 … 1000. Default: as many as fit a page. */
  readonly order?: number;
  /** B+Tree: size of a page, 4096 … 32768, a power of two; 'adaptive': by the sizes of the entries seen. */
  readonly pageBytes?: number | 'adaptive';
  /** Memtable: bytes at which it asks to be frozen. */
  readonly memtableBytes?: number;
  /** B+Tree: shared memory the space may use per shard before cold pages live in its file only. */
  readonly budgetBytes?: number;
  /** LSM-Tree. */
  readonly lsm?: LsmTuning;
}

/** Everything is remembered by the store: given again, it must agree. */
export interface SpaceOptions extends TuningOptions {
  /** 'btree', 'hash', 'rbtree', 'array', 'memtable', 'lsm', or a name given to registerEngine(). Default 'btree'. */
  readonly engine?: string;
  /** Default 'utf8'. */
  readonly keyEncoding?: KeyEncodingName;
  /** Default 'utf8'. A custom one must be given in each thread. */
  readonly valueEncoding?: ValueEncodingName | CustomValueEncoding;
  /** Default true; otherwise an unknown name is ERR_SPACE_NOT_FOUND. */
  readonly createIfMissing?: boolean;
}

/** The options as they travel to the host: plain data, what was not given is not there. */
export interface SpaceSpec {
  readonly engine?: string | undefined;
  readonly keyEncoding?: KeyEncodingName | undefined;
  /** Name of the encoding. */
  readonly valueEncoding?: string | undefined;
  readonly tuning: EngineTuning;
}

const SPACE_NAME_BYTES_MAX = 255;
const BYTES_MIN = 64 * 1024;
const BYTES_MAX = 2 ** 40;

const tuningShape = {
  order: z.int().min(3).max(1000).optional(),
  pageBytes: z
    .union([z.literal('adaptive'), z.literal(4096), z.literal(8192), z.literal(16384), z.literal(32768)])
    .optional(),
  memtableBytes: z.int().min(BYTES_MIN).max(BYTES_MAX).optional(),
  budgetBytes: z.int().min(BYTES_MIN).max(BYTES_MAX).optional(),
  // Checked as the keys of a configuration are, see tuningOf().
  lsm: z.unknown().optional(),
};

const schema = z.strictObject({
  engine: z.string().optional(),
  keyEncoding: z.enum(['utf8', 'binary', 'tuple']).optional(),
  valueEncoding: z.unknown().optional(),
  createIfMissing: z.boolean().default(true),
  ...tuningShape,
});

const tuningSchema = z.object(tuningShape);

function parse<S extends z.ZodType>(shape: S, options: unknown, what: string): z.output<S> {
  const parsed = shape.safeParse(options);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => {
    const where = issue.path.length > 0 ? `option ${issue.path.join('.')} of ${what}` : `options of ${what}`;
    return `${where}: ${issue.message}`;
  });
  throw invalidArgument(problems.join('; '));
}

function given<T extends object>(fields: T): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}

/** @throws ERR_INVALID_ARG naming every wrong option, and those that are each right but contradict each other */
function tuningOf({ lsm, ...others }: Omit<EngineTuning, 'lsm'> & { readonly lsm?: unknown }): EngineTuning {
  if (lsm === undefined) return given(others);
  const findings = new Findings();
  findings.addNode(nodeOfOptions(lsm), sectionAt('store').members.get('lsm') as ConfigSection);
  findings.throwProblems();
  const { store = {} } = nested(findings.given) as { store?: { lsm?: LsmTuning } };
  const tuning = store.lsm ?? {};
  resolveLsmOptions(tuning);
  return given({ ...others, lsm: tuning });
}

/** @throws ERR_INVALID_ARG naming every wrong option */
export function resolveSpaceOptions(options: unknown): {
  readonly spec: SpaceSpec;
  readonly valueEncoding: ValueEncoding | undefined;
  readonly createIfMissing: boolean;
} {
  const { engine, keyEncoding, valueEncoding, createIfMissing, ...tuning } = parse(schema, options ?? {}, 'a space');
  if (engine !== undefined) engineNamed(engine);
  const encoding = valueEncoding === undefined ? undefined : resolveValueEncoding(valueEncoding);
  const spec = given({ engine, keyEncoding, valueEncoding: encoding?.name, tuning: tuningOf(tuning) });
  return { spec, valueEncoding: encoding, createIfMissing };
}

/** @throws ERR_INVALID_ARG */
export function resolveTuning(options: unknown): EngineTuning {
  return tuningOf(parse(tuningSchema, options ?? {}, 'the engine'));
}

/** @throws ERR_INVALID_ARG */
export function checkSpaceName(name: unknown): string {
  if (typeof name !== 'string') throw invalidArgument(`the name of a space must be a string, got ${typeof name}`);
  const bytes = Buffer.byteLength(name);
  if (bytes < 1 || bytes > SPACE_NAME_BYTES_MAX) {
    throw invalidArgument(`the name of a space takes 1 to ${SPACE_NAME_BYTES_MAX} bytes of UTF-8, got ${bytes}`);
  }
  if (!isWellFormed(name) || /\p{Cc}/u.test(name)) {
    throw invalidArgument('the name of a space must be well-formed text without control characters');
  }
  return name;
}

type Plain = string | number | readonly string[] | undefined;

/** Options as one level: lsm.tableBytes. */
function flat(tuning: EngineTuning): [option: string, value: Plain][] {
  const { lsm = {}, ...others } = tuning;
  const ofTree = Object.entries(lsm as Readonly<Record<string, Plain>>);
  return [...Object.entries(others), ...ofTree.map(([option, value]): [string, Plain] => [`lsm.${option}`, value])];
}

function plainOf(value: Plain): string | number | null {
  return typeof value === 'object' ? value.join(', ') : (value ?? null);
}

/** @throws ERR_OPTION_CONFLICT naming what was given and differs from what the space has */
export function checkSpaceAgreement(record: SpaceRecord, spec: SpaceSpec): void {
  const { tuning, ...fields } = spec;
  const tuned = new Map(flat(record.tuning));
  const pairs: [string, Plain, Plain][] = [
    ...Object.entries(fields).map(([option, value]): [string, Plain, Plain] => [
      option,
      record[option as keyof typeof fields],
      value,
    ]),
    ...flat(tuning).map(([option, value]): [string, Plain, Plain] => [option, tuned.get(option), value]),
  ];
  for (const [option, stored, value] of pairs) {
    if (value === undefined || isDeepStrictEqual(value, stored)) continue;
    throw new ConcordError(
      'ERR_OPTION_CONFLICT',
      `the space ${record.name} has ${option} ${stored === undefined ? 'by default' : String(stored)}, not ${String(value)}`,
      { space: record.name, option, stored: plainOf(stored), given: plainOf(value) },
    );
  }
}
