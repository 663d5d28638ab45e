/**
 * The process of one engine. Started by child.mjs, obeys one request at a time over the IPC channel and is idle in between, so that two engines
 * never share a heap and never run at once.
 *
 *   request { id, method, args } → response { id, result } or { id, error }
 */
import { Session } from './session.mjs';
import { workloads } from '../workloads/index.mjs';

let session;
let rssBeforeBytes = 0;

const methods = {
  async init(options) {
    session = await Session.create(options);
    globalThis.gc?.();
    rssBeforeBytes = process.memoryUsage.rss();
    return { version: session.engine.version };
  },

  reset: ({ durability }) => session.reset(durability),
  load: () => session.load(),
  close: () => session.close(),

  async reopen({ durability }) {
    await session.close();
    await session.open(durability);
  },

  /** One turn of a workload. `wrong` counts what was wrong in this turn. */
  async run({ workload, variant, params }) {
    const { run } = workloads.get(workload);
    const wrongBefore = session.wrong;
    const cpuBefore = process.cpuUsage();
    globalThis.gc?.();
    const result = await run(session, variant, params);
    const cpu = process.cpuUsage(cpuBefore);
    return {
      ...result,
      wrong: session.wrong - wrongBefore,
      complaints: session.complaints.splice(0),
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
    };
  },

  async verify() {
    const wrongBefore = session.wrong;
    const entries = await session.verify();
    return { entries, wrong: session.wrong - wrongBefore, complaints: session.complaints.splice(0) };
  },

  settle: () => session.store.settle(),

  async memory() {
    globalThis.gc?.();
    return {
      ...session.store.memory?.(),
      rssGrowthBytes: process.memoryUsage.rss() - rssBeforeBytes,
      entries: session.count,
    };
  },

  saveExpectation: ({ file }) => session.saveExpectation(file),
  loadExpectation: ({ file }) => session.loadExpectation(file),

  /** Milliseconds from the call of open to the first value read. */
  async timedOpen({ durability }) {
    const start = performance.now();
    await session.open(durability);
    const value = session.store.getSync(session.keys[0]);
    const ms = performance.now() - start;
    session.checkRead(0, value, session.acked[0]);
    return { ms, wrong: session.wrong, complaints: session.complaints.splice(0) };
  },
};

process.on('message', async ({ id, method, args }) => {
  try {
    process.send({ id, result: await methods[method](args) });
  } catch (error) {
    process.send({ id, error: { message: error.stack ?? String(error), code: error.code } });
  }
});

// The parent is gone: so are the reasons to run.
process.on('disconnect', () => process.exit(1));
