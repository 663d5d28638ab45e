/**
 * The host's side of spaces: which there are, in the manifest, in the registry of the threads and in the shards.
 *
 *   create   manifest ─▶ shards ─▶ registry      a thread that finds the name finds the space in every shard
 *   drop     manifest ─▶ registry ─▶ shards      nobody uses the space any more when its memory goes
 *   switch   manifest ─▶ registry ─▶ shards      a shard that starts later resumes what the manifest says
 *
 * The manifest comes first: whatever a kill leaves behind, a recovery follows it. Changes of the manifest run one after another.
 * A shard that dies meanwhile is told again when its successor is up, which has read the definitions by itself; one that stays down follows when the
 * store is opened again. Threads: the host's only.
 */
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import '../../engines/built-in.js';
import { DEFAULT_SPACE_ID, SPACE_ID_MAX, engineNamed, type EngineTuning } from '../../engines/engine.js';
import type { SpaceDefinition, SwitchProgress } from '../../engines/store/space.js';
import type { RemoteControl } from '../runtime/control-channel.js';
import type { ShardControl } from '../shard/shard-worker.js';
import { definitionsOf, spacesOf, type Manifest, type SpaceRecord } from './manifest.js';
import { SPACES_MAX, SpaceRegistry } from './registry.js';
import { checkSpaceAgreement, checkSpaceName, type SpaceSpec } from './space-options.js';

export interface CatalogHost {
  readonly readOnly: boolean;
  /** Of the default space, by the options of this opening. */
  readonly defaultTuning: EngineTuning;
  /** Makes the manifest durable in the place of `before`, which stays when it fails. @throws ERR_DISK_FULL, ERR_IO, ERR_PERMISSION */
  save(manifest: Manifest, before: Manifest): void;
  /** Asks every shard, again after a restart. @throws the first failure, when all have answered; ERR_SHARD_FAILED, ERR_CLOSED */
  askShards<T>(call: (remote: RemoteControl<ShardControl>, shard: number) => Promise<T>): Promise<T[]>;
}

/** Why a shard cannot move a space, now or ever: the others move theirs back. */
const CANNOT_MOVE: ReadonlySet<string> = new Set([
  'ERR_MEMORY_FULL',
  'ERR_CORRUPT',
  'ERR_IO',
  'ERR_DISK_FULL',
  'ERR_INVALID_ARG',
]);

interface RunningSwitch {
  readonly engine: string;
  /** The manifest says so; resolves with what it said before. */
  readonly begun: Promise<SpaceRecord>;
  done: Promise<void>;
  /** What each shard last said; a shard that is done has copied all. */
  readonly seen: SwitchProgress[];
  /** It is, or was, taken back. */
  turnedBack: Promise<void> | undefined;
}

export class SpaceCatalog {
  readonly registry: SpaceRegistry;
  readonly #host: CatalogHost;
  #manifest: Manifest;
  /** Ids above those of the manifest may have reached the disk in a manifest whose writing failed. */
  #nextSpaceId: number;
  #tail: Promise<unknown> = Promise.resolve();
  readonly #switches = new Map<number, RunningSwitch>();

  constructor(manifest: Manifest, host: CatalogHost) {
    this.#manifest = manifest;
    this.#host = host;
    this.#nextSpaceId = manifest.nextSpaceId;
    this.registry = SpaceRegistry.create(spacesOf(manifest));
  }

  get manifest(): Manifest {
    return this.#manifest;
  }

  /** What shards are told when they start. */
  definitions(): SpaceDefinition[] {
    return definitionsOf(this.#manifest).map((definition) => this.#effective(definition));
  }

  #effective({ id, engine, tuning }: SpaceDefinition): SpaceDefinition {
    return id === DEFAULT_SPACE_ID
      ? { id, engine, tuning: merged(tuning, this.#host.defaultTuning) }
      : { id, engine, tuning };
  }

  #inOrder<T>(work: () => Promise<T> | T): Promise<T> {
    const done = this.#tail.then(work);
    this.#tail = done.catch(() => undefined);
    return done;
  }

  #assertWritable(): void {
    if (this.#host.readOnly) throw new ConcordError('ERR_READ_ONLY', 'the store was opened read-only');
  }

  #withId(id: number): SpaceRecord | undefined {
    return spacesOf(this.#manifest).find((record) => record.id === id);
  }

  #require(id: number): SpaceRecord {
    const record = this.#withId(id);
    if (record === undefined) throw dropped(id);
    return record;
  }

  #replace(spaces: Manifest['spaces']): void {
    const manifest = { ...this.#manifest, nextSpaceId: this.#nextSpaceId, spaces };
    this.#host.save(manifest, this.#manifest);
    this.#manifest = manifest;
  }

  /**
   * The space of that name, created if there is none.
   * @throws ERR_INVALID_ARG, ERR_OPTION_CONFLICT, ERR_SPACE_LIMIT, ERR_READ_ONLY, ERR_MEMORY_FULL, ERR_DISK_FULL, ERR_IO, ERR_PERMISSION
   */
  open(name: string, spec: SpaceSpec): Promise<SpaceRecord> {
    return this.#inOrder(async () => {
      checkSpaceName(name);
      const known = spacesOf(this.#manifest).find((record) => record.name === name);
      if (known !== undefined) {
        checkSpaceAgreement(known, spec);
        return known;
      }
      this.#assertWritable();
      return await this.#create(name, spec);
    });
  }

  async #create(name: string, spec: SpaceSpec): Promise<SpaceRecord> {
    const before = this.#manifest.spaces;
    // The default one does not count.
    if (before.length > SPACES_MAX || this.#nextSpaceId >= SPACE_ID_MAX) {
      throw new ConcordError('ERR_SPACE_LIMIT', `the store holds ${SPACES_MAX} spaces already`, { limit: SPACES_MAX });
    }
    const { engine = 'btree', keyEncoding = 'utf8', valueEncoding = 'utf8', tuning } = spec;
    engineNamed(engine);
    const record: Manifest['spaces'][number] = {
      id: this.#nextSpaceId++,
      name,
      engine,
      keyEncoding,
      valueEncoding,
      tuning: { ...tuning } as Manifest['spaces'][number]['tuning'],
      createdAt: new Date().toISOString(),
    };
    this.#replace([...before, record]);
    const definition = { id: record.id, engine, tuning };
    try {
      await this.#host.askShards((remote) => remote.openSpace(definition));
    } catch (error) {
      if (isShardDown(error)) {
        // It opens the space when it comes back.
        this.registry.publish(spacesOf(this.#manifest));
        return record;
      }
      this.#replace(this.#manifest.spaces.filter(({ id }) => id !== record.id));
      void this.#host.askShards((remote) => remote.dropSpace(record.id)).catch(() => undefined);
      throw error;
    }
    this.registry.publish(spacesOf(this.#manifest));
    return record;
  }

  /** Resolves when the memory is being given back: true if there was such a space. @throws ERR_READ_ONLY, ERR_DISK_FULL, ERR_IO, ERR_INVALID_ARG */
  async drop(id: number): Promise<boolean> {
    const isThere = await this.#inOrder(() => {
      if (id === DEFAULT_SPACE_ID) throw invalidArgument('the default space cannot be dropped; clear it');
      if (this.#withId(id) === undefined) return false;
      this.#assertWritable();
      this.#replace(this.#manifest.spaces.filter((record) => record.id !== id));
      this.registry.publish(spacesOf(this.#manifest));
      return true;
    });
    if (!isThere) return false;
    await this.#host
      .askShards((remote) => remote.dropSpace(id))
      .catch((error: unknown) => {
        if (!isShardDown(error)) throw error;
      });
    return true;
  }

  /**
   * Resolves when every shard has moved the space. When a shard has no room, or cannot read what it should copy, those that have moved it move it back.
   * @throws ERR_INVALID_ARG, ERR_SPACE_DROPPED, ERR_CONFLICT (another move is under way, or this one was cancelled), ERR_READ_ONLY, ERR_MEMORY_FULL,
   *   ERR_CORRUPT, ERR_IO, ERR_SHARD_FAILED (the rest follows at the next opening)
   */
  async switchEngine(id: number, engine: string, tuning: EngineTuning): Promise<void> {
    engineNamed(engine);
    const running = this.#switches.get(id);
    if (running !== undefined) {
      if (running.engine === engine && running.turnedBack === undefined) return running.done;
      throw new ConcordError('ERR_CONFLICT', `the space is being moved to ${running.engine}`, {
        engine: running.engine,
      });
    }
    const begun = this.#inOrder(() => {
      this.#assertWritable();
      const record = this.#require(id);
      this.#redefine(id, engine, merged(record.tuning, tuning));
      return record;
    });
    const run: RunningSwitch = { engine, begun, done: Promise.resolve(), seen: [], turnedBack: undefined };
    run.done = this.#runSwitch(id, run).finally(() => {
      this.#switches.delete(id);
    });
    this.#switches.set(id, run);
    await run.done;
  }

  async #runSwitch(id: number, run: RunningSwitch): Promise<void> {
    await run.begun;
    try {
      await this.#moveShards(id, run);
    } catch (error) {
      if (!(error instanceof ConcordError) || !CANNOT_MOVE.has(error.code)) throw error;
      run.turnedBack ??= this.#turnBack(run);
      await run.turnedBack;
      throw error;
    }
    if (run.turnedBack === undefined) return;
    await run.turnedBack;
    throw new ConcordError('ERR_CONFLICT', `the move to ${run.engine} was cancelled`, { engine: run.engine });
  }

  /** Takes back a move that is under way: shards that have made it make it back. Harmless when there is none. */
  async cancelSwitch(id: number): Promise<void> {
    const run = this.#switches.get(id);
    if (run === undefined) return;
    run.turnedBack ??= this.#turnBack(run);
    await run.turnedBack;
  }

  /** Tells the shards what the manifest says of the space, and waits until they have done it. */
  async #moveShards(id: number, run: RunningSwitch): Promise<void> {
    const definition = this.#effective(this.#require(id));
    await this.#host.askShards(async (remote, shard) => {
      await remote.switchEngine(definition);
      const total = run.seen[shard]?.total ?? 0;
      run.seen[shard] = { copied: total, total };
    });
  }

  async #turnBack(run: RunningSwitch): Promise<void> {
    const before = await run.begun;
    const isThere = await this.#inOrder(() => {
      if (this.#withId(before.id) === undefined) return false;
      this.#redefine(before.id, before.engine, before.tuning);
      return true;
    });
    if (isThere) await this.#moveShards(before.id, run);
  }

  #redefine(id: number, engine: string, tuning: EngineTuning): void {
    const record = this.#require(id);
    if (record.engine === engine && JSON.stringify(record.tuning) === JSON.stringify(tuning)) return;
    const changed = { ...record, engine, tuning: { ...tuning } } as Manifest['spaces'][number];
    this.#replace(this.#manifest.spaces.map((other) => (other.id === id ? changed : other)));
    this.registry.publish(spacesOf(this.#manifest));
  }

  /** Over all shards; undefined when the space is not being moved. */
  async progress(id: number): Promise<SwitchProgress | undefined> {
    const run = this.#switches.get(id);
    if (run === undefined) return undefined;
    await this.#host.askShards(async (remote, shard) => {
      const progress = await remote.switchProgress(id);
      if (progress !== undefined) run.seen[shard] = progress;
    });
    let copied = 0;
    let total = 0;
    for (const progress of run.seen) {
      copied += progress?.copied ?? 0;
      total += progress?.total ?? 0;
    }
    return { copied, total };
  }
}

/** Later ones win, option by option. */
function merged(first: EngineTuning, second: EngineTuning): EngineTuning {
  if (first.lsm === undefined || second.lsm === undefined) return { ...first, ...second };
  return { ...first, ...second, lsm: { ...first.lsm, ...second.lsm } };
}

function isShardDown(error: unknown): boolean {
  return error instanceof ConcordError && error.code === 'ERR_SHARD_FAILED';
}

function dropped(id: number): ConcordError {
  return new ConcordError('ERR_SPACE_DROPPED', `space ${id} was dropped`, { space: id });
}
