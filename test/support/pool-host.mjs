/** A thread that opens a pool for others: posts a handle, closes when told to. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const { directory, options, isCustom } = workerData;
// A custom encoding is functions, which do not cross threads; this thread neither reads nor writes values.
const unused = () => {
  throw new Error('the hosting thread touches no value');
};
const valueEncoding = isCustom
  ? { name: options.valueEncoding, encode: unused, decode: unused }
  : options.valueEncoding;
const db = await ConcordPool.open(directory, { ...options, valueEncoding });
const { port, transferList } = db.handle();
parentPort.postMessage({ port }, [...transferList]);
parentPort.once('message', async () => {
  await db.close();
});
