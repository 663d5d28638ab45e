/** Reader slots of an arena that belong to no client: background jobs on it, and its own shard. Threads: any. */
export const JOB_READER_SLOT = 256;
export const SHARD_READER_SLOT = 319;
