/** A tree, its arena, and a model beside it: every version ever put, so that any snapshot's answer can be told. */
import { expect } from 'vitest';
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { BTreeWriter, type BTreeOptions } from '../../../dist/engines/btree/writer.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';

export interface Version {
  seq: number;
  /** Undefined: a delete. */
  value: Buffer | undefined;
}

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

export class Scene {
  arena: ArenaWriter;
  reader: ArenaReader;
  tree: BTreeWriter;
  find: BTreeReader;
  cursor: BTreeCursor;
  seq = 0;
  meta = 0;
  /** Key in hex → versions, oldest first. */
  readonly model = new Map<string, Version[]>();
  snapshots: number[] = [];
  keepNewest = false;

  constructor(options: BTreeOptions = {}, memoryBytes = 16 << 20) {
    this.arena = new ArenaWriter(createArena({ memoryBytes }));
    this.reader = new ArenaReader(this.arena.layout);
    this.tree = new BTreeWriter(this.arena, 0, options);
    this.find = new BTreeReader(this.reader);
    this.cursor = new BTreeCursor(this.reader, 0);
  }

  put(key: Uint8Array, value: Uint8Array): void {
    const seq = ++this.seq;
    const existed = this.tree.put(key, 0, key.length, value, 0, value.length, seq);
    expect(existed).toBe(this.live(hex(key)) !== undefined);
    this.#record(hex(key), { seq, value: Buffer.from(value) });
  }

  del(key: Uint8Array): void {
    const seq = ++this.seq;
    const existed = this.tree.del(key, 0, key.length, seq);
    expect(existed).toBe(this.live(hex(key)) !== undefined);
    if (existed) this.#record(hex(key), { seq, value: undefined });
  }

  removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
  ): void {
    const seq = ++this.seq;
    const keys = this.keysAt(Infinity).filter(
      (key) =>
        (low === undefined || key > hex(low) || (lowInclusive && key === hex(low))) &&
        (high === undefined || key < hex(high) || (highInclusive && key === hex(high))),
    );
    let from: Uint8Array | undefined = low;
    let inclusive = lowInclusive;
    let removed = 0;
    for (let slices = 0; ; slices++) {
      expect(slices).toBeLessThan(10_000);
      const result = this.tree.removeRange(from, inclusive, high, highInclusive, limit, seq);
      expect(result.removed).toBeLessThanOrEqual(limit);
      removed += result.removed;
      if (result.done) break;
      from = result.resumeKey!;
      inclusive = true;
    }
    expect(removed).toBe(keys.length);
    for (const key of keys) this.#record(key, { seq, value: undefined });
  }

  snapshot(): number {
    this.snapshots.push(this.seq);
    this.#setSnapshots();
    return this.seq;
  }

  releaseSnapshot(index: number): void {
    this.snapshots.splice(index, 1);
    this.#setSnapshots();
  }

  setKeepNewest(keep: boolean): void {
    this.keepNewest = keep;
    this.#setSnapshots();
  }

  publish(): void {
    this.meta = publishTrees(this.arena, this.seq);
  }

  live(key: string): Version | undefined {
    return this.at(key, Infinity);
  }

  at(key: string, seq: number): Version | undefined {
    const versions = this.model.get(key);
    if (versions === undefined) return undefined;
    for (let index = versions.length - 1; index >= 0; index--) {
      if (versions[index]!.seq <= seq) return versions[index]!.value === undefined ? undefined : versions[index];
    }
    return undefined;
  }

  keysAt(seq: number): string[] {
    return [...this.model.keys()].filter((key) => this.at(key, seq) !== undefined).sort();
  }

  /** Publishes, then compares everything that readers can see with the model, for the newest state and every snapshot. */
  verify(): void {
    expect(checkArena(this.arena)).toEqual([]);
    this.publish();
    const counts = this.tree.stats();
    const liveKeys = this.keysAt(Infinity);
    expect(counts.liveEntries).toBe(liveKeys.length);
    for (const atSeq of [Infinity, ...this.snapshots]) {
      const keys = this.keysAt(atSeq);
      const meta = this.reader.pin(0);
      const forwards: string[] = [];
      for (let more = this.cursor.seek(meta, undefined, 0, atSeq, false); more; more = this.cursor.next()) {
        const key = Buffer.alloc(this.cursor.keyLength);
        this.cursor.copyKey(key, 0);
        const version = this.at(hex(key), atSeq)!;
        expect(version).toBeDefined();
        expect(this.cursor.seq).toBe(version.seq);
        expect(this.cursor.copyValue().equals(version.value!)).toBe(true);
        forwards.push(hex(key));
      }
      expect(forwards).toEqual(keys);
      const backwards: string[] = [];
      for (let more = this.cursor.seek(meta, undefined, 0, atSeq, true); more; more = this.cursor.prev()) {
        const key = Buffer.alloc(this.cursor.keyLength);
        this.cursor.copyKey(key, 0);
        expect(this.cursor.seq).toBe(this.at(hex(key), atSeq)!.seq);
        backwards.push(hex(key));
      }
      expect(backwards.reverse()).toEqual(keys);
      expect(this.cursor.seek(meta, undefined, 0, atSeq, false) ? this.cursor.count() : 0).toBe(keys.length);
      expect(this.cursor.seek(meta, undefined, 0, atSeq, true) ? this.cursor.count() : 0).toBe(keys.length);
      for (const key of this.model.keys()) {
        const bytes = Buffer.from(key, 'hex');
        const version = this.at(key, atSeq);
        expect(this.find.find(meta, 0, bytes, bytes.length, atSeq)).toBe(version !== undefined);
        if (version === undefined) continue;
        expect(this.find.seq).toBe(version.seq);
        expect(this.find.valueLength).toBe(version.value!.length);
        expect(this.find.copyValue().equals(version.value!)).toBe(true);
        if (atSeq === Infinity) expect(this.tree.versionOf(bytes, 0, bytes.length)).toBe(version.seq);
      }
      this.reader.unpin(0);
    }
  }

  #record(key: string, version: Version): void {
    const versions = this.model.get(key);
    if (versions === undefined) this.model.set(key, [version]);
    else versions.push(version);
  }

  #setSnapshots(): void {
    const sorted = Float64Array.from(this.snapshots).sort();
    this.tree.setSnapshots(sorted, sorted.length, this.keepNewest);
  }
}
