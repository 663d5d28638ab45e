/**
 * Any engine, its arena, and a model beside it: every version ever put, so that the answer at any number and time can be told. Readers see it through
 * a view of their own, as other threads do.
 *
 * ENGINES=a,b limits the tests to some engines; SEED=n replays a random one.
 */
import { createHash } from 'node:crypto';
import '../../dist/engines/built-in.js';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import {
  engineNamed,
  engineNames,
  newSweep,
  type Engine,
  type EngineCursor,
  type EngineReader,
  type EngineTuning,
  type EngineWriter,
} from '../../dist/engines/engine.js';
import { markRows } from '../../dist/engines/store/space-table.js';
import { ArenaReader, ArenaWriter, createArena, type ArenaLayout } from '../../dist/shared/memory/arena.js';
import { expect } from '../support/expect.js';

export const ENGINES: readonly string[] = process.env['ENGINES']?.split(',') ?? engineNames();
export const ORDERED = ENGINES.filter((name) => engineNamed(name).isOrdered);

/** Of a random test: SEED or a new one, printed so that a failure can be replayed. */
export function newSeed(file: string): number {
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`replay: SEED=${seed} npx vitest run test/engines/${file}`);
  return seed;
}

export interface Version {
  readonly seq: number;
  /** Undefined: a delete. */
  readonly value: Buffer | undefined;
  /** 0: never. */
  readonly expiresAt: number;
  /** The entry in a picture of an iteration. */
  readonly line: string;
}

export interface SceneOptions {
  readonly memoryBytes?: number;
  readonly tuning?: EngineTuning;
  readonly row?: number;
  readonly spaceId?: number;
  /** An arena that several scenes share; the first one made it. */
  readonly beside?: EngineScene;
}

export const hex = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');

/** Equal lines are byte-identical entries: long values stand as length and digest. */
function lineOf(key: string, seq: number, expiresAt: number, value: Buffer): string {
  const shown =
    value.length <= 48 ? value.toString('hex') : `${value.length}:${createHash('md5').update(value).digest('hex')}`;
  return `${key} ${seq} ${expiresAt} ${shown}`;
}

const SLOT = 1;

export class EngineScene {
  readonly engine: Engine;
  readonly layout: ArenaLayout;
  readonly row: number;
  readonly spaceId: number;
  readonly tuning: EngineTuning;
  arena: ArenaWriter;
  writer: EngineWriter;
  readonly view: ArenaReader;
  readonly reader: EngineReader;
  readonly cursor: EngineCursor;
  seq = 0;
  publishedSeq = 0;
  snapshots: number[] = [];
  /** Key in hex → versions, oldest first. */
  readonly model = new Map<string, Version[]>();
  #sortedKeys: string[] = [];
  /** Of every read: what expires is judged by it. */
  nowMs = 1_000_000;

  constructor(name: string, options: SceneOptions = {}) {
    this.engine = engineNamed(name);
    this.row = options.row ?? 0;
    this.spaceId = options.spaceId ?? 0;
    this.tuning = options.tuning ?? {};
    this.layout = options.beside?.layout ?? createArena({ memoryBytes: options.memoryBytes ?? 16 << 20 });
    this.arena = options.beside?.arena ?? new ArenaWriter(this.layout);
    this.writer = this.engine.openWriter(this.arena, this.row, this.spaceId, this.tuning);
    this.view = new ArenaReader(this.layout);
    this.reader = this.engine.openReader(this.view, this.row, this.spaceId, SLOT);
    this.cursor = this.engine.openCursor(this.view, this.row, this.spaceId, SLOT);
  }

  // ---- writes ---------------------------------------------------------------------------------------------------------------------------

  begin(isAtomic = true): void {
    const sorted = Float64Array.from(this.snapshots).sort();
    this.writer.setSnapshots(sorted, sorted.length);
    this.writer.beginGroup(this.publishedSeq, isAtomic);
  }

  publish(): void {
    publishTrees(this.arena, this.seq);
    this.publishedSeq = this.seq;
    this.writer.endGroup();
  }

  group(work: () => void, isAtomic = true): void {
    this.begin(isAtomic);
    work();
    this.publish();
  }

  put(key: Uint8Array, value: Uint8Array, expiresAt = 0): boolean {
    const seq = this.seq + 1;
    // Bytes never stand at the start of what the writer is given: offsets count.
    const keyBytes = Buffer.concat([Buffer.from('?!'), key, Buffer.from('!')]);
    const valueBytes = Buffer.concat([Buffer.from('#'), value, Buffer.from('##')]);
    const existed = this.writer.put(keyBytes, 2, key.length, valueBytes, 1, value.length, seq, expiresAt);
    this.seq = seq;
    this.#expectReplaced(hex(key), existed);
    this.#record(hex(key), seq, Buffer.from(value), expiresAt);
    return existed;
  }

  del(key: Uint8Array): boolean {
    const seq = this.seq + 1;
    const keyBytes = Buffer.concat([Buffer.from('?'), key]);
    const existed = this.writer.del(keyBytes, 1, key.length, seq);
    this.seq = seq;
    this.#expectReplaced(hex(key), existed);
    if (existed) this.#record(hex(key), seq, undefined, 0);
    return existed;
  }

  /** [low, high), undefined: open. */
  removeRange(low?: Uint8Array, high?: Uint8Array): number {
    const seq = ++this.seq;
    const [lowHex, highHex] = [low && hex(low), high && hex(high)];
    const keys = this.liveKeys().filter(
      (key) => (lowHex === undefined || key >= lowHex) && (highHex === undefined || key < highHex),
    );
    const result = this.writer.removeRange(low, true, high, false, Infinity, seq);
    expect(result).toEqual({ removed: keys.length, done: true, resumeKey: undefined });
    for (const key of keys) this.#record(key, seq, undefined, 0);
    return keys.length;
  }

  snapshot(): number {
    this.snapshots.push(this.publishedSeq);
    return this.publishedSeq;
  }

  releaseSnapshot(index: number): void {
    this.snapshots.splice(index, 1);
  }

  /** Sweeps to the end, a group per slice. */
  sweep(budget = 50): number {
    const state = newSweep();
    for (let slices = 0; !state.done; slices++) {
      expect(slices).toBeLessThan(100_000);
      this.group(() => {
        this.writer.sweep(state, budget);
      });
    }
    return state.removedCells;
  }

  /** The thread of the writer is gone, with what it had not published. Another takes over. */
  die(others: readonly EngineScene[] = []): void {
    const arena = ArenaWriter.adopt(this.layout, markRows);
    for (const scene of [this, ...others]) scene.#openOn(arena);
  }

  #openOn(arena: ArenaWriter): void {
    this.arena = arena;
    this.writer = this.engine.openWriter(arena, this.row, this.spaceId, this.tuning);
    this.seq = this.publishedSeq;
    for (const [key, versions] of this.model) {
      while (versions.length > 0 && versions.at(-1)!.seq > this.publishedSeq) versions.pop();
      if (versions.length === 0) this.model.delete(key);
    }
    this.#sortedKeys = [];
  }

  // ---- the model ------------------------------------------------------------------------------------------------------------------------

  /** The version that counts at that number, a delete or one that has expired included. */
  at(key: string, seq: number): Version | undefined {
    const versions = this.model.get(key);
    if (versions === undefined) return undefined;
    for (let index = versions.length - 1; index >= 0; index--) if (versions[index]!.seq <= seq) return versions[index];
    return undefined;
  }

  /** Undefined too if it is a delete. */
  live(key: string, seq = Infinity): Version | undefined {
    const version = this.at(key, seq);
    return version?.value === undefined ? undefined : version;
  }

  /** As readers see it. */
  visible(key: string, seq: number): Version | undefined {
    const version = this.live(key, seq);
    return version === undefined || (version.expiresAt !== 0 && version.expiresAt <= this.nowMs) ? undefined : version;
  }

  /** In the state being built, expired ones included. */
  liveKeys(): string[] {
    return this.#keys().filter((key) => this.live(key) !== undefined);
  }

  /** Sorted: all that ever were. Keys are only forgotten by die(). */
  #keys(): readonly string[] {
    if (this.#sortedKeys.length !== this.model.size) this.#sortedKeys = [...this.model.keys()].sort();
    return this.#sortedKeys;
  }

  /** Entries that readers see at that number, in key order. */
  modelLines(seq: number, low?: Uint8Array, high?: Uint8Array): string[] {
    const lines: string[] = [];
    const [lowHex, highHex] = [low && hex(low), high && hex(high)];
    for (const key of this.#keys()) {
      if ((lowHex !== undefined && key < lowHex) || (highHex !== undefined && key >= highHex)) continue;
      const version = this.visible(key, seq);
      if (version !== undefined) lines.push(version.line);
    }
    return lines;
  }

  // ---- reads ----------------------------------------------------------------------------------------------------------------------------

  /** Entries of [low, high) as the cursor shows them at atSeq (Infinity: what is published). */
  lines(atSeq: number, reverse: boolean, low?: Uint8Array, high?: Uint8Array): string[] {
    const { cursor } = this;
    const lines: string[] = [];
    this.#letReadersIn();
    const metaUnit = this.view.pin(SLOT);
    try {
      cursor.setRange(low, high);
      const from = reverse ? high : low;
      cursor.seek(metaUnit, from, from?.length ?? 0, atSeq, reverse, this.nowMs);
      // The high bound is exclusive.
      if (reverse && high !== undefined && cursor.valid && cursor.compareKey(high, high.length) === 0) cursor.prev();
      while (cursor.valid) {
        const end = reverse ? low : high;
        if (end !== undefined) {
          const order = cursor.compareKey(end, end.length);
          if (reverse ? order < 0 : order >= 0) break;
        }
        const key = Buffer.alloc(cursor.keyLength);
        same(cursor.copyKey(key, 0), key.length, 'length of the key');
        const value = cursor.copyValue();
        same(value.length, cursor.valueLength, 'length of the value');
        lines.push(lineOf(hex(key), cursor.seq, cursor.expiresAt, value));
        if (lines.length > 1_000_000) expect.fail('an iteration without end');
        if (reverse) cursor.prev();
        else cursor.next();
      }
    } finally {
      cursor.release();
      this.view.unpin(SLOT);
    }
    return lines;
  }

  /** The writer, in this thread, may hold the latch of engines that are changed in place: counts() gives it back. */
  #letReadersIn(): void {
    this.writer.counts();
  }

  /** The value as readers get it, undefined if it is absent. */
  get(key: Uint8Array, atSeq = Infinity): Buffer | undefined {
    return this.find(key, atSeq)?.value;
  }

  find(key: Uint8Array, atSeq = Infinity): { value: Buffer; seq: number; expiresAt: number } | undefined {
    const { reader } = this;
    this.#letReadersIn();
    const metaUnit = this.view.pin(SLOT);
    try {
      if (!reader.find(metaUnit, key, key.length, atSeq, this.nowMs)) return undefined;
      same(reader.compareKey(key, key.length), 0, 'order of what was found');
      same(reader.keyLength, key.length, 'length of the key');
      const value = reader.copyValue();
      same(value.length, reader.valueLength, 'length of the value');
      return { value, seq: reader.seq, expiresAt: reader.expiresAt };
    } finally {
      reader.release();
      this.view.unpin(SLOT);
    }
  }

  /** Compares what readers see now, in the newest published state and at every snapshot, with the model of what is published. */
  verifyReads(): void {
    for (const snapshot of [Infinity, ...this.snapshots]) {
      const seq = Math.min(snapshot, this.publishedSeq);
      const expected = this.modelLines(seq);
      expectSame(this.lines(snapshot, false), expected, `at ${snapshot}`);
      expectSame(this.lines(snapshot, true).reverse(), expected, `at ${snapshot}, backwards`);
      for (const key of this.model.keys()) {
        const found = this.find(Buffer.from(key, 'hex'), snapshot);
        const line = found && lineOf(key, found.seq, found.expiresAt, found.value);
        same(line, this.visible(key, seq)?.line, `at ${snapshot}`);
      }
    }
  }

  /** The writer's own view of the state being built: counts, versions, soundness. */
  verifyWriter(): void {
    expect(this.writer.check()).toEqual([]);
    const keys = this.liveKeys();
    let keyBytes = 0;
    let valueBytes = 0;
    for (const [key] of this.model) {
      const bytes = Buffer.from(key, 'hex');
      const live = this.live(key);
      const seq = this.visible(key, Infinity)?.seq ?? 0;
      same(this.writer.versionOf(bytes, 0, bytes.length, this.nowMs), seq, `version of ${key}`);
      same(this.writer.versionOf(bytes, 0, bytes.length, 0), live?.seq ?? 0, `version of ${key} at any time`);
      same(this.writer.foundExpiresAt, live?.expiresAt ?? 0, `expiry of ${key}`);
      if (live !== undefined) {
        keyBytes += bytes.length;
        valueBytes += live.value!.length;
      }
    }
    expect(this.writer.counts()).toMatchObject({
      liveEntries: keys.length,
      liveKeyBytes: keyBytes,
      liveValueBytes: valueBytes,
      tag: this.writer.tag,
    });
    expect(this.writer.counts().cells).toBeGreaterThanOrEqual(keys.length);
  }

  verify(): void {
    this.verifyWriter();
    this.verifyReads();
  }

  /** Every version as a visit shows it, in slices of the budget. */
  visited(budget: number): { lines: string[]; slices: number } {
    const lines: string[] = [];
    let slices = 0;
    let position: Uint8Array | undefined;
    do {
      position = this.writer.visitVersions(
        position,
        budget,
        (key, keyLength, value, valueLength, seq, expiresAt, isTombstone) => {
          const keyHex = hex(key.subarray(0, keyLength));
          lines.push(
            isTombstone
              ? `${keyHex} ${seq} deleted`
              : lineOf(keyHex, seq, expiresAt, Buffer.from(value.subarray(0, valueLength))),
          );
        },
      );
      expect(++slices).toBeLessThan(1_000_000);
    } while (position !== undefined);
    return { lines, slices };
  }

  #expectReplaced(key: string, existed: boolean): void {
    const replaced = this.live(key);
    same(existed, replaced !== undefined, `${key} existed`);
    const expires = replaced !== undefined && replaced.expiresAt !== 0;
    same(this.writer.replacedExpiresAt, expires ? replaced.expiresAt : 0, `expiry of what ${key} replaced`);
    same(this.writer.replacedSeq, expires ? replaced.seq : 0, `version of what ${key} replaced`);
  }

  #record(key: string, seq: number, value: Buffer | undefined, expiresAt: number): void {
    const line = value === undefined ? `${key} ${seq} deleted` : lineOf(key, seq, expiresAt, value);
    const versions = this.model.get(key);
    const version = { seq, value, expiresAt, line };
    if (versions === undefined) this.model.set(key, [version]);
    else versions.push(version);
  }
}

/** expect() costs microseconds: only where there is something to say. */
function same<T>(told: T, expected: T, what: string): void {
  if (told !== expected) expect(told, what.length > 200 ? `${what.slice(0, 200)}…` : what).toBe(expected);
}

/** toEqual() on thousands of lines takes seconds: only where they differ. */
export function expectSame(lines: readonly string[], expected: readonly string[], what: string): void {
  if (lines.length === expected.length && lines.every((line, index) => line === expected[index])) return;
  expect(lines, what).toEqual(expected);
}

export const keyOf = (index: number): Buffer => Buffer.from(`key ${String(index).padStart(6, '0')}`);
