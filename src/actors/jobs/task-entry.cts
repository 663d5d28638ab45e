/**
 * What a thread of the background pool begins with. Piscina loads it by require(), and a thread that ends while it loads an ES module that way takes the process
 * with it: so this file has nothing in it, and loads the tasks by import(). (Flags for the threads would not do: with any of their own they get none of the
 * process's, and they refuse those of V8.)
 * Threads: pool workers.
 */
const load = () => import('./tasks.js');

type Tasks = Awaited<ReturnType<typeof load>>;

interface Request {
  readonly name: keyof Tasks;
  readonly task: unknown;
}

export = async ({ name, task }: Request): Promise<unknown> => {
  const run = (await load())[name] as (task: unknown) => unknown;
  return run(task);
};
