import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as fixed from '../../../dist/shared/codec/fixed.js';

const U48_MAX = 2 ** 48 - 1;
const edges16 = [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff];
const edges32 = [...edges16, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff];
const edges48 = [...edges32, 2 ** 32, 2 ** 32 + 1, 2 ** 47, U48_MAX - 1, U48_MAX];

interface Case {
  name: string;
  edges: number[];
  max: number;
  width: number;
  write: (bytes: Uint8Array, at: number, value: number) => void;
  read: (bytes: Uint8Array, at: number) => number;
  reference: (buffer: Buffer, at: number, value: number) => void;
}

const cases: Case[] = [
  {
    name: 'u16 LE',
    edges: edges16,
    max: 0xffff,
    width: 2,
    write: fixed.writeU16LE,
    read: fixed.readU16LE,
    reference: (b, at, v) => b.writeUInt16LE(v, at),
  },
  {
    name: 'u16 BE',
    edges: edges16,
    max: 0xffff,
    width: 2,
    write: fixed.writeU16BE,
    read: fixed.readU16BE,
    reference: (b, at, v) => b.writeUInt16BE(v, at),
  },
  {
    name: 'u32 LE',
    edges: edges32,
    max: 0xffffffff,
    width: 4,
    write: fixed.writeU32LE,
    read: fixed.readU32LE,
    reference: (b, at, v) => b.writeUInt32LE(v, at),
  },
  {
    name: 'u32 BE',
    edges: edges32,
    max: 0xffffffff,
    width: 4,
    write: fixed.writeU32BE,
    read: fixed.readU32BE,
    reference: (b, at, v) => b.writeUInt32BE(v, at),
  },
  {
    name: 'u48 LE',
    edges: edges48,
    max: U48_MAX,
    width: 6,
    write: fixed.writeU48LE,
    read: fixed.readU48LE,
    reference: (b, at, v) => b.writeUIntLE(v, at, 6),
  },
];

describe.each(cases)('$name', ({ edges, max, width, write, read, reference }) => {
  function check(value: number, at: number): void {
    const ours = Buffer.alloc(16, 0xaa);
    const theirs = Buffer.alloc(16, 0xaa);
    write(ours, at, value);
    reference(theirs, at, value);
    expect(ours.toString('hex')).toBe(theirs.toString('hex'));
    expect(read(ours, at)).toBe(value);
  }

  test('edges are written as Buffer writes them, and read back', () => {
    for (const value of edges) check(value, 0);
  });

  test('any value is, at any offset, and no byte outside is touched', () => {
    fc.assert(
      fc.property(
        fc.maxSafeNat().map((n) => n % (max + 1)),
        fc.nat(16 - width),
        check,
      ),
    );
  });
});

describe('doubles', () => {
  test('are read as Buffer writes them', () => {
    fc.assert(
      fc.property(fc.double(), fc.nat(8), (value, at) => {
        const theirs = Buffer.alloc(16);
        theirs.writeDoubleBE(value, at);
        expect(fixed.readF64BE(theirs, at)).toBe(value);
      }),
    );
  });

  test('ordered doubles sort by bytes as by value, with -0 directly below 0', () => {
    const values = [
      -Infinity,
      -Number.MAX_VALUE,
      -1.5,
      -1,
      -Number.MIN_VALUE,
      -0,
      0,
      Number.MIN_VALUE,
      1,
      1.5,
      2 ** 53,
      Number.MAX_VALUE,
      Infinity,
    ];
    const encoded = values.map((value) => {
      const bytes = Buffer.alloc(8);
      fixed.writeOrderedF64(bytes, 0, value);
      expect(fixed.readOrderedF64(bytes, 0)).toBe(value);
      return bytes;
    });
    for (let i = 1; i < encoded.length; i++) expect(Buffer.compare(encoded[i - 1]!, encoded[i]!)).toBe(-1);
  });
});
