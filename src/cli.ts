#!/usr/bin/env node
/** The command `concordkv`. Everything is in cli/; this file only hands over and sets the exit code. */
import { run } from './cli/program.js';

process.exitCode = await run(process.argv);
