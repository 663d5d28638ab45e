/**
 * The bank: accounts over all shards and two spaces, whose balances have one sum for ever. What transfers of a thread do, and what everybody may count on.
 *
 * A transfer moves an amount from one account to another and leaves a slip, `slip/<thread>/<n>`, in the same transaction. So a transfer of which the witness knows that it was
 * acknowledged shows by its slip, and the balance of every account follows from the slips: the accounts are checked against them one by one, not by their sum alone.
 */
import * as fs from 'node:fs';
import { Tickets } from '../../support/history/tickets.mjs';
import { makeRandom } from '../../support/memory-random.mjs';

export const ACCOUNTS = 40;
export const FIRST_BALANCE = 1000;
const MODES = ['optimistic', 'pessimistic'];
/** Of a transfer that is tried again by itself, until it is done or its time is over. */
const RETRIES = 1000;

/** Every second account is in a space of another engine. */
export function placeOf(db, account) {
  const space = account % 2 === 0 ? db : db.space('vault', { engine: 'lsm' });
  return { space, key: `account/${String(account).padStart(3, '0')}` };
}

function slipKey(thread, number) {
  return `slip/${thread}/${String(number).padStart(7, '0')}`;
}

export async function openAccounts(db) {
  const { space } = placeOf(db, 1);
  await space.count();
  await db.transaction((tx) => {
    for (let account = 0; account < ACCOUNTS; account++) {
      const place = placeOf(db, account);
      const own = tx.space(place.space);
      if (own.getSync(place.key) === undefined) void own.put(place.key, String(FIRST_BALANCE));
    }
  });
}

/**
 * Transfers until `isOver`. Before each a line `? thread number` goes to the witness, after its acknowledgement `. thread number`; a file that the operating system has got
 * outlives the process.
 * @param {import('../../../dist/index.js').ConcordPool} db
 * @param {{ thread: number, firstNumber: number, callers: number, seed: number, witness: string, isOver: () => boolean, memory?: SharedArrayBuffer }} options memory: of tickets, which count the transfers
 */
export async function transfer(db, { thread, firstNumber, callers, seed, witness, isOver, memory }) {
  const tickets = new Tickets(memory);
  const file = fs.openSync(witness, 'a');
  const random = makeRandom(seed);
  for (let warm = 0; warm < 8; warm++) random();
  let number = firstNumber;
  const failures = {};
  let done = 0;

  async function one() {
    const own = number++;
    const from = random() % ACCOUNTS;
    const to = (from + 1 + (random() % (ACCOUNTS - 1))) % ACCOUNTS;
    const amount = 1 + (random() % 50);
    const mode = MODES[random() % 2];
    const durability = random() % 4 === 0 ? 'sync' : 'os';
    let hasSlip = false;
    fs.writeSync(file, `? ${thread} ${own}\n`);
    try {
      await db.transaction(
        async (tx) => {
          const [source, target] = [from, to].map((account) => placeOf(db, account));
          const read = (place) => {
            const space = tx.space(place.space);
            return mode === 'optimistic' ? space.getSync(place.key) : space.getForUpdate(place.key);
          };
          const balance = Number(await read(source)) - amount;
          hasSlip = balance >= 0;
          if (!hasSlip) return;
          void tx.space(source.space).put(source.key, String(balance));
          void tx.space(target.space).put(target.key, String(Number(await read(target)) + amount));
          await tx.put(slipKey(thread, own), `${from} ${to} ${amount}`);
        },
        { mode, durability, retries: RETRIES, timeoutMs: 20_000 },
      );
      if (hasSlip) fs.writeSync(file, `. ${thread} ${own}\n`);
      done++;
      tickets.count();
    } catch (error) {
      if (error.code === undefined) throw error;
      failures[error.code] = (failures[error.code] ?? 0) + 1;
    }
  }

  async function caller() {
    while (!isOver()) await one();
  }
  await Promise.all(Array.from({ length: callers }, caller));
  fs.closeSync(file);
  return { done, failures };
}

/** What the witness knows: `thread number` of every acknowledged transfer, and the first number that each thread has not used. @param {string} file */
export function readWitness(file) {
  const acknowledged = [];
  const nextNumbers = new Map();
  const text = fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : '';
  // The last line of a killed writer may be cut off.
  for (const line of text.slice(0, text.lastIndexOf('\n') + 1).split('\n')) {
    const [mark, thread, number] = line.split(' ');
    if (mark === '.') acknowledged.push([Number(thread), Number(number)]);
    if (mark === '?')
      nextNumbers.set(Number(thread), Math.max(nextNumbers.get(Number(thread)) ?? 0, Number(number) + 1));
  }
  return { acknowledged, nextNumbers };
}

/**
 * What is wrong with the bank: by what `reads` shows (a pool, or a snapshot), and, where given, by what the witness knows.
 * @returns {string[]}
 */
export async function audit(db, witness) {
  const problems = [];
  const expected = new Array(ACCOUNTS).fill(FIRST_BALANCE);
  const snapshot = await db.snapshot();
  try {
    const slips = new Set();
    for await (const [key, value] of snapshot.iterator({ prefix: 'slip/' })) {
      const [from, to, amount] = value.split(' ').map(Number);
      expected[from] -= amount;
      expected[to] += amount;
      slips.add(key);
    }
    let sum = 0;
    for (let account = 0; account < ACCOUNTS; account++) {
      const { space, key } = placeOf(db, account);
      const own = space === db ? snapshot : snapshot.space(space);
      const balance = Number(own.getSync(key));
      sum += balance;
      if (balance !== expected[account])
        problems.push(`account ${account} holds ${balance}, its slips say ${expected[account]}`);
    }
    if (sum !== ACCOUNTS * FIRST_BALANCE) problems.push(`the sum is ${sum}, not ${ACCOUNTS * FIRST_BALANCE}`);
    for (const [thread, number] of witness?.acknowledged ?? []) {
      if (!slips.has(slipKey(thread, number)))
        problems.push(`transfer ${number} of thread ${thread} was acknowledged, it has no slip`);
    }
  } finally {
    await snapshot.close();
  }
  return problems;
}
