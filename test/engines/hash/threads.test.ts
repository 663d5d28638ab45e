import { test } from 'vitest';
import { newSeed } from '../contract-scene.js';
import { readWhileWriting } from '../cells/threads.js';

test('readers in two threads see only whole values, none older than before, and miss no key, while nodes are used again', async () => {
  await readWhileWriting('hash', { seed: newSeed('hash/threads.test.ts') });
});
