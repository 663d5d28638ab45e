/**
 * Control calls between the host and its actors: Comlink over a MessagePort, with coded errors.
 *
 * Structured clone drops `code`, so a call answers with a Reply: a value, or an ErrorRecord that is rebuilt on the other side.
 * Data never travels here: rings and shared memory carry it. Threads: any; one channel has two ends.
 */
import { MessagePort } from 'node:worker_threads';
import * as Comlink from 'comlink';
import { ConcordError, toErrorRecord, type ErrorRecord } from '../../shared/errors.js';

export type Reply<T> = { readonly value: T } | { readonly error: ErrorRecord };

/** The other end's view of a control, an object whose methods may be called from there: every method is asynchronous and throws ConcordErrors. */
export type RemoteControl<C> = {
  [K in keyof C]: C[K] extends (...args: infer A) => infer R ? (...args: A) => Promise<Awaited<R>> : never;
};

/** Offers `control` on the port. */
export function exposeControl(control: object, port: MessagePort): void {
  const call = async (method: string, args: unknown[]): Promise<Reply<unknown>> => {
    try {
      const target = (control as Record<string, unknown>)[method];
      if (typeof target !== 'function') throw new ConcordError('ERR_INTERNAL', `no control method ${method}`);
      const value: unknown = await (target as (...a: unknown[]) => unknown).apply(control, args);
      return { value };
    } catch (error) {
      return { error: toErrorRecord(error) };
    }
  };
  Comlink.expose({ call }, port);
}

/**
 * Calls the control on the other end of the port. A call in flight keeps the process alive, an idle port does not. When the other end goes
 * away, calls in flight and later ones reject with ERR_CLOSED.
 */
export function remoteControl<C extends object>(port: MessagePort): RemoteControl<C> {
  const remote = Comlink.wrap<{ call(method: string, args: unknown[]): Promise<Reply<unknown>> }>(port);
  const inFlight = new Set<(error: Error) => void>();
  const gone = (): ConcordError => new ConcordError('ERR_CLOSED', 'the other thread is gone');
  let isGone = false;
  port.unref();
  port.once('close', () => {
    isGone = true;
    for (const reject of inFlight) reject(gone());
  });
  const call = async (method: string, args: unknown[]): Promise<unknown> => {
    // A closed port swallows messages: nobody would ever answer.
    if (isGone) throw gone();
    let give!: (error: Error) => void;
    const lost = new Promise<never>((_, reject) => (give = reject));
    if (inFlight.size === 0) port.ref();
    inFlight.add(give);
    try {
      const ports = args.filter((arg) => arg instanceof MessagePort);
      const reply = await Promise.race([remote.call(method, Comlink.transfer(args, ports)), lost]);
      if ('error' in reply) throw ConcordError.fromRecord(reply.error);
      return reply.value;
    } finally {
      inFlight.delete(give);
      if (inFlight.size === 0) port.unref();
    }
  };
  return new Proxy({} as RemoteControl<C>, {
    get(_, method) {
      // A proxy that is awaited by mistake must not look like a promise.
      if (typeof method !== 'string' || method === 'then') return undefined;
      return (...args: unknown[]) => call(method, args);
    },
  });
}
