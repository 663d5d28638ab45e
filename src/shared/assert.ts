/**
 * Invariants. A broken one stops the actor that met it (the supervisor restarts it from its log), because wrong data is
 * worse than no data. Never used on input: bad input gets a coded error. Threads: any.
 */
import { ConcordError } from './errors.js';

export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new ConcordError('ERR_INTERNAL', `invariant broken: ${message}`);
}
