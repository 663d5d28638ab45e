/**
 * What the lives of the kill loop were told, in a file outside the store: spaces made, moved and dropped, and every write to them.
 *
 *   w <space> <incarnation> <key> <generation> <p|d> <expiresAt> <?|.>     a put or delete; expiresAt ms since the epoch, the earliest; 0: never
 *   c <space> <incarnation> <engine> <?|.>                                 created
 *   s <space> <incarnation> <engine> <?|.>                                 moved to another engine
 *   d <space> <incarnation> - <?|.>                                        dropped
 *   b <space> <incarnation> - .                                            its ballast is there
 *   g <space> <incarnation> - .                                            gone, as the life before found
 *
 * '?' stands before a call is made, '.' after it was acknowledged. A space that is made again under the same name is its next incarnation. What the
 * operating system has got survives the death of a process; the last line of a killed writer may be cut off, and means nothing then.
 */
import * as fs from 'node:fs';

/** What is known of a key: the last acknowledged call, and those that were begun later. Calls take effect in the order of their generations. */
function newKeyFacts() {
  return { acknowledged: 0, isDelete: true, expiresAt: 0, begun: [] };
}

export class SpaceFacts {
  name;
  incarnation = 0;
  /** 'creating' and 'dropping': begun and not acknowledged. */
  state = 'gone';
  /** Acknowledged; with those that were begun later it is one of `engines`. */
  engines = [];
  hasBallast = false;
  keys = new Map();

  constructor(name) {
    this.name = name;
  }

  key(name) {
    let facts = this.keys.get(name);
    if (facts === undefined) this.keys.set(name, (facts = newKeyFacts()));
    return facts;
  }

  /** The space is gone, or not there yet. */
  forget() {
    this.state = 'gone';
    this.engines = [];
    this.hasBallast = false;
    this.keys.clear();
  }
}

export class SceneWitness {
  spaces = new Map();
  acknowledgedLines = 0;
  acknowledgedDrops = 0;
  acknowledgedSwitches = 0;
  #path;
  #file;

  constructor(path) {
    this.#path = path;
    if (!fs.existsSync(path)) return;
    const text = fs.readFileSync(path, 'utf8');
    for (const line of text.slice(0, text.lastIndexOf('\n') + 1).split('\n')) this.#read(line.split(' '));
  }

  of(name) {
    let facts = this.spaces.get(name);
    if (facts === undefined) this.spaces.set(name, (facts = new SpaceFacts(name)));
    return facts;
  }

  #read(fields) {
    const [kind, name, incarnationText] = fields;
    const mark = fields.at(-1);
    if (mark !== '?' && mark !== '.') return;
    const facts = this.of(name);
    const incarnation = Number(incarnationText);
    const isAcknowledged = mark === '.';
    if (isAcknowledged) this.acknowledgedLines++;
    if (kind === 'c') {
      if (incarnation !== facts.incarnation) facts.forget();
      facts.incarnation = incarnation;
      facts.state = isAcknowledged ? 'there' : 'creating';
      facts.engines = [fields[3]];
      return;
    }
    // Of a space that is gone: calls that ended after its drop was acknowledged.
    if (incarnation !== facts.incarnation || facts.state === 'gone') return;
    if (kind === 'd') {
      if (!isAcknowledged) facts.state = 'dropping';
      else {
        facts.forget();
        this.acknowledgedDrops++;
      }
    } else if (kind === 'g') facts.forget();
    else if (kind === 'b') facts.hasBallast = true;
    else if (kind === 's') {
      if (isAcknowledged) this.acknowledgedSwitches++;
      facts.engines = isAcknowledged ? [fields[3]] : [...facts.engines, fields[3]];
    } else this.#readWrite(facts.key(fields[3]), fields, isAcknowledged);
  }

  #readWrite(entry, [, , , , generationText, kind, expiresAtText], isAcknowledged) {
    const generation = Number(generationText);
    const isDelete = kind === 'd';
    const expiresAt = Number(expiresAtText);
    if (!isAcknowledged) entry.begun.push({ generation, isDelete, expiresAt });
    else if (generation > entry.acknowledged) {
      Object.assign(entry, { acknowledged: generation, isDelete, expiresAt });
    }
    entry.begun = entry.begun.filter((call) => call.generation > entry.acknowledged);
  }

  /** Starts over with what was found. In one step, so that a kill leaves the old file or the new one. */
  restart() {
    const lines = [];
    for (const { name, incarnation, state, engines, hasBallast, keys } of this.spaces.values()) {
      lines.push(`c ${name} ${incarnation} ${engines[0] ?? '-'} .\n`);
      if (state === 'gone') lines.push(`g ${name} ${incarnation} - .\n`);
      if (hasBallast) lines.push(`b ${name} ${incarnation} - .\n`);
      for (const [key, { acknowledged, isDelete, expiresAt }] of keys) {
        if (acknowledged > 0) lines.push(writeLine(name, incarnation, key, acknowledged, isDelete, expiresAt, '.'));
      }
    }
    fs.writeFileSync(`${this.#path}.next`, lines.join(''));
    fs.renameSync(`${this.#path}.next`, this.#path);
    this.#file = fs.openSync(this.#path, 'a');
  }

  /** kind: c, s, d or b. */
  note(kind, { name, incarnation }, engine, mark) {
    fs.writeSync(this.#file, `${kind} ${name} ${incarnation} ${engine} ${mark}\n`);
  }

  /** `calls`: { space: SpaceFacts, incarnation, key, generation, isDelete, expiresAt }. */
  noteWrites(calls, mark) {
    const lines = calls.map(({ space, incarnation, key, generation, isDelete, expiresAt }) =>
      writeLine(space.name, incarnation, key, generation, isDelete, expiresAt, mark),
    );
    fs.writeSync(this.#file, lines.join(''));
  }
}

function writeLine(name, incarnation, key, generation, isDelete, expiresAt, mark) {
  return `w ${name} ${incarnation} ${key} ${generation} ${isDelete ? 'd' : 'p'} ${expiresAt} ${mark}\n`;
}
