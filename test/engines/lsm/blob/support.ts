/** Blob files and the values that were put into them. */
import { BlobWriter, type BlobWriterParameters } from '../../../../dist/engines/lsm/blob/blob-writer.js';
import type { BlobFileInfo, BlobReference } from '../../../../dist/engines/lsm/types.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import { DIRECTORY, IDENTITY } from '../table/support.js';

export const NUMBER = 9;
export const PATH = `${DIRECTORY}/000009.blob`;

export interface Value {
  readonly key: Buffer;
  readonly value: Buffer;
  readonly seq: number;
}

/** How many bytes of the value go into each piece; undefined: append(). */
export type Pieces = readonly number[] | undefined;

export function writeBlobs(
  env: Env,
  values: readonly Value[],
  parameters: Partial<BlobWriterParameters> = {},
  pieces?: Pieces,
): { info: BlobFileInfo; references: BlobReference[] } {
  const writer = BlobWriter.create(env, PATH, {
    identity: IDENTITY,
    number: NUMBER,
    compression: 'none',
    createdAt: 1_700_000_000_000,
    ...parameters,
  });
  const references = values.map(({ key, value, seq }) => {
    const given = Buffer.concat([Buffer.from('ab'), value]);
    const givenKey = Buffer.concat([key, Buffer.from('more')]);
    if (pieces === undefined) {
      const reference = writer.append(givenKey, key.length, given, 2, value.length, seq);
      given.fill(0xee);
      return reference;
    }
    writer.begin(givenKey, key.length, value.length, seq);
    givenKey.fill(0xee);
    for (let at = 0, turn = 0; at < value.length; turn++) {
      const length = Math.min(value.length - at, pieces[turn % pieces.length]!);
      writer.piece(given, 2 + at, length);
      given.fill(0xee, 2 + at, 2 + at + length);
      at += length;
    }
    return writer.end();
  });
  return { info: writer.finish(), references };
}
