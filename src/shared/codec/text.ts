/**
 * Strings to and from UTF-8 in Buffers, strictly: what is written reads back as the same string. Lone surrogates have no UTF-8
 * and malformed bytes have no string; both are reported and never replaced by U+FFFD.
 *
 * Calls into native code cost about 60 ns whatever they do, so short ASCII strings are written by a loop.
 * Threads: any; the buffers may be shared memory.
 */
import { isUtf8 } from 'node:buffer';

/** Methods of every Buffer that its type declarations leave out; they skip the argument checks of write() and toString(). */
interface TextBuffer extends Buffer {
  utf8Write(text: string, at: number, bytesMax: number): number;
  utf8Slice(start: number, end: number): string;
}

/** Measured: the loop costs 30 ns for 16 characters and 42 for 24, the native write 62 for either. */
export const ASCII_LOOP_LENGTH_MAX = 24;
/** Up to this length three bytes per code unit are a cheap enough bound; beyond it the exact size is counted. */
const CHEAP_BOUND_LENGTH_MAX = 1024;

/** True if the string has no lone surrogate, so that UTF-8 can carry it. */
export function isWellFormed(text: string): boolean {
  // In every supported Node; not in the ES2023 declarations.
  return (text as string & { isWellFormed(): boolean }).isWellFormed();
}

/** Room that {@link writeUtf8} needs: an upper bound for short strings, exact for long ones. */
export function utf8BytesMax(text: string): number {
  return text.length <= CHEAP_BOUND_LENGTH_MAX ? text.length * 3 : Buffer.byteLength(text, 'utf8');
}

/**
 * Writes a short string if it is ASCII, else returns false (with the target's content undefined).
 * Four at a time, because the stores of four characters then share one branch.
 */
export function writeAscii(text: string, into: Uint8Array, at: number): boolean {
  const length = text.length;
  let i = 0;
  for (; i + 3 < length; i += 4) {
    const a = text.charCodeAt(i);
    const b = text.charCodeAt(i + 1);
    const c = text.charCodeAt(i + 2);
    const d = text.charCodeAt(i + 3);
    if ((a | b | c | d) > 0x7f) return false;
    into[at + i] = a;
    into[at + i + 1] = b;
    into[at + i + 2] = c;
    into[at + i + 3] = d;
  }
  for (; i < length; i++) {
    const a = text.charCodeAt(i);
    if (a > 0x7f) return false;
    into[at + i] = a;
  }
  return true;
}

/**
 * Writes a well-formed string and returns its length in bytes. The caller has checked {@link isWellFormed} and made room for
 * {@link utf8BytesMax}.
 */
export function writeUtf8(text: string, into: Buffer, at: number): number {
  if (text.length <= ASCII_LOOP_LENGTH_MAX && writeAscii(text, into, at)) return text.length;
  return (into as TextBuffer).utf8Write(text, at, into.length - at);
}

/** The string of `bytes[start, end)`, with U+FFFD for what is no UTF-8. */
export function sliceUtf8(bytes: Buffer, start: number, end: number): string {
  return (bytes as TextBuffer).utf8Slice(start, end);
}

/** The string of `bytes[start, end)`, or undefined if that is not UTF-8. */
export function readUtf8(bytes: Buffer, start: number, end: number): string | undefined {
  if (start === end) return '';
  const text = sliceUtf8(bytes, start, end);
  // Decoding replaces what is malformed by U+FFFD. Only a string that has one needs the full check, and that on a copy, since
  // the check does not take shared memory.
  if (text.includes('\ufffd') && !isUtf8(Uint8Array.from(bytes.subarray(start, end)))) return undefined;
  return text;
}
