/**
 * Configuration that changes while it is in use: what is different, what of it can take effect at once, and a watch on the file.
 *
 *   file changed, reload()  ──▶  load  ──▶  compare with what runs  ──▶  live keys: apply()   others: onRestartNeeded()
 *                                └─ wrong ──▶ onError(); what runs goes on unchanged
 *
 * Reloads run one after another. Threads: any.
 */
import { stat } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { valueAt } from './check.js';
import type { Origin } from './check.js';
import { CONFIG_KEYS } from './keys.js';
import type { ConfigKey } from './keys.js';
import type { LoadedConfig } from './load.js';
import { jsonOfValue } from './text.js';

export interface ConfigChange {
  readonly key: ConfigKey;
  readonly from: unknown;
  readonly to: unknown;
  /** Of the new value. */
  readonly origin: Origin;
}

/** What differs between two configurations. */
export function compareConfigs(from: LoadedConfig, to: LoadedConfig): ConfigChange[] {
  const changes: ConfigChange[] = [];
  for (const key of CONFIG_KEYS) {
    const [before, after] = [valueAt(from.values, key), valueAt(to.values, key)];
    if (!isDeepStrictEqual(before, after))
      changes.push({ key, from: before, to: after, origin: to.origins[key.path]! });
  }
  return changes;
}

/** The new values of a section as its owner takes them: { expiry: { batch: 5 } }. */
export function changedOptions(
  changes: readonly ConfigChange[],
  section: 'store' | 'http' | 'log',
): Record<string, unknown> {
  const options: Record<string, unknown> = {};
  for (const { key, to } of changes) {
    const [first, ...segments] = key.segments;
    if (first !== section) continue;
    const name = segments.pop()!;
    let at = options;
    for (const segment of segments) at = (at[segment] ??= {}) as Record<string, unknown>;
    at[name] = to;
  }
  return options;
}

/** A change for a log: plain data, secrets hidden. */
export function describeChange({ key, from, to }: ConfigChange): { key: string; from: unknown; to: unknown } {
  return { key: key.path, from: jsonOfValue(key, from), to: jsonOfValue(key, to) };
}

export interface ConfigWatcherOptions {
  /** What is in effect at the start. */
  readonly running: LoadedConfig;
  /** Loads anew, from the same places. */
  readonly load: () => LoadedConfig;
  /** Puts live keys into effect; resolves with those it could not. If it rejects none of them counts as changed, and the next reload gives it all of them again. */
  readonly apply: (changes: readonly ConfigChange[]) => Promise<readonly ConfigChange[]>;
  readonly onApplied: (changes: readonly ConfigChange[]) => void;
  /** Keys that differ from what runs and stay so. Told once per new value. */
  readonly onRestartNeeded: (changes: readonly ConfigChange[]) => void;
  readonly onError: (error: unknown) => void;
  readonly onWarning?: (warning: string) => void;
  /** How often the file is looked at. */
  readonly intervalMs?: number;
}

const INTERVAL_MS = 1000;

export class ConfigWatcher {
  readonly #options: ConfigWatcherOptions;
  /** As last loaded: what has been told already. */
  #loaded: LoadedConfig;
  /** By path: the value in effect. */
  readonly #running: Map<string, unknown>;
  #file: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #reloading: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(options: ConfigWatcherOptions) {
    this.#options = options;
    this.#loaded = options.running;
    this.#running = new Map(CONFIG_KEYS.map((key) => [key.path, valueAt(options.running.values, key)]));
    this.#watch(options.running.file);
  }

  /**
   * Looked at rather than subscribed to: that survives editors that replace the file, links that are switched (as container platforms do), file
   * systems without notification, and a file that is gone for a while. The first look always loads: the file may have changed between being
   * read and being watched. Does not keep the process alive.
   */
  #watch(file: string | undefined): void {
    if (file === this.#file) return;
    clearInterval(this.#timer);
    this.#file = file;
    if (file === undefined) return;
    let seen: string | undefined;
    let isLooking = false;
    const look = async (): Promise<void> => {
      const now = await stampOf(file);
      // Noted before it is loaded: a change while it is loaded shows at the next look.
      if (now !== seen) {
        seen = now;
        await this.reload();
      }
    };
    this.#timer = setInterval(() => {
      if (isLooking) return;
      isLooking = true;
      void look().finally(() => (isLooking = false));
    }, this.#options.intervalMs ?? INTERVAL_MS).unref();
  }

  /** Loads and applies now. Resolves when that is done, whether it went well or not. */
  reload(): Promise<void> {
    this.#reloading = this.#reloading.then(() => this.#reload()).catch(this.#options.onError);
    return this.#reloading;
  }

  async #reload(): Promise<void> {
    if (this.#isClosed) return;
    const loaded = this.#options.load();
    for (const warning of loaded.warnings) {
      if (!this.#loaded.warnings.includes(warning)) this.#options.onWarning?.(warning);
    }
    const news = new Set(compareConfigs(this.#loaded, loaded).map(({ key }) => key.path));
    this.#loaded = loaded;
    this.#watch(loaded.file);

    const live: ConfigChange[] = [];
    const held: ConfigChange[] = [];
    for (const key of CONFIG_KEYS) {
      const [from, to] = [this.#running.get(key.path), valueAt(loaded.values, key)];
      if (isDeepStrictEqual(from, to)) continue;
      const change = { key, from, to, origin: loaded.origins[key.path]! };
      if (key.changes === 'live') live.push(change);
      else held.push(change);
    }
    const refused = live.length === 0 ? [] : await this.#options.apply(live);
    const applied = live.filter((change) => !refused.includes(change));
    for (const { key, to } of applied) this.#running.set(key.path, to);
    if (applied.length > 0) this.#options.onApplied(applied);
    const untold = [...held, ...refused].filter(({ key }) => news.has(key.path));
    if (untold.length > 0) this.#options.onRestartNeeded(untold);
  }

  /** Ends the watch; a reload under way goes on to its end. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#watch(undefined);
    await this.#reloading;
  }
}

/** Differs after every change of a file that a file system can show; 'none' if there is none that can be read. */
async function stampOf(file: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
  } catch {
    return 'none';
  }
}
