/** An engine of one's own, for engineModules: a B+Tree under another name. Every thread loads it: the whole index would take longer than most tests. */
import { BTreeCursor } from '../../dist/engines/btree/cursor.js';
import { btreeEngine } from '../../dist/engines/btree/engine.js';
import { BTreeReader } from '../../dist/engines/btree/reader.js';
import { BTreeWriter } from '../../dist/engines/btree/writer.js';
import { registerEngine, rowTag } from '../../dist/engines/engine.js';

const code = 8;

registerEngine('custom', {
  ...btreeEngine,
  name: 'custom',
  code,
  openWriter: (arena, row, spaceId) =>
    Object.defineProperty(new BTreeWriter(arena, row, { tag: rowTag(spaceId, code) }), 'code', { value: code }),
  openReader: (arena, row, spaceId) => new BTreeReader(arena, row, rowTag(spaceId, code)),
  openCursor: (arena, row, spaceId) => new BTreeCursor(arena, row, rowTag(spaceId, code)),
});
