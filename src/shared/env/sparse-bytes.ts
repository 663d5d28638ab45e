/**
 * The content of a file in memory: growable, with holes that read as zeros, and cheap to clone.
 *
 *   groups of 512 chunks ──► chunks of 4 KiB
 *
 * A clone shares groups and chunks with its origin; whoever changes a shared one first copies it. So a thousand crash states of a large file
 * cost what they change.
 *
 * Invariants: bytes beyond `size` are zero. Only chunks and groups that carry the current `owner` are written in place, and clone()
 * gives both sides a new one. Threads: one; instances that share chunks belong to the same thread.
 */
export const CHUNK_BYTES = 4096;

const GROUP_CHUNKS = 512;

interface Group {
  owner: object;
  readonly chunks: (Uint8Array | undefined)[];
  readonly chunkOwners: (object | undefined)[];
}

export class SparseBytes {
  private groups: (Group | undefined)[] = [];
  private owner: object = {};
  private allocatedCount = 0;
  private length = 0;

  get size(): number {
    return this.length;
  }

  /** Bytes that take space: holes do not. */
  get allocatedBytes(): number {
    return this.allocatedCount * CHUNK_BYTES;
  }

  clone(): SparseBytes {
    const copy = new SparseBytes();
    this.owner = {};
    copy.groups = this.groups.slice();
    copy.allocatedCount = this.allocatedCount;
    copy.length = this.length;
    return copy;
  }

  /** Bytes read, short only at the end. */
  read(into: Uint8Array, start: number, length: number, position: number): number {
    const count = Math.max(0, Math.min(length, this.length - position));
    let done = 0;
    while (done < count) {
      const at = position + done;
      const within = at % CHUNK_BYTES;
      const step = Math.min(count - done, CHUNK_BYTES - within);
      const chunk = this.chunkAt(Math.floor(at / CHUNK_BYTES));
      if (chunk === undefined) into.fill(0, start + done, start + done + step);
      else into.set(chunk.subarray(within, within + step), start + done);
      done += step;
    }
    return count;
  }

  /** How many bytes of new space a write of this range needs. */
  missingBytes(length: number, position: number): number {
    if (length === 0) return 0;
    let missing = 0;
    const last = Math.floor((position + length - 1) / CHUNK_BYTES);
    for (let index = Math.floor(position / CHUNK_BYTES); index <= last; index++) {
      if (this.chunkAt(index) === undefined) missing += CHUNK_BYTES;
    }
    return missing;
  }

  write(from: Uint8Array, start: number, length: number, position: number): void {
    let done = 0;
    while (done < length) {
      const at = position + done;
      const within = at % CHUNK_BYTES;
      const step = Math.min(length - done, CHUNK_BYTES - within);
      this.writableChunk(Math.floor(at / CHUNK_BYTES)).set(from.subarray(start + done, start + done + step), within);
      done += step;
    }
    if (length > 0) this.length = Math.max(this.length, position + length);
  }

  /** Cuts, or grows with a hole. */
  resize(size: number): void {
    if (size < this.length) {
      const kept = Math.ceil(size / CHUNK_BYTES);
      const end = Math.min(Math.ceil(this.length / CHUNK_BYTES), this.groups.length * GROUP_CHUNKS);
      for (let index = kept; index < end; index++) {
        if (this.groups[Math.floor(index / GROUP_CHUNKS)] === undefined) {
          // A hole of a whole group: on to the last chunk of it.
          index += GROUP_CHUNKS - 1 - (index % GROUP_CHUNKS);
          continue;
        }
        if (this.chunkAt(index) === undefined) continue;
        const group = this.writableGroup(Math.floor(index / GROUP_CHUNKS));
        group.chunks[index % GROUP_CHUNKS] = undefined;
        this.allocatedCount--;
      }
      const within = size % CHUNK_BYTES;
      if (within > 0 && this.chunkAt(kept - 1) !== undefined) this.writableChunk(kept - 1).fill(0, within);
    }
    this.length = size;
  }

  private chunkAt(index: number): Uint8Array | undefined {
    return this.groups[Math.floor(index / GROUP_CHUNKS)]?.chunks[index % GROUP_CHUNKS];
  }

  private writableChunk(index: number): Uint8Array {
    const group = this.writableGroup(Math.floor(index / GROUP_CHUNKS));
    const within = index % GROUP_CHUNKS;
    const chunk = group.chunks[within];
    if (chunk !== undefined && group.chunkOwners[within] === this.owner) return chunk;
    const own = new Uint8Array(CHUNK_BYTES);
    if (chunk === undefined) this.allocatedCount++;
    else own.set(chunk);
    group.chunks[within] = own;
    group.chunkOwners[within] = this.owner;
    return own;
  }

  private writableGroup(index: number): Group {
    const group = this.groups[index];
    if (group !== undefined && group.owner === this.owner) return group;
    const own: Group = {
      owner: this.owner,
      chunks: group?.chunks.slice() ?? new Array<undefined>(GROUP_CHUNKS).fill(undefined),
      chunkOwners: group?.chunkOwners.slice() ?? new Array<undefined>(GROUP_CHUNKS).fill(undefined),
    };
    this.groups[index] = own;
    return own;
  }
}
