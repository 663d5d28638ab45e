/**
 * One listening socket shared by several threads, each with its own descriptor.
 *
 *   main: listen(port) ── descriptor 19 ──▶ helper process ── SCM_RIGHTS ──▶ thread: descriptor 30, the same socket
 *
 * Threads cannot pass sockets to each other, and `listen({ fd: 19 })` in a second thread would make two owners of one number: the
 * first close() frees it, the kernel gives it to the next file the process opens, which may be a log of the store, and the second
 * close() closes that. A socket that travels through a process and back is a new descriptor with a single owner. (Node 22.12's
 * reusePort gives each thread a socket of its own, but then two servers started by mistake on one port share it silently,
 * and a closing thread resets the connections queued on its socket.)
 *
 * The socket stops listening when the last thread has closed its descriptor. Threads: any.
 */
import { spawn } from 'node:child_process';
import { Server as NetServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { ConcordError } from '../../../shared/errors.js';

const HELPER_TIMEOUT_MS = 10_000;

/** The descriptor of a listening server; undefined where the platform has none to share (Windows). */
export function descriptorOf(server: NetServer): number | undefined {
  const fd = (server as NetServer & { _handle?: { fd?: unknown } | null })._handle?.fd;
  return typeof fd === 'number' && fd >= 0 && process.platform !== 'win32' ? fd : undefined;
}

/** A listening socket of the calling thread's own, for the socket at this descriptor of the process. */
export function duplicateListener(fd: number): Promise<NetServer> {
  return new Promise((resolve, reject) => {
    const helper = spawn(process.execPath, [fileURLToPath(new URL('./listener-helper.js', import.meta.url))], {
      // 0–2: nothing in, nothing out; 3: the channel; 4: the socket.
      stdio: ['ignore', 'ignore', 'ignore', 'ipc', fd],
      env: {},
    });
    let done = false;
    const fail = (why: string, cause?: unknown): void => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      helper.kill('SIGKILL');
      reject(new ConcordError('ERR_INTERNAL', `sharing the listening socket: ${why}`, {}, { cause }));
    };
    const timer = setTimeout(() => fail(`no answer within ${HELPER_TIMEOUT_MS} ms`), HELPER_TIMEOUT_MS);
    helper.once('message', (_message, handle) => {
      if (!(handle instanceof NetServer)) {
        fail('the helper sent no socket');
        return;
      }
      done = true;
      clearTimeout(timer);
      resolve(handle);
    });
    helper.once('error', (error) => fail(error.message, error));
    helper.once('exit', (code, signal) => {
      // The socket may still be on its way through the channel.
      setTimeout(() => fail(`the helper ended with ${signal ?? code}`), 1_000).unref();
    });
  });
}
