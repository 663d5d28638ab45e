/**
 * Before each test file: a property that has found a counterexample is made smaller for so long at most; what was found until then is told, with its seed.
 * An assertion without a proxy around it costs half of one with it, and many tests make hundreds of thousands; what the proxy is for, a misspelt name, the
 * compiler finds.
 */
import fc from 'fast-check';
import { chai } from 'vitest';

const TIME_LIMIT_MS = 120_000;

fc.configureGlobal({ interruptAfterTimeLimit: TIME_LIMIT_MS });
chai.config.useProxy = false;
