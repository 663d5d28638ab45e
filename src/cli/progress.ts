/**
 * How far long work is, on stderr: one bar that redraws itself on a terminal, a plain line every few seconds otherwise.
 *
 * It never reads from stdin and takes no keys: data may come through stdin, and Ctrl-C must stay a SIGINT that closes the store in
 * order. Threads: main thread only.
 */
import { formatCount } from './output.js';

const REDRAW_MS = 100;
const LINE_MS = 5_000;
const BAR_CELLS = 30;

export interface Progress {
  /** fraction: 0…1, undefined when the size of the work is unknown. */
  update(fraction: number | undefined, count: number): void;
  done(): void;
}

const SILENT: Progress = { update: () => undefined, done: () => undefined };

export function startProgress(label: string, unit: string, silent: boolean): Progress {
  if (silent) return SILENT;
  const isTerminal = process.stderr.isTTY && process.env['TERM'] !== 'dumb';
  const startedMs = performance.now();
  let drawnMs = isTerminal ? -Infinity : startedMs;
  let isDrawn = false;
  return {
    update(fraction, count) {
      const nowMs = performance.now();
      if (nowMs - drawnMs < (isTerminal ? REDRAW_MS : LINE_MS)) return;
      drawnMs = nowMs;
      const rate = `${formatCount(count)} ${unit}, ${formatCount((count / Math.max(1, nowMs - startedMs)) * 1000)}/s`;
      const percent = fraction === undefined ? '' : `${Math.min(100, Math.floor(fraction * 100))} %  `;
      if (!isTerminal) {
        process.stderr.write(`${label}: ${percent}${rate}\n`);
        return;
      }
      const filled = Math.min(BAR_CELLS, Math.floor((fraction ?? 0) * BAR_CELLS));
      const bar = fraction === undefined ? '' : `${'█'.repeat(filled)}${'░'.repeat(BAR_CELLS - filled)} `;
      process.stderr.write(`\r\x1b[2K${label} ${bar}${percent}${rate}`);
      isDrawn = true;
    },
    done() {
      if (isDrawn) process.stderr.write('\r\x1b[2K');
    },
  };
}
