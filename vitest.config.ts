import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** What takes longest, longest first: begun last, one worker would be alone with it at the end. The others come by size, as the runner has them. */
const LONGEST = [
  'test/crash/kill.test.ts',
  'test/conformance/engines.test.ts',
  'test/txn/history/history.test.ts',
  'test/power-loss/store.test.ts',
  'test/threads/engine-death.test.ts',
  'test/spaces/switch.test.ts',
  'test/errors/limits.test.ts',
  'test/errors/damage.test.ts',
  'test/spaces/recovery.test.ts',
  'test/conformance/directory.test.ts',
  'test/threads/client-death.test.ts',
  'test/engines/cycles.test.ts',
  'test/txn/simulation/simulation.test.ts',
  'test/txn/coordinator/threads.test.ts',
  'test/lsm/pool.test.ts',
  'test/threads/shard-death.test.ts',
  'test/faults/corruption.test.ts',
  'test/stress/engines.test.ts',
  'test/model/pool.test.ts',
  'test/bench-engines.test.ts',
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const index = LONGEST.findIndex((name) => moduleId.endsWith(`/${name}`));
      return index < 0 ? LONGEST.length : index;
    };
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

// Tests import the compiled package (dist/): workers must be JavaScript, and what ships is what is tested.
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/support/properties.ts'],
    pool: 'forks',
    // Node loads it, as it does for users: unchanged, and four times as fast as through the runner's transforms.
    server: { deps: { external: [/\/dist\//] } },
    // Against what hangs, not against what is slow: other work may leave a test a tenth of a machine.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 60_000 } },
    // One more than the cores of a small machine: tests wait for disks and threads now and then.
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
  },
});
