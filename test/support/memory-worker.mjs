/** Worker side of the lock and ring tests: runs the scene named in workerData and reports with messages. */
import { parentPort, workerData } from 'node:worker_threads';
import { toOwnerId } from '../../dist/shared/memory/lock-owner.js';
import { Mutex } from '../../dist/shared/memory/mutex.js';
import { Doorbell } from '../../dist/shared/memory/park.js';
import { RING_USER_LINE_WORDS, RING_USER_WORDS, RingConsumer, RingProducer } from '../../dist/shared/memory/ring.js';
import { RwLock } from '../../dist/shared/memory/rwlock.js';
import { SeqLock } from '../../dist/shared/memory/seqlock.js';
import { makeRandom, mix } from './memory-random.mjs';

const report = (message) => parentPort.postMessage(message);
const forever = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
const spin = (rounds) => {
  let x = 0;
  for (let i = 0; i < rounds; i++) x = mix(x, i);
  return x;
};

const bells = (header) => [
  new Doorbell(header, RING_USER_WORDS),
  new Doorbell(header, RING_USER_WORDS + RING_USER_LINE_WORDS),
];

const scenes = {
  /** Writes `count` records of seeded sizes and words; parks when the ring is full. */
  ringProducer({ sab, seed, count }) {
    const ring = new RingProducer(sab);
    const [dataBell, roomBell] = bells(ring.header);
    const random = makeRandom(seed);
    let hash = 0;
    let parkCount = 0;
    for (let i = 0; i < count; i++) {
      const r = random();
      const wordCount = r % 1000 === 0 ? r % (ring.maxRecordBytes >> 2) : r % 24;
      const reserveSlack = r & 4;
      let at = ring.reserve(wordCount * 4 + reserveSlack);
      while (at < 0) {
        ring.publish();
        dataBell.unpark();
        roomBell.raise();
        at = ring.reserve(wordCount * 4 + reserveSlack);
        if (at >= 0) roomBell.lower();
        else if (roomBell.parkSync(150_000) === 'timed-out') throw new Error('no room for 150 s');
        else {
          parkCount++;
          at = ring.reserve(wordCount * 4 + reserveSlack);
        }
      }
      if (reserveSlack) ring.shrink(at, wordCount * 4);
      for (let w = 0; w < wordCount; w++) {
        const word = random() | 0;
        ring.words[(at >> 2) + w] = word;
        hash = mix(hash, word);
      }
      hash = mix(hash, wordCount * 4);
      if ((r & 31) === 0) {
        ring.publish();
        dataBell.unpark();
      }
    }
    ring.publish();
    dataBell.unpark();
    report({ hash, parkCount });
  },

  ringConsumer({ sab, count }) {
    const ring = new RingConsumer(sab);
    const [dataBell, roomBell] = bells(ring.header);
    let hash = 0;
    let parkCount = 0;
    for (let i = 0; i < count;) {
      const at = ring.next();
      if (at < 0) {
        ring.release();
        roomBell.unpark();
        dataBell.raise();
        if (ring.pending()) dataBell.lower();
        else {
          parkCount++;
          if (dataBell.parkSync(150_000) === 'timed-out') throw new Error('no record for 150 s');
        }
        continue;
      }
      for (let w = at >> 2, end = (at + ring.length) >> 2; w < end; w++) hash = mix(hash, ring.words[w]);
      hash = mix(hash, ring.length);
      i++;
      if ((i & 15) === 0) {
        ring.release();
        roomBell.unpark();
      }
    }
    ring.release();
    report({ hash, parkCount });
  },

  /** Publishes numbered records without end, until it is terminated. */
  ringFlood({ sab, first }) {
    const ring = new RingProducer(sab);
    report({ started: 1 });
    for (let n = first; ;) {
      const at = ring.reserve(64);
      if (at < 0) continue;
      for (let w = 0; w < 16; w++) ring.words[(at >> 2) + w] = n;
      n++;
      if (n % 3 === 0) ring.publish();
    }
  },

  /** One half of a ping-pong: waits until the turn is `me`, gives it to the other. */
  pingPong({ words, me, rounds, seed }) {
    const mine = new Doorbell(words, me * 16);
    const other = new Doorbell(words, (1 - me) * 16);
    const random = makeRandom(seed);
    let parkCount = 0;
    for (let i = 0; i < rounds; i++) {
      spin(random() % 400);
      while (Atomics.load(words, 32) !== me) {
        mine.raise();
        if (Atomics.load(words, 32) === me) mine.lower();
        else {
          parkCount++;
          if (mine.parkSync(150_000) === 'timed-out') throw new Error(`wake-up lost in round ${i}`);
        }
      }
      Atomics.store(words, 32, 1 - me);
      other.unpark();
    }
    report({ parkCount });
  },

  /** Adds `count` to a plain counter under the mutex. */
  mutexCount({ words, owner, count }) {
    const mutex = new Mutex(words, 0, toOwnerId(owner));
    for (let i = 0; i < count; i++) {
      mutex.acquire();
      const before = words[16];
      spin(i & 15);
      words[16] = before + 1;
      mutex.release();
    }
    report({ done: 1 });
  },

  /** Takes the mutex, says so and keeps it. */
  mutexHold({ words, owner }) {
    new Mutex(words, 0, toOwnerId(owner)).acquire();
    report({ holding: 1 });
    forever();
  },

  /** Waits for the mutex, reports how it found it. */
  mutexWait({ words, owner, timeoutMs }) {
    const mutex = new Mutex(words, 0, toOwnerId(owner));
    report({ waiting: 1 });
    try {
      const found = mutex.acquire(timeoutMs);
      mutex.release();
      report({ found });
    } catch (error) {
      report({ code: error.code });
    }
  },

  /** A pending acquireAsync, then whatever happens. */
  async mutexWaitAsync({ words, owner }) {
    const pending = new Mutex(words, 0, toOwnerId(owner)).acquireAsync();
    report({ waiting: 1 });
    setInterval(() => {}, 1000);
    await pending;
  },

  /** Keeps two plain words equal under the mutex, until it is terminated. */
  mutexPair({ words, owner }) {
    const mutex = new Mutex(words, 0, toOwnerId(owner));
    report({ started: 1 });
    for (let i = 0; ; i++) {
      if (mutex.acquire() === 'owner-died') {
        words[17] = words[16];
        mutex.markConsistent();
      } else if (words[16] !== words[17]) {
        Atomics.add(words, 18, 1);
      }
      words[16]++;
      spin(i & 63);
      words[17]++;
      mutex.release();
    }
  },

  /** Writers keep four plain words equal, readers compare them. */
  rwTorture({ words, ownersMax, owner, base, rounds, writeEvery }) {
    const lock = new RwLock(words, 0, ownersMax, toOwnerId(owner));
    let torn = 0;
    let writes = 0;
    for (let i = 1; i <= rounds; i++) {
      if (i % writeEvery === 0) {
        lock.acquireWrite();
        const n = words[base] + 1;
        for (let w = 0; w < 4; w++) {
          if (words[base + w] !== n - 1) torn++;
          words[base + w] = n;
          spin(8);
        }
        lock.releaseWrite();
        writes++;
      } else {
        lock.acquireRead();
        const n = words[base];
        spin(8);
        for (let w = 1; w < 4; w++) if (words[base + w] !== n) torn++;
        lock.releaseRead();
      }
    }
    report({ torn, writes });
  },

  rwHold({ words, ownersMax, owner, role, count }) {
    const lock = new RwLock(words, 0, ownersMax, toOwnerId(owner));
    for (let i = 0; i < count; i++) {
      if (role === 'read') lock.acquireRead();
      else lock.acquireWrite();
    }
    report({ holding: 1 });
    forever();
  },

  rwWait({ words, ownersMax, owner, role, timeoutMs }) {
    const lock = new RwLock(words, 0, ownersMax, toOwnerId(owner));
    report({ waiting: 1 });
    try {
      const found = role === 'read' ? lock.acquireRead(timeoutMs) : lock.acquireWrite(timeoutMs);
      if (role === 'read') lock.releaseRead();
      else lock.releaseWrite();
      report({ found });
    } catch (error) {
      report({ code: error.code });
    }
  },

  /** Writes without pause, until word `stop` is set; says in word `stop` + owner that it has begun. */
  rwHog({ words, ownersMax, owner, stop }) {
    const lock = new RwLock(words, 0, ownersMax, toOwnerId(owner));
    report({ started: 1 });
    let writes = 0;
    while (Atomics.load(words, stop) === 0) {
      lock.acquireWrite();
      spin(2000);
      lock.releaseWrite();
      if (writes++ === 0) Atomics.store(words, stop + owner, 1);
    }
    report({ writes });
  },

  /** Readers and writers without end, until terminated. */
  rwPair({ words, ownersMax, owner, base }) {
    const lock = new RwLock(words, 0, ownersMax, toOwnerId(owner));
    report({ started: 1 });
    for (let i = 0; ; i++) {
      if (i % 4 !== 0) {
        if (lock.acquireRead() === 'clean' && words[base] !== words[base + 1]) Atomics.add(words, base + 2, 1);
        lock.releaseRead();
        continue;
      }
      if (lock.acquireWrite() === 'owner-died') {
        words[base + 1] = words[base];
        lock.markConsistent();
      }
      words[base]++;
      spin(i & 63);
      words[base + 1]++;
      lock.releaseWrite();
    }
  },

  seqWriter({ words, owner, stop, pause }) {
    const lock = new SeqLock(words, 0, toOwnerId(owner));
    report({ started: 1 });
    let writes = 0;
    while (Atomics.load(words, stop) === 0) {
      writes++;
      lock.begin();
      for (let w = 0; w < 8; w++) words[16 + w] = writes;
      lock.end();
      spin(pause);
    }
    report({ writes });
  },

  seqReader({ words, owner, reads }) {
    const lock = new SeqLock(words, 0, toOwnerId(owner));
    const out = new Int32Array(8);
    let torn = 0;
    let last = 0;
    let backwards = 0;
    for (let i = 0; i < reads; i++) {
      // A writer may lose its core in the middle of a write.
      const first = lock.read(
        () => {
          for (let w = 0; w < 8; w++) out[w] = words[16 + w];
          return out[0];
        },
        { timeoutMs: 60_000 },
      );
      for (let w = 1; w < 8; w++) if (out[w] !== first) torn++;
      if (first < last) backwards++;
      last = first;
    }
    report({ torn, backwards, last });
  },

  seqDieInTheMiddle({ words, owner }) {
    const lock = new SeqLock(words, 0, toOwnerId(owner));
    lock.begin();
    words[16] = 99;
    report({ started: 1 });
    forever();
  },
};

await scenes[workerData.scene](workerData);
