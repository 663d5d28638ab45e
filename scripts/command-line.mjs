/**
 * The command line of the scripts that people run by hand (bench, test, demo): --help tells what the script is, and what is not understood ends it with exit
 * code 2 and the reason. Threads: main.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

/** The comment at the head of a script, which says how it is called. url: its import.meta.url. */
export function headOf(url) {
  const source = readFileSync(new URL(url), 'utf8');
  const comment = source.slice(source.indexOf('/**') + 3, source.indexOf('*/'));
  return `${comment.replaceAll(/^ \* ?/gm, '').trim()}\n`;
}

export class CommandLine {
  /** By the names of the options. */
  values;
  #help;

  /** options: as parseArgs() takes them. Does not return if --help is among the arguments, or anything that is no option. */
  constructor(help, options) {
    this.#help = help;
    try {
      ({ values: this.values } = parseArgs({ options: { ...options, help: { type: 'boolean', short: 'h' } } }));
    } catch (error) {
      this.refuse(error.message);
    }
    if (!this.values.help) return;
    process.stdout.write(help);
    process.exit(0);
  }

  /** Ends the process. */
  refuse(message) {
    process.stderr.write(`${message}\n\n${this.#help}`);
    process.exit(2);
  }

  /** A number of at least `least`; undefined if it was not given and there is no fallback. */
  number(name, least, fallback) {
    const text = this.values[name] ?? fallback;
    if (text === undefined) return undefined;
    const number = Number(text);
    if (text === '' || !(number >= least)) this.refuse(`--${name}: ${text} is no number of at least ${least}`);
    return number;
  }

  /** The same without fractions. */
  whole(name, least, fallback) {
    const number = this.number(name, least, fallback);
    if (number !== undefined && !Number.isInteger(number)) this.refuse(`--${name}: ${number} is no whole number`);
    return number;
  }

  /** Parts between commas. */
  list(name, fallback) {
    const text = this.values[name] ?? fallback;
    return text?.split(',').map((part) => part.trim());
  }

  wholes(name, least, fallback) {
    return this.list(name, fallback).map((text) => {
      const number = Number(text);
      if (text === '' || !Number.isInteger(number) || number < least)
        this.refuse(`--${name}: ${text} is no whole number of at least ${least}`);
      return number;
    });
  }

  /** Parts between commas, each of them among `allowed`. */
  names(name, allowed, fallback) {
    const names = this.list(name, fallback);
    for (const one of names ?? [])
      if (!allowed.includes(one)) this.refuse(`--${name}: ${one} is none of ${allowed.join(', ')}`);
    return names;
  }
}
