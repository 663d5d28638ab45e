/**
 * The host's side of a thread, and of those that follow it when it dies.
 *
 *   launch() ─▶ 'ready' ─▶ it serves ── dies ─▶ onDeath() ─▶ restart() ─▶ replace(): launch() until one is ready
 *                                                 DEATHS_MAX deaths within RESTART_WINDOW_MS, or none is to follow ─▶ it stays down
 *
 * A thread says 'ready' or 'open-failed' first; 'died', with the reason, may be its last word.
 * Must hold: there is one thread at a time; restarts run one after another, however fast threads die. Threads: the host's.
 */
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import { ConcordError, type ErrorDetails, type ErrorRecord } from '../../shared/errors.js';
import { remoteControl, type RemoteControl } from './control-channel.js';

/** A thread that dies this often within the window stays down. */
const DEATHS_MAX = 5;
const RESTART_WINDOW_MS = 60_000;

/** What a thread says that could not open, or that dies. */
export interface ThreadFailure {
  readonly event: 'open-failed' | 'died';
  readonly error: ErrorRecord;
}

export abstract class ThreadSupervisor<C extends object, Heard extends { readonly event: string }> {
  /** As errors call it, and what they carry. */
  readonly #label: string;
  readonly #details: ErrorDetails;
  #worker: Worker | undefined;
  #remote: RemoteControl<C> | undefined;
  #ended: Promise<void> = Promise.resolve();
  #restarting: Promise<void> = Promise.resolve();
  #deaths: number[] = [];
  #lastError: ConcordError | undefined;
  #isStopping = false;

  constructor(label: string, details: ErrorDetails = {}) {
    this.#label = label;
    this.#details = details;
  }

  /** What a thread says beside failures; first that it is ready. */
  protected abstract hear(event: Heard, remote: RemoteControl<C>): void;

  /** One that was ready has ended, and is not meant to. */
  protected abstract onDeath(): void;

  /** One that gets ready now keeps the process alive. */
  protected abstract get isClosing(): boolean;

  /** The thread; one that is gone answers every call with ERR_CLOSED. */
  get remote(): RemoteControl<C> {
    return this.#remote!;
  }

  /** Resolves when no restart is under way. Never rejects. */
  get restarted(): Promise<void> {
    return this.#restarting;
  }

  /** Resolves when the thread of this moment has ended. */
  protected get ended(): Promise<void> {
    return this.#ended;
  }

  /** It is meant to end: none follows. */
  protected get isStopping(): boolean {
    return this.#isStopping;
  }

  /** Starts a thread; `dataFor` makes what it is given, with its end of the control channel. Resolves when it is ready. @throws what it says */
  protected launchThread(name: string, entry: URL, dataFor: (port: MessagePort) => object): Promise<void> {
    const { port1, port2 } = new MessageChannel();
    const worker = new Worker(entry, { workerData: dataFor(port2), transferList: [port2], name, stdin: false });
    const remote = remoteControl<C>(port1);
    this.#worker = worker;
    this.#remote = remote;
    this.#ended = new Promise((resolve) => {
      // The port closes by itself, behind the thread's last answer; closing it here could drop that.
      worker.once('exit', () => {
        resolve();
      });
    });
    let isReady = false;
    return new Promise<void>((resolve, reject) => {
      worker.on('message', (event: Heard | ThreadFailure) => {
        if (isFailure(event)) {
          const error = ConcordError.fromRecord(event.error);
          if (event.event === 'died') this.#lastError = error;
          else reject(error);
          return;
        }
        this.hear(event, remote);
        if (event.event !== 'ready') return;
        isReady = true;
        if (!this.isClosing) worker.unref();
        resolve();
      });
      worker.on('error', (cause: Error) => {
        this.#lastError = this.#internal(`${this.#label}: ${cause.message}`, cause);
        reject(this.#lastError);
      });
      worker.once('exit', () => {
        if (!isReady) reject(this.#internal(`${this.#label} ended before it was ready`));
        else if (!this.#isStopping) this.onDeath();
      });
    });
  }

  /** Another one is to take over, behind the restarts that are under way. `takeOver` is told why the dead one died. */
  protected restart(takeOver: (error: ConcordError) => Promise<void>): void {
    this.#restarting = this.#restarting.then(() => {
      const error = this.#lastError ?? this.#internal(`${this.#label} ended unexpectedly`);
      this.#lastError = undefined;
      return takeOver(error);
    });
  }

  /** Launches until one is ready. Else why none is: too many have died, or none is to follow the one that died of `error`. */
  protected async replace(error: ConcordError, launch: () => Promise<void>): Promise<ConcordError | undefined> {
    const now = Date.now();
    this.#deaths = [...this.#deaths.filter((at) => now - at < RESTART_WINDOW_MS), now];
    while (this.#deaths.length < DEATHS_MAX && !this.#isStopping) {
      try {
        await launch();
        return undefined;
      } catch (cause) {
        this.#lastError = cause instanceof ConcordError ? cause : this.#internal(String(cause));
        this.#deaths.push(Date.now());
        await this.#ended;
      }
    }
    return this.#lastError ?? error;
  }

  /** The process stays alive until the thread has ended. */
  ref(): void {
    this.#worker?.ref();
  }

  /** None follows from now on. */
  stopRestarts(): void {
    this.#isStopping = true;
  }

  /** Asks the thread to end, and waits until it has. @throws what it could not do, when it has ended */
  protected async end(ask: () => Promise<void>): Promise<void> {
    this.#isStopping = true;
    try {
      await ask();
    } catch (error) {
      await this.kill();
      throw error;
    } finally {
      await this.#ended;
    }
  }

  /** Ends the thread wherever it is, and lets no other follow. */
  async terminate(): Promise<void> {
    this.#isStopping = true;
    this.ref();
    await this.kill();
    await this.#restarting;
    // A restart that was under way may have started another one.
    await this.kill();
  }

  /** Ends the thread wherever it is, as a failure would: for tests too. */
  async kill(): Promise<void> {
    await this.#worker?.terminate();
  }

  #internal(message: string, cause?: Error): ConcordError {
    return new ConcordError('ERR_INTERNAL', message, this.#details, cause === undefined ? {} : { cause });
  }
}

function isFailure(event: { readonly event: string }): event is ThreadFailure {
  return event.event === 'open-failed' || event.event === 'died';
}
