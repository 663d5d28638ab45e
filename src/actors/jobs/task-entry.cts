/**
 * What a thread of the background pool begins with. Piscina loads it by require(), and a thread that ends while it loads an ES module that way takes the process
 * with it: so this file needs none, and loads the tasks by import(). (Flags for the threads would not do: with any of their own they get none of the
 * process's, and they refuse those of V8.)
 *
 * Its thread gives way to those that callers wait for: what is put off behind their backs must not hold them up where cores are few. Under Linux a thread may lower
 * itself, and nobody else; other systems know the priority of the whole process only.
 * Threads: pool workers.
 */
/** A thread that wants the same core at the same time gets three times as much of it. */
const NICER_BY = 5;
const NICE_MAX = 19;

async function giveWay(): Promise<void> {
  if (process.platform !== 'linux') return;
  const { getPriority, setPriority } = await import('node:os');
  try {
    setPriority(Math.min(NICE_MAX, getPriority() + NICER_BY));
  } catch {
    // A system that forbids even that.
  }
}
const hasGivenWay = giveWay();

const loadTasks = (task: { readonly engineModules: readonly string[] }) =>
  task.engineModules.length === 0 ? import('./tasks-thread.js') : import('./tasks.js');
const loadLsmTasks = () => import('./lsm-tasks.js');
const loadFileTasks = () => import('./file-tasks.js');

const LOADS = {
  checkpoint: loadTasks,
  exportSnapshot: loadTasks,
  lsmFlush: loadLsmTasks,
  lsmCompact: loadLsmTasks,
  preallocate: loadFileTasks,
  nothing: loadFileTasks,
};

interface Request {
  readonly name: keyof typeof LOADS;
  readonly task: unknown;
}

export = async ({ name, task }: Request): Promise<unknown> => {
  await hasGivenWay;
  const tasks: unknown = await LOADS[name](task as never);
  const run = (tasks as Record<string, (task: unknown) => unknown>)[name]!;
  return run(task);
};
