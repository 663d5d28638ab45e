/** Names of the files of a tree. Threads: any. */

const TABLE_NAME = /^(\d{6,10})\.sst$/;
const BLOB_NAME = /^(\d{6,10})\.blob$/;
const MANIFEST_NAME = /^MANIFEST-(\d{6,15})$/;
const DIRECTORY_NAME = /^lsm-(0|[1-9]\d{0,9})$/;
const FILE_NUMBER_MAX = 2 ** 32 - 1;

export const CURRENT_NAME = 'CURRENT';
export const CURRENT_TEMPORARY_NAME = 'CURRENT.tmp';

function padded(number: number): string {
  return String(number).padStart(6, '0');
}

/** The number if the name is the one it would be given, so that no two names mean one file. */
function numberIn(name: string, pattern: RegExp, nameOf: (number: number) => string): number | undefined {
  const match = pattern.exec(name);
  if (match === null) return undefined;
  const number = Number(match[1]);
  return number >= 1 && nameOf(number) === name ? number : undefined;
}

export function tableName(number: number): string {
  return `${padded(number)}.sst`;
}

export function blobName(number: number): string {
  return `${padded(number)}.blob`;
}

export function manifestName(number: number): string {
  return `MANIFEST-${padded(number)}`;
}

export function treeDirectoryName(tree: number): string {
  return `lsm-${tree}`;
}

/** Undefined for other names; so below. */
export function tableNumber(name: string): number | undefined {
  const number = numberIn(name, TABLE_NAME, tableName);
  return number !== undefined && number <= FILE_NUMBER_MAX ? number : undefined;
}

export function blobNumber(name: string): number | undefined {
  const number = numberIn(name, BLOB_NAME, blobName);
  return number !== undefined && number <= FILE_NUMBER_MAX ? number : undefined;
}

export function manifestNumber(name: string): number | undefined {
  return numberIn(name, MANIFEST_NAME, manifestName);
}

export function treeOfDirectory(name: string): number | undefined {
  const match = DIRECTORY_NAME.exec(name);
  if (match === null) return undefined;
  const tree = Number(match[1]);
  return tree <= FILE_NUMBER_MAX ? tree : undefined;
}

export const isTemporaryName = (name: string): boolean => name.endsWith('.tmp');
