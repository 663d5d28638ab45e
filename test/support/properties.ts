/** Before each test file: a property that has found a counterexample is made smaller for so long at most; what was found until then is told, with its seed. */
import fc from 'fast-check';

const TIME_LIMIT_MS = 120_000;

fc.configureGlobal({ interruptAfterTimeLimit: TIME_LIMIT_MS });
