/**
 * Errors as the operating system would report them, made by file systems that have none below them. They go through
 * fromSystemError like real ones, so code, details and cause are the same whichever Env failed.
 *
 * Threads: any.
 */
import { constants } from 'node:os';
import { ConcordError, fromSystemError } from '../errors.js';

const TEXTS = {
  EACCES: 'permission denied',
  EBADF: 'bad file descriptor',
  EDQUOT: 'disk quota exceeded',
  EEXIST: 'file already exists',
  EINVAL: 'invalid argument',
  EIO: 'i/o error',
  EISDIR: 'illegal operation on a directory',
  EMFILE: 'too many open files',
  ENOENT: 'no such file or directory',
  ENOSPC: 'no space left on device',
  ENOTDIR: 'not a directory',
  ENOTEMPTY: 'directory not empty',
  EPERM: 'operation not permitted',
  EROFS: 'read-only file system',
} as const;

export type SystemErrorCode = keyof typeof TEXTS;

export function systemError(code: SystemErrorCode, doing: string, path: string): ConcordError {
  const error = Object.assign(new Error(`${code}: ${TEXTS[code]}, ${doing} '${path}'`), {
    code,
    errno: -constants.errno[code],
    syscall: doing,
    path,
  });
  return fromSystemError(error, doing, path);
}
