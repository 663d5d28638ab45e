/** Faults that are put in on purpose, one at a time: the simulation must find each of them. Each takes one promise of the protocol away. */
import type { ShardStore } from '../../../dist/engines/store/shard-store.js';
import type { Coordinator } from '../../../dist/engines/txn/coordinator.js';
import type { DecisionLog } from '../../../dist/engines/txn/decision-log.js';
import type { Shard } from '../../../dist/actors/shard/shard.js';
import type { ControlBlock } from '../../../dist/actors/control-block.js';
import { replace } from './threads.js';

export const PLANTS = [
  'votes are not synced',
  'decisions are not synced',
  'decisions are not logged',
  'applied before it is published',
  'given up without a fence',
  'forgotten before all shards have it on disk',
  'snapshots do not wait for the board',
  'reads do not wait for the board',
  'locks of prepared transactions are not kept',
  'lost votes are not noticed',
] as const;
export type Plant = (typeof PLANTS)[number];

interface Places {
  store: ShardStore;
  shard: Shard;
  'shard control': ControlBlock;
  'coordinator control': ControlBlock;
  'client control': ControlBlock;
  coordinator: Coordinator;
  log: DecisionLog;
}

/** Puts the fault in, if it belongs there. */
export function plantIn<P extends keyof Places>(
  place: P,
  plant: Plant | undefined,
  target: Places[P],
  shard = 0,
): void {
  if (plant === undefined) return;
  const plants = TABLE[plant];
  if (plants?.place === place) (plants.put as (target: Places[P], shard: number) => void)(target, shard);
}

type Planting = {
  [P in keyof Places]: { readonly place: P; readonly put: (target: Places[P], shard: number) => void };
}[keyof Places];

const TABLE: Partial<Record<Plant, Planting>> = {
  'locks of prepared transactions are not kept': {
    place: 'shard',
    put: ({ transactions: { locks } }) => {
      replace(locks, 'tryKey', () => 0);
    },
  },
  'decisions are not synced': {
    place: 'log',
    put: (log) => {
      replace(log, 'sync', () => undefined);
    },
  },
  'decisions are not logged': {
    place: 'log',
    put: (log) => {
      replace(log, 'write', () => {
        log.discard();
      });
    },
  },
  'applied before it is published': {
    place: 'shard control',
    put: ({ commits }, shard) => {
      const due = commits.due.bind(commits);
      replace(commits, 'due', (index, from, below, visit) =>
        due(index, from, below, (id, number, at) => {
          commits.setApplied(shard, at);
          visit(id, number, at);
        }),
      );
    },
  },
  'given up without a fence': {
    place: 'coordinator',
    put: (coordinator) => {
      replace(coordinator, 'sessionBegun', () => undefined);
    },
  },
  'forgotten before all shards have it on disk': {
    place: 'coordinator control',
    put: (control) => {
      replace(control, 'decisionsNeededFrom', () => Infinity);
    },
  },
  'snapshots do not wait for the board': {
    place: 'client control',
    put: ({ commits }) => {
      replace(commits, 'isUnapplied', () => false);
    },
  },
  'reads do not wait for the board': {
    place: 'client control',
    put: ({ commits }) => {
      replace(commits, 'mayBePrepared', () => false);
    },
  },
};
