/**
 * What a thread of the background pool begins with. Piscina loads it by require(), and a thread that ends while it loads an ES module that way takes the process
 * with it: so this file has nothing in it, and loads the tasks by import(). (Flags for the threads would not do: with any of their own they get none of the
 * process's, and they refuse those of V8.)
 * Threads: pool workers.
 */
const loadTasks = () => import('./tasks.js');
const loadFileTasks = () => import('./file-tasks.js');

type Tasks = Awaited<ReturnType<typeof loadTasks>>;
type FileTasks = Awaited<ReturnType<typeof loadFileTasks>>;

interface Request {
  readonly name: keyof Tasks | keyof FileTasks;
  readonly task: unknown;
}

export = async ({ name, task }: Request): Promise<unknown> => {
  const tasks = name === 'checkpoint' || name === 'exportSnapshot' ? await loadTasks() : await loadFileTasks();
  const run = (tasks as Record<string, unknown>)[name] as (task: unknown) => unknown;
  return run(task);
};
