/** A thread that dies between any two stores that others see, played in one thread: the n-th Atomics.store throws instead. */
export class Killed extends Error {}

/** Runs `work`; true if it came to the store with that index, and ended there. `work` runs no further, its writer must not be used again. */
export function killedAtStore(index: number, work: () => void): boolean {
  const store = Atomics.store.bind(Atomics) as typeof Atomics.store;
  let stores = 0;
  const counting = (...args: Parameters<typeof Atomics.store>): number => {
    if (stores++ === index) throw new Killed(`at store ${index}`);
    return store(...args);
  };
  Object.defineProperty(Atomics, 'store', { value: counting, configurable: true, writable: true });
  try {
    work();
    return false;
  } catch (error) {
    if (error instanceof Killed) return true;
    throw error;
  } finally {
    Object.defineProperty(Atomics, 'store', { value: store, configurable: true, writable: true });
  }
}
