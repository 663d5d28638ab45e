/**
 * Point reads of engines with nodes: an engine adds its search. Threads: any, one per thread, between pin and unpin.
 */
import type { UnitId } from '../../shared/memory/arena.js';
import type { EngineReader } from '../engine.js';
import { NodeView } from './node-view.js';

export abstract class NodeReader extends NodeView implements EngineReader {
  /** Address of the newest version of the key, 0 if the structure has none. A locked engine's latch is held. */
  protected abstract lookup(descriptor: UnitId, key: Uint8Array, keyLength: number): number;

  find(metaUnit: UnitId, key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean {
    let meta = metaUnit;
    for (;;) {
      const descriptor = this.enterRow(meta, atSeq, atMs);
      if (descriptor === 0) return false;
      this.acquire(descriptor);
      const head = this.lookup(descriptor, key, keyLength);
      if (head === 0) return false;
      const version = this.versionAt(head);
      if (version !== 0) return this.show(version);
      meta = this.newerMeta();
      if (meta === 0) return false;
      this.events.retried();
    }
  }
}
