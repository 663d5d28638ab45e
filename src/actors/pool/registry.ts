/**
 * The registry of spaces: one document in shared memory, so that every thread of a pool resolves a name to a space at once, without asking.
 *
 *   line 0    sequence lock
 *   line 1    version: grows with each document · length of the document, bytes
 *   128       the document: JSON, an array of SpaceRecord
 *
 * Must hold: the version is stored after its document. A thread that reads a new version finds that document or a newer one; one that reads a document
 * under the old version only reads it twice.
 * Threads: written by the host's; read by any.
 */
import { assert } from '../../shared/assert.js';
import { toOwnerId } from '../../shared/memory/lock-owner.js';
import { SEQLOCK_WORDS, SeqLock } from '../../shared/memory/seqlock.js';
import type { SpaceRecord } from './manifest.js';

/** Named spaces of a store: their rows, with those of engines being filled, must fit the meta page of a shard. */
export const SPACES_MAX = 400;

const VERSION_WORD = SEQLOCK_WORDS;
const LENGTH_WORD = SEQLOCK_WORDS + 1;
const DOCUMENT_BYTE = 2 * SEQLOCK_WORDS * 4;
/** Twice what SPACES_MAX spaces with the longest names take. The operating system commits what is used. */
const REGISTRY_BYTES = 1 << 20;

const HOST = toOwnerId(1);

export class SpaceRegistry {
  readonly sab: SharedArrayBuffer;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Buffer;
  readonly #lock: SeqLock;
  #seen = 0;
  readonly #byName = new Map<string, SpaceRecord>();
  readonly #byId = new Map<number, SpaceRecord>();

  constructor(sab: SharedArrayBuffer) {
    this.sab = sab;
    this.#words = new Int32Array(sab);
    this.#bytes = Buffer.from(sab);
    this.#lock = new SeqLock(this.#words, 0, HOST);
  }

  static create(spaces: readonly SpaceRecord[]): SpaceRegistry {
    const registry = new SpaceRegistry(new SharedArrayBuffer(REGISTRY_BYTES));
    registry.publish(spaces);
    return registry;
  }

  /** Host only. */
  publish(spaces: readonly SpaceRecord[]): void {
    const document = Buffer.from(JSON.stringify(spaces));
    assert(DOCUMENT_BYTE + document.length <= this.#bytes.length, 'registry: the spaces do not fit');
    this.#lock.write(() => {
      this.#words[LENGTH_WORD] = document.length;
      this.#bytes.set(document, DOCUMENT_BYTE);
    });
    Atomics.add(this.#words, VERSION_WORD, 1);
  }

  /** Changes when a space comes, goes or changes its engine. Without ordering guarantees, for the hot path. */
  get version(): number {
    return this.#words[VERSION_WORD]!;
  }

  #sync(): void {
    const version = Atomics.load(this.#words, VERSION_WORD);
    if (version === this.#seen) return;
    const document = this.#lock.read(() => {
      const length = Math.min(this.#words[LENGTH_WORD]!, this.#bytes.length - DOCUMENT_BYTE);
      return this.#bytes.toString('utf8', DOCUMENT_BYTE, DOCUMENT_BYTE + length);
    });
    this.#byName.clear();
    this.#byId.clear();
    for (const record of JSON.parse(document) as SpaceRecord[]) {
      this.#byName.set(record.name, record);
      this.#byId.set(record.id, record);
    }
    this.#seen = version;
  }

  named(name: string): SpaceRecord | undefined {
    this.#sync();
    return this.#byName.get(name);
  }

  withId(id: number): SpaceRecord | undefined {
    this.#sync();
    return this.#byId.get(id);
  }

  /** All, the default one included, in the order of their creation. */
  all(): SpaceRecord[] {
    this.#sync();
    return [...this.#byId.values()];
  }
}
