/**
 * The gates of a shard's spaces: a write on a space whose engine has files of its own, or is on its way to one, waits where they cannot keep up.
 *
 * Must hold: what moves a space passes both gates. A change of the flow is told also when nobody writes: see look().
 * Threads: the shard's thread only.
 */
import type { EngineBackground } from '../../engines/engine.js';
import type { WriteFlow } from '../../engines/lsm/types.js';
import type { Space, SpaceTable } from '../../engines/store/space-table.js';
import { NO_STALLS, WriteGate, type StallFigures } from './write-gate.js';

const LOOK_MS = 50;

/** Engines without files of their own take whatever fits. */
export function mustAskFlow(space: Space): boolean {
  return space.engine.background !== undefined || space.building !== undefined;
}

export class WriteGates {
  readonly #spaces: SpaceTable;
  readonly #onFlow: (spaceId: number, flow: WriteFlow) => void;
  readonly #gates = new Map<EngineBackground, WriteGate>();
  #lookDueMs = 0;

  /** onFlow: a space takes writes more slowly, not at all, or freely again. */
  constructor(spaces: SpaceTable, onFlow: (spaceId: number, flow: WriteFlow) => void) {
    this.#spaces = spaces;
    this.#onFlow = onFlow;
  }

  /** Of one engine of a space. */
  gateOf(space: Space, background: EngineBackground): WriteGate {
    let gate = this.#gates.get(background);
    if (gate === undefined) {
      gate = new WriteGate(background, (flow) => {
        this.#onFlow(space.id, flow);
      });
      this.#gates.set(background, gate);
    }
    return gate;
  }

  /** How long a write on the space is to be held, ms; 0: files keep up, see took(). @throws ERR_DISK_FULL */
  waitMs(space: Space): number {
    const { engine, building } = space;
    const nowMs = performance.now();
    let waitMs = 0;
    if (engine.background !== undefined) waitMs = this.gateOf(space, engine.background).waitMs(nowMs);
    const copy = building?.engine.background;
    if (copy !== undefined) waitMs = Math.max(waitMs, this.gateOf(space, copy).waitMs(nowMs));
    return waitMs;
  }

  /** A write of so many bytes was taken. */
  took(space: Space, bytes: number): void {
    const { engine, building } = space;
    if (engine.background !== undefined) this.#gates.get(engine.background)?.took(bytes);
    if (building?.engine.background !== undefined) this.#gates.get(building.engine.background)?.took(bytes);
  }

  /** Now and then, so that a change is told also when nobody writes. Gates of engines that are gone go. */
  look(nowMs: number): void {
    if (this.#gates.size === 0 || nowMs < this.#lookDueMs) return;
    this.#lookDueMs = nowMs + LOOK_MS;
    const inUse = new Set<EngineBackground | undefined>();
    for (const { engine, building } of this.#spaces.all) inUse.add(engine.background).add(building?.engine.background);
    for (const [background, gate] of this.#gates) {
      if (inUse.has(background)) gate.look(nowMs);
      else this.#gates.delete(background);
    }
  }

  /** The next look() is one: an engine's files have changed. */
  lookAgain(): void {
    this.#lookDueMs = 0;
  }

  figuresOf(background: EngineBackground): StallFigures {
    return this.#gates.get(background)?.figures() ?? NO_STALLS;
  }
}
