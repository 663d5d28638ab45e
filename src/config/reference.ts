/** The keys for people: the table of docs/configuration.md and the commented file `concordkv config init` writes. Threads: any. */
import { CONFIG_KEYS, CONFIG_TREE, isSection } from './keys.js';
import type { ConfigKey, ConfigSection } from './keys.js';
import { CHANGE_TEXT } from './schema.js';
import { textOfValue } from './text.js';

/** The default as text; of a key that depends on the machine, what it depends on. */
function defaultText(key: ConfigKey): string {
  return key.unset ?? textOfValue(key, key.defaultValue);
}

const cell = (text: string): string => text.replaceAll('|', '\\|');

/** Markdown: one table for each section. */
export function configReference(): string {
  const parts: string[] = [];
  for (const section of CONFIG_TREE.members.values()) {
    if (!isSection(section)) continue;
    const rows = CONFIG_KEYS.filter(({ segments }) => segments[0] === section.path).map((key) => {
      const names = [`\`${key.path}\``, `\`${key.variable}\``, ...(key.flag === undefined ? [] : [`\`${key.flag}\``])];
      const facts = [names.join('<br>'), key.description, key.allowed, defaultText(key), key.changes];
      return `| ${facts.map(cell).join(' | ')} |`;
    });
    parts.push(
      [
        `### ${section.path}`,
        '',
        '| key, variable, flag | what it is | allowed | default | changes |',
        '|---|---|---|---|---|',
        ...rows,
      ].join('\n'),
    );
  }
  return `${parts.join('\n\n')}\n`;
}

const WIDTH = 110;

/** Words in lines of at most WIDTH characters. */
function wrapped(text: string, indent: string): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && indent.length + line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

function explanation(key: ConfigKey): string {
  const names = [key.variable, ...(key.flag === undefined ? [] : [key.flag])].join(', ');
  const first = key.description[0]!.toUpperCase() + key.description.slice(1);
  return `${first}. Allowed: ${key.allowed}. Default: ${defaultText(key)}. Changes ${CHANGE_TEXT[key.changes]}. (${names})`;
}

/** A value to start from, for keys without a default. */
const EXAMPLES: Readonly<Record<string, unknown>> = {
  'store.directory': './data',
  'store.engine': 'btree',
  'store.budgetBytes': '128MiB',
  'store.memtableBytes': '64MiB',
  'store.order': 64,
  'store.pageBytes': '4KiB',
  'store.keyEncoding': 'utf8',
  'store.valueEncoding': 'utf8',
  'store.backgroundThreads': 1,
  'store.lsm.compaction': 'leveled',
  'store.lsm.memtableBytes': '64MiB',
  'store.lsm.frozenMax': 3,
  'store.lsm.compression': 'lz4',
  'store.lsm.blockBytes': '4KiB',
  'store.lsm.restartInterval': 8,
  'store.lsm.bitsPerKey': 10,
  'store.lsm.prefixFilterBytes': 8,
  'store.lsm.verifyBlocks': 'always',
  'store.lsm.tableBytes': '16MiB',
  'store.lsm.level0Runs': 4,
  'store.lsm.slowdownRuns': 12,
  'store.lsm.stopRuns': 24,
  'store.lsm.slowdownDebtBytes': '4GiB',
  'store.lsm.stopDebtBytes': '16GiB',
  'store.lsm.levelBytes': '256MiB',
  'store.lsm.levelFactor': 10,
  'store.lsm.tieredRunsMin': 4,
  'store.lsm.tieredSpacePercent': 200,
  'store.lsm.fifoBytes': '1GiB',
  'store.lsm.fifoTtlMs': '24h',
  'store.lsm.blobValueBytes': '4KiB',
  'store.lsm.blobFileBytes': '64MiB',
  'store.lsm.blobGarbagePercent': 50,
};

function exampleOf(key: ConfigKey): unknown {
  const value = EXAMPLES[key.path] ?? key.defaultValue;
  if (typeof value === 'number' && (key.kind === 'bytes' || key.kind === 'ms')) return textOfValue(key, value);
  return value;
}

const HEAD =
  'ConcordKV configuration. Every key is optional; "concordkv config print" shows what is in effect and why.';

/** A file with every key in a comment, which means what no file means. */
export function configTemplate(form: 'yaml' | 'json'): string {
  const isYaml = form === 'yaml';
  const mark = isYaml ? '#' : '//';
  // Two marks for words, one for what may be uncommented.
  const prose = isYaml ? '## ' : '// ';
  const lines: string[] = isYaml ? [`## ${HEAD}`] : [`// ${HEAD}`, '{'];
  const add = (section: ConfigSection, depth: number): void => {
    const indent = '  '.repeat(depth);
    for (const [name, member] of section.members) {
      if (isSection(member)) {
        if (lines.at(-1) !== '{') lines.push('');
        lines.push(isYaml ? `${indent}${name}:` : `${indent}"${name}": {`);
        add(member, depth + 1);
        if (!isYaml) lines.push(`${indent}},`);
        continue;
      }
      for (const line of wrapped(explanation(member), `${indent}${prose}`)) lines.push(`${indent}${prose}${line}`);
      const value = JSON.stringify(exampleOf(member));
      lines.push(isYaml ? `${indent}${mark} ${name}: ${value}` : `${indent}${mark} "${name}": ${value},`);
    }
  };
  add(CONFIG_TREE, isYaml ? 0 : 1);
  if (!isYaml) lines.push('}');
  return `${lines.join('\n')}\n`;
}
