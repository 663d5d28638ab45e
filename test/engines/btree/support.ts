/** A tree, its arena, and a model beside it: every version ever put, so that any snapshot's answer can be told. */
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { BTreeWriter, type BTreeOptions } from '../../../dist/engines/btree/writer.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';
import { expect } from '../../support/expect.js';

export interface Version {
  seq: number;
  /** Undefined: a delete. */
  value: Buffer | undefined;
  /** 0: never. */
  expiresAt: number;
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
  /** Of every read: what expires is judged by it. */
  nowMs = 1_000_000;

  constructor(options: BTreeOptions = {}, memoryBytes = 16 << 20) {
    this.arena = new ArenaWriter(createArena({ memoryBytes }));
    this.reader = new ArenaReader(this.arena.layout);
    this.tree = new BTreeWriter(this.arena, 0, options);
    this.find = new BTreeReader(this.reader, 0, 0);
    this.cursor = new BTreeCursor(this.reader, 0, 0);
  }

  put(key: Uint8Array, value: Uint8Array, expiresAt = 0): void {
    const seq = ++this.seq;
    const existed = this.tree.put(key, 0, key.length, value, 0, value.length, seq, expiresAt);
    this.#expectReplaced(hex(key), existed);
    this.#record(hex(key), { seq, value: Buffer.from(value), expiresAt });
  }

  del(key: Uint8Array): void {
    const seq = ++this.seq;
    const existed = this.tree.del(key, 0, key.length, seq);
    this.#expectReplaced(hex(key), existed);
    if (existed) this.#record(hex(key), { seq, value: undefined, expiresAt: 0 });
  }

  removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
  ): void {
    const seq = ++this.seq;
    const keys = this.liveKeys().filter(
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
    for (const key of keys) this.#record(key, { seq, value: undefined, expiresAt: 0 });
  }

  snapshot(): number {
    this.snapshots.push(this.seq);
    this.setSnapshots();
    return this.seq;
  }

  releaseSnapshot(index: number): void {
    this.snapshots.splice(index, 1);
    this.setSnapshots();
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

  /** As readers see it: without what has expired. */
  visible(key: string, seq: number): Version | undefined {
    const version = this.at(key, seq);
    return version === undefined || (version.expiresAt !== 0 && version.expiresAt <= this.nowMs) ? undefined : version;
  }

  keysAt(seq: number): string[] {
    return [...this.model.keys()].filter((key) => this.visible(key, seq) !== undefined).sort();
  }

  /** Expired ones included. */
  liveKeys(): string[] {
    return [...this.model.keys()].filter((key) => this.live(key) !== undefined).sort();
  }

  /** Publishes, then compares everything that readers can see with the model, for the newest state and every snapshot. */
  verify(): void {
    expect(checkArena(this.arena)).toEqual([]);
    this.publish();
    expect(this.tree.counts().liveEntries).toBe(this.liveKeys().length);
    for (const atSeq of [Infinity, ...this.snapshots]) {
      const keys = this.keysAt(atSeq);
      const meta = this.reader.pin(0);
      const forwards: string[] = [];
      for (let more = this.cursor.seek(meta, undefined, 0, atSeq, false, this.nowMs); more; more = this.cursor.next()) {
        const key = Buffer.alloc(this.cursor.keyLength);
        this.cursor.copyKey(key, 0);
        const version = this.visible(hex(key), atSeq)!;
        expect(version).toBeDefined();
        expect(this.cursor.seq).toBe(version.seq);
        expect(this.cursor.expiresAt).toBe(version.expiresAt);
        expect(this.cursor.copyValue().equals(version.value!)).toBe(true);
        forwards.push(hex(key));
      }
      expect(forwards).toEqual(keys);
      const backwards: string[] = [];
      for (let more = this.cursor.seek(meta, undefined, 0, atSeq, true, this.nowMs); more; more = this.cursor.prev()) {
        const key = Buffer.alloc(this.cursor.keyLength);
        this.cursor.copyKey(key, 0);
        expect(this.cursor.seq).toBe(this.at(hex(key), atSeq)!.seq);
        backwards.push(hex(key));
      }
      expect(backwards.reverse()).toEqual(keys);
      expect(this.cursor.seek(meta, undefined, 0, atSeq, false, this.nowMs) ? this.cursor.count() : 0).toBe(
        keys.length,
      );
      expect(this.cursor.seek(meta, undefined, 0, atSeq, true, this.nowMs) ? this.cursor.count() : 0).toBe(keys.length);
      for (const key of this.model.keys()) {
        const bytes = Buffer.from(key, 'hex');
        const version = this.visible(key, atSeq);
        expect(this.find.find(meta, bytes, bytes.length, atSeq, this.nowMs)).toBe(version !== undefined);
        if (atSeq === Infinity) {
          expect(this.tree.versionOf(bytes, 0, bytes.length, this.nowMs)).toBe(version?.seq ?? 0);
          expect(this.tree.foundExpiresAt).toBe(version?.expiresAt ?? 0);
          expect(this.tree.versionOf(bytes, 0, bytes.length, 0)).toBe(this.live(key)?.seq ?? 0);
        }
        if (version === undefined) continue;
        expect(this.find.seq).toBe(version.seq);
        expect(this.find.valueLength).toBe(version.value!.length);
        expect(this.find.copyValue().equals(version.value!)).toBe(true);
      }
      this.reader.unpin(0);
    }
  }

  #expectReplaced(key: string, existed: boolean): void {
    const replaced = this.live(key);
    expect(existed).toBe(replaced !== undefined);
    const expires = replaced !== undefined && replaced.expiresAt !== 0;
    expect(this.tree.replacedExpiresAt).toBe(expires ? replaced.expiresAt : 0);
    expect(this.tree.replacedSeq).toBe(expires ? replaced.seq : 0);
  }

  #record(key: string, version: Version): void {
    const versions = this.model.get(key);
    if (versions === undefined) this.model.set(key, [version]);
    else versions.push(version);
  }

  setSnapshots(): void {
    const sorted = Float64Array.from(this.snapshots).sort();
    this.tree.setSnapshots(sorted, sorted.length);
  }
}
