/**
 * A strict reader of the Prometheus text format, version 0.0.4: every line must be as the format says, HELP and TYPE before the samples of a family,
 * the samples of a family together, no sample twice, names and labels by the rules, counters and histograms as they must be.
 */
export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Family {
  readonly name: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly samples: Sample[];
}

const NAME = /^[a-z][a-z0-9_]*[a-z0-9]$/;
const SUFFIXES: Readonly<Record<Family['type'], readonly string[]>> = {
  counter: [''],
  gauge: [''],
  histogram: ['_bucket', '_sum', '_count'],
};

function fail(line: number, what: string): never {
  throw new Error(`line ${line + 1}: ${what}`);
}

function parseSample(text: string, line: number): Sample {
  const head = /^([a-z_0-9]+)/.exec(text);
  if (head === null) fail(line, 'no name');
  const name = head[1]!;
  let rest = text.slice(name.length);
  const labels: Record<string, string> = {};
  if (rest.startsWith('{')) {
    rest = rest.slice(1);
    for (;;) {
      const label = /^([a-z][a-z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|\} )/.exec(rest);
      if (label === null) fail(line, `labels: ${rest}`);
      const [whole, key, value, end] = label as unknown as [string, string, string, string];
      if (key in labels) fail(line, `label ${key} twice`);
      labels[key] = value.replace(/\\(.)/g, (_, escaped: string) => (escaped === 'n' ? '\n' : escaped));
      rest = rest.slice(whole.length);
      if (end !== ',') break;
    }
  } else if (rest.startsWith(' ')) rest = rest.slice(1);
  else fail(line, `after the name: ${rest}`);
  if (!/^-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|\+?Inf|NaN)$/.test(rest)) fail(line, `value ${rest}`);
  return { name, labels, value: rest.endsWith('Inf') ? Infinity : Number(rest) };
}

export function parseExposition(text: string): Map<string, Family> {
  if (!text.endsWith('\n')) throw new Error('the last line has no end');
  const families = new Map<string, Family>();
  const seen = new Set<string>();
  let family: Family | undefined;
  let help: { name: string; text: string } | undefined;
  for (const [line, content] of text.slice(0, -1).split('\n').entries()) {
    if (content === '') continue;
    const comment = /^# (HELP|TYPE) ([^ ]+) (.+)$/.exec(content);
    if (comment !== null) {
      const [, kind, name, rest] = comment as unknown as [string, string, string, string];
      if (!NAME.test(name)) fail(line, `name ${name}`);
      if (kind === 'HELP') {
        if (families.has(name)) fail(line, `${name} twice`);
        help = { name, text: rest };
        continue;
      }
      if (help?.name !== name) fail(line, `TYPE of ${name} without its HELP`);
      if (!['counter', 'gauge', 'histogram'].includes(rest)) fail(line, `type ${rest}`);
      if ((rest === 'counter') !== name.endsWith('_total')) fail(line, `a ${rest} named ${name}`);
      if (/_(bucket|sum|count|info)$/.test(name)) fail(line, `a reserved suffix: ${name}`);
      family = { name, type: rest as Family['type'], help: help.text, samples: [] };
      families.set(name, family);
      continue;
    }
    if (content.startsWith('#')) fail(line, `a comment: ${content}`);
    const sample = parseSample(content, line);
    const owner = family;
    if (owner === undefined || !SUFFIXES[owner.type].some((suffix) => sample.name === owner.name + suffix))
      fail(line, `${sample.name} is not of the family before it`);
    const id = sample.name + JSON.stringify(Object.entries(sample.labels).sort());
    if (seen.has(id)) fail(line, `${id} twice`);
    seen.add(id);
    if (owner.type !== 'gauge' && !(sample.value >= 0)) fail(line, `${sample.name} is ${sample.value}`);
    owner.samples.push(sample);
  }
  for (const each of families.values()) if (each.type === 'histogram') checkHistogram(each);
  return families;
}

function checkHistogram({ name, samples }: Family): void {
  const series = new Map<string, { bounds: number[]; counts: number[]; count?: number; sum?: number }>();
  for (const sample of samples) {
    const { le, ...labels } = sample.labels;
    const key = JSON.stringify(Object.entries(labels).sort());
    const one = series.get(key) ?? { bounds: [], counts: [] };
    series.set(key, one);
    if (sample.name === `${name}_sum`) one.sum = sample.value;
    else if (sample.name === `${name}_count`) one.count = sample.value;
    else {
      if (le === undefined) throw new Error(`${name}: a bucket without le`);
      one.bounds.push(le === '+Inf' ? Infinity : Number(le));
      one.counts.push(sample.value);
    }
  }
  for (const [key, { bounds, counts, count, sum }] of series) {
    const ascends = (list: number[], orEqual: boolean): boolean =>
      list.every((value, i) => i === 0 || value > list[i - 1]! || (orEqual && value === list[i - 1]));
    if (!ascends(bounds, false) || bounds.at(-1) !== Infinity)
      throw new Error(`${name}${key}: bounds ${bounds.join()}`);
    if (!ascends(counts, true) || counts.at(-1) !== count) throw new Error(`${name}${key}: counts ${counts.join()}`);
    if (sum === undefined) throw new Error(`${name}${key}: no sum`);
  }
}
