/**
 * Loaded before anything else (node --import) into every thread of a process: file operations fail as the file named by CONCORDKV_FAULTS says,
 * for as long as it exists: { call, errno, match } with match a part of the file's path.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const rulesPath = process.env.CONCORDKV_FAULTS;
const pathOf = new Map();
const { readFileSync, openSync, closeSync } = fs;

/** Empty while there are none: other threads may be about to write the file, or have just removed it. */
function rulesNow() {
  try {
    return readFileSync(rulesPath, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return '';
    throw error;
  }
}

function failsFor(call, path) {
  const rules = rulesNow();
  if (rules === '') return;
  const { call: failing, errno, match } = JSON.parse(rules);
  if (!failing.split(',').includes(call) || !String(path).includes(match)) return;
  throw Object.assign(new Error(`${errno}: made to fail, ${call} '${path}'`), {
    code: errno,
    errno: -1,
    syscall: call,
    path,
  });
}

fs.openSync = (path, ...rest) => {
  failsFor('open', path);
  const descriptor = openSync(path, ...rest);
  pathOf.set(descriptor, path);
  return descriptor;
};
fs.closeSync = (descriptor) => {
  pathOf.delete(descriptor);
  closeSync(descriptor);
};
for (const [name, call] of [
  ['writeSync', 'write'],
  ['writevSync', 'write'],
  ['fdatasyncSync', 'sync'],
  ['fsyncSync', 'sync'],
  ['ftruncateSync', 'truncate'],
]) {
  const original = fs[name];
  fs[name] = (descriptor, ...rest) => {
    failsFor(call, pathOf.get(descriptor) ?? '');
    return original(descriptor, ...rest);
  };
}
for (const [name, call] of [
  ['renameSync', 'rename'],
  ['mkdirSync', 'mkdir'],
  ['readdirSync', 'list'],
  ['statSync', 'stat'],
]) {
  const original = fs[name];
  fs[name] = (path, ...rest) => {
    failsFor(call, path);
    return original(path, ...rest);
  };
}
syncBuiltinESMExports();
