/**
 * Results as text. A peer's cell ends in how many times as fast as the peer ConcordKV is in that row; `*` marks a figure that was
 * disturbed by other processes.
 */
export function formatConfiguration({ machine, versions, scale, seed, revision, date, quick, recordBytes }) {
  const engines = Object.entries(versions).map(([engine, version]) => `${engine} ${version}`);
  return [
    `${date}  revision ${revision}${quick ? '  QUICK: a smoke signal, not a measurement' : ''}`,
    `node ${machine.node}, ${machine.cores} x ${machine.cpu}, ${machine.memoryGiB} GiB, ${machine.kernel}, disk ${machine.disk}`,
    ...(machine.tunables === undefined ? [] : [`GLIBC_TUNABLES=${machine.tunables}`]),
    `${engines.join(', ')}`,
    `N = ${scale.n.toLocaleString('en')}, ${recordBytes.key}-byte keys, ${recordBytes.value}-byte values, seed ${seed}, median of ${scale.rounds} alternating rounds`,
  ].join('\n');
}

export function formatWorkload(name, question, rows) {
  const unit = rows[0].unit;
  const parts = [`\n## ${name}: ${question}\n`];
  parts.push(table(name, rows, unit === 'ms' ? 'ms' : 'per s', (row, contender) => rateCell(row, contender)));
  const latencies = rows.flatMap((row) => {
    const kinds = [...new Set(row.contenders.flatMap(({ latency }) => Object.keys(latency)))];
    return kinds.map((kind) => ({ ...row, row: `${row.row}: ${kind}`, kind }));
  });
  if (latencies.length > 0) {
    parts.push(table('latency p50/p99/p99.9', latencies, '', ({ kind }, { latency }) => latencyCell(latency[kind])));
  }
  for (const { row, contenders } of rows) {
    for (const { label, extras } of contenders) {
      if (extras[0]?.writesPerSecond !== undefined) {
        const writes = extras.map(({ writesPerSecond }) => count(writesPerSecond)).join(', ');
        parts.push(`${row}: ${label}: the writer's puts per s in each round: ${writes}`);
      }
    }
  }
  return parts.join('\n');
}

export function formatMemory(memory) {
  const lines = [];
  for (const [row, engines] of Object.entries(memory)) {
    for (const [engine, { rawBytes, usedBytes, highWaterBytes, rssGrowthBytes, diskBytes }] of Object.entries(
      engines,
    )) {
      const times = (bytes) => (bytes === undefined ? '-' : `${mebi(bytes)} (${(bytes / rawBytes).toFixed(2)}x)`);
      const rss = rssGrowthBytes === undefined ? '-' : mebi(rssGrowthBytes);
      lines.push([row, engine, mebi(rawBytes), times(usedBytes), times(highWaterBytes), rss, times(diskBytes)]);
    }
  }
  if (lines.length === 0) return '';
  return `\n## memory and disk, MiB\n\n${grid([['after', 'engine', 'raw', 'shared memory used', 'its high water', 'RSS growth', 'disk'], ...lines])}`;
}

export function formatTargets(verdicts, n) {
  const lines = verdicts.map(({ name, need, measured, verdict }) => [name, need, figure(measured), verdict]);
  const note = n === 1_000_000 ? '' : ` (meant for N = 1,000,000; this run has ${n.toLocaleString('en')})`;
  return `\n## targets${note}\n\n${grid([['target', 'needed', 'measured', ''], ...lines])}`;
}

function table(title, rows, unit, cell) {
  const labels = [...new Set(rows.flatMap(({ contenders }) => contenders.map(({ label }) => label)))];
  const header = [title, ...labels.map((label) => (unit === '' ? label : `${label}, ${unit}`))];
  const lines = rows.map((row) => [
    row.row,
    ...labels.map((label) => {
      const contender = row.contenders.find((candidate) => candidate.label === label);
      return contender === undefined ? '-' : cell(row, contender);
    }),
  ]);
  return `${grid([header, ...lines])}\n`;
}

function rateCell({ unit, contenders }, { engine, median, disturbed }) {
  const ours = contenders.find((contender) => contender.engine === 'concordkv');
  const shown = (unit === 'ms' ? median.toFixed(0) : count(median)) + (disturbed ? '*' : '');
  if (engine === 'concordkv' || ours === undefined) return shown;
  const faster = unit === 'ms' ? median / ours.median : ours.median / median;
  return `${shown} (${faster.toFixed(2)}x)`;
}

function latencyCell(latency) {
  if (latency === undefined) return '-';
  return [latency.p50Us, latency.p99Us, latency.p999Us].map(duration).join('/');
}

function grid(lines) {
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  const format = (line) =>
    `| ${line.map((text, column) => (column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column]))).join(' | ')} |`;
  const rule = `|${widths.map((width, column) => (column === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`;
  return [format(lines[0]), rule, ...lines.slice(1).map(format)].join('\n');
}

function count(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(2)}M`;
  if (number >= 1e5) return `${(number / 1e3).toFixed(0)}k`;
  if (number >= 1e3) return `${(number / 1e3).toFixed(1)}k`;
  return number.toFixed(0);
}

function duration(us) {
  if (us >= 9950) return `${(us / 1000).toFixed(0)}ms`;
  if (us >= 995) return `${(us / 1000).toFixed(1)}ms`;
  return us >= 9.95 ? us.toFixed(0) : us.toFixed(1);
}

function figure(number) {
  if (number === undefined) return '-';
  return Math.abs(number) >= 100 ? number.toFixed(0) : number.toFixed(2);
}

function mebi(bytes) {
  return (bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0);
}
