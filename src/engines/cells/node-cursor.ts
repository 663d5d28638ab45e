/**
 * Cursors of engines whose nodes stand in key order: an engine adds how to come to a node and to its neighbours.
 *
 * At Infinity a cursor shows of each key what was published when it came to it, at least the pinned publication. A locked engine's cursor holds
 * the read latch from seek() to release(). Threads: any, one per thread, between pin and unpin.
 */
import type { UnitId } from '../../shared/memory/arena.js';
import { publishedSeqOf } from '../btree/meta.js';
import { KEY_BYTES_MAX, copyBytes } from '../btree/page.js';
import type { EngineCursor } from '../engine.js';
import { corruptNode, nodeOffset, nodeSegment, readCell, type NodeCell } from './node.js';
import { NodeView } from './node-view.js';

export abstract class NodeCursor extends NodeView implements EngineCursor {
  valid = false;
  #descriptor: UnitId = 0;
  readonly #cell: NodeCell = { flags: 0, keyAt: 0, keyLength: 0, bodyAt: 0, valueLength: 0 };
  #key: Uint8Array | undefined;

  /** First node with a key ≥ the given one, in reverse the last with one ≤ it (undefined: from the end); 0 if there is none. */
  protected abstract seekNode(
    descriptor: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    reverse: boolean,
  ): number;
  /** The neighbour of the node that was reached last, 0 if there is none. */
  protected abstract stepNode(forward: boolean): number;

  seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
    atMs: number,
  ): boolean {
    this.valid = false;
    const descriptor = this.enterRow(metaUnit, atSeq, atMs);
    if (descriptor === 0) return false;
    this.#descriptor = descriptor;
    this.acquire(descriptor);
    return this.#settle(this.seekNode(descriptor, key, keyLength, reverse), !reverse);
  }

  next(): boolean {
    return this.valid && this.#settle(this.stepNode(true), true);
  }

  prev(): boolean {
    return this.valid && this.#settle(this.stepNode(false), false);
  }

  override release(): void {
    this.valid = false;
    super.release();
  }

  setRange(_low: Uint8Array | undefined, _high: Uint8Array | undefined): void {
    // Walks in key order come to a range by themselves.
  }

  /** To the first node from this one on that has something to show. */
  #settle(node: number, forward: boolean): boolean {
    let at = node;
    while (at !== 0) {
      const version = this.versionAt(at);
      if (version !== 0 && this.show(version)) break;
      const metaUnit = version === 0 ? this.newerMeta() : 0;
      if (metaUnit === 0) {
        at = this.stepNode(forward);
        continue;
      }
      this.events.retried();
      this.limitSeq = publishedSeqOf(this.arena, metaUnit);
      this.limitMeta = metaUnit;
      // The same group may have replaced the node, or taken it out: what is published is what stands there now.
      at = this.#seekAgain(at, forward);
    }
    return (this.valid = at !== 0);
  }

  /** To the node with the key of the given one, or the next in the direction. */
  #seekAgain(node: number, forward: boolean): number {
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const { keyAt, keyLength } = readCell(u8, node, nodeOffset(node) + this.cellOffset(node), this.#cell);
    if (keyLength > KEY_BYTES_MAX) throw corruptNode(node, `a key of ${keyLength} bytes`);
    const key = (this.#key ??= new Uint8Array(KEY_BYTES_MAX));
    copyBytes(u8, keyAt, keyLength, key, 0);
    return this.seekNode(this.#descriptor, key, keyLength, !forward);
  }
}
