/** The pages of a table, made at once. */
import { TableInstallation } from '../../../dist/engines/lsm/memory/table-meta.js';
import type { UnitId } from '../../../dist/shared/memory/arena.js';

export function installTable(...table: ConstructorParameters<typeof TableInstallation>): UnitId {
  const installation = new TableInstallation(...table);
  expectDone(installation.advance(Infinity));
  return installation.unit;
}

function expectDone(left: number): void {
  if (left <= 0) throw new Error('a table without an end');
}
