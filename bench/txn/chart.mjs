/**
 * The chart of the contention rows as SVG: throughput above, aborts below, over Zipf's exponent on the left and over the shards touched on the right.
 * Threads: any.
 */
const WIDTH = 860;
const HEIGHT = 560;
const PLOT_WIDTH = 330;
const PLOT_HEIGHT = 180;
const LEFTS = [80, 490];
const TOPS = [80, 320];
const COLORS = { optimistic: '#1f6feb', pessimistic: '#d1570d' };
const TICKS = 4;

const escape = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

function text(x, y, content, more = '') {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${escape(String(content))}</text>`;
}

/** The least of 1, 2, 2.5 or 5 times a power of ten that is not below. */
function niceCeiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((nice) => nice >= value);
}

function short(value) {
  return value >= 1000 ? `${Number((value / 1000).toPrecision(3))}k` : String(Number(value.toPrecision(3)));
}

/** One plot: points { x, mode, y } at equal steps of x. */
function plot(left, top, { title, points, top: topValue, label, axis }) {
  const xs = [...new Set(points.map(({ x }) => x))];
  const xAt = (x) => left + (PLOT_WIDTH * (xs.indexOf(x) + 0.5)) / xs.length;
  const yAt = (y) => top + PLOT_HEIGHT * (1 - y / topValue);
  const parts = [text(left, top - 12, title, 'font-weight="bold"')];
  for (let tick = 0; tick <= TICKS; tick++) {
    const value = (topValue * tick) / TICKS;
    const y = yAt(value).toFixed(1);
    parts.push(
      `<line x1="${left}" x2="${left + PLOT_WIDTH}" y1="${y}" y2="${y}" stroke="${tick === 0 ? '#555' : '#ddd'}"/>`,
      text(left - 8, Number(y) + 4, label(value), 'text-anchor="end"'),
    );
  }
  for (const x of xs) parts.push(text(xAt(x), top + PLOT_HEIGHT + 18, x, 'text-anchor="middle"'));
  parts.push(text(left + PLOT_WIDTH / 2, top + PLOT_HEIGHT + 36, axis, 'text-anchor="middle" fill="#555"'));
  for (const [mode, color] of Object.entries(COLORS)) {
    const line = points.filter((point) => point.mode === mode);
    const path = line.map(({ x, y }) => `${xAt(x).toFixed(1)},${yAt(y).toFixed(1)}`).join(' ');
    parts.push(`<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"/>`);
    for (const { x, y } of line)
      parts.push(`<circle cx="${xAt(x).toFixed(1)}" cy="${yAt(y).toFixed(1)}" r="3.5" fill="${color}"/>`);
  }
  return parts.join('\n');
}

/** points: { zipf, shards }, each { x, mode, perSecond, aborted }[]. */
export function drawContention({ zipf, shards }, subtitle) {
  const columns = [
    { points: zipf, axis: "exponent of Zipf's law" },
    { points: shards, axis: 'shards touched, of 8' },
  ];
  const parts = [];
  for (const [column, { points, axis }] of columns.entries()) {
    const rates = points.map(({ x, mode, perSecond }) => ({ x, mode, y: perSecond }));
    const aborts = points.map(({ x, mode, aborted }) => ({ x, mode, y: aborted * 100 }));
    const left = LEFTS[column];
    const top = niceCeiling(Math.max(...rates.map(({ y }) => y)));
    const topPercent = Math.min(100, niceCeiling(Math.max(...aborts.map(({ y }) => y), 0.1)));
    parts.push(
      plot(left, TOPS[0], { title: 'transactions per second', points: rates, top, label: short, axis }),
      plot(left, TOPS[1], { title: 'attempts aborted, %', points: aborts, top: topPercent, label: short, axis }),
    );
  }
  const legend = Object.entries(COLORS).map(
    ([mode, color], index) =>
      `<circle cx="${WIDTH - 250 + index * 120}" cy="24" r="5" fill="${color}"/>${text(WIDTH - 240 + index * 120, 28, mode)}`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>
${text(20, 28, 'Transactions under contention', 'font-size="16" font-weight="bold"')}
${text(20, 46, subtitle, 'fill="#555"')}
${legend.join('\n')}
${parts.join('\n')}
</svg>
`;
}
