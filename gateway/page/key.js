// A gateway with keys asks for one; a cookie then stands for it, for pictures and events as well.

import { openDialog } from './dialogs.js';
import { $, setText, show } from './dom.js';
import { wake } from './health.js';

let asking = null;
/** The person has put it off: nothing asks again until they do something that needs a key. */
let isPutOff = false;
/** How many keys were taken so far. */
let taken = 0;
const listeners = [];

/** Calls `listener` with whether a key is missing, when that changes. */
export const onKey = (listener) => listeners.push(listener);

/** The person wants something, so they may be asked again. */
export const wanted = () => { isPutOff = false; };

/** To be handed to `askForKey` by a request that was sent at this time. */
export const keysTaken = () => taken;

/**
 * Asks the person for a key. Resolves to whether the gateway took one, which may have been after the
 * request was sent. All who ask at once share the dialog.
 */
export async function askForKey(before = taken) {
  if (taken !== before) return true;
  if (isPutOff) return false;
  asking ??= ask().finally(() => { asking = null; });
  return asking;
}

/** For the person's own button: there is no request that waits for the key. */
export function enterKey() {
  wanted();
  return askForKey();
}

function ask() {
  const [dialog, form, input] = [$('key'), $('key-form'), $('key-input')];
  show($('key-problem'), false);
  input.value = '';
  return new Promise((resolve) => {
    let isTaken = false;
    form.onsubmit = async (event) => {
      event.preventDefault();
      const problem = await begin(input.value);
      isTaken = problem === null;
      if (isTaken) return dialog.close();
      setText('key-problem', problem);
      show($('key-problem'));
      input.select();
    };
    dialog.addEventListener('close', () => {
      isPutOff = !isTaken;
      if (isTaken) taken += 1;
      resolve(isTaken);
      listeners.forEach((listener) => listener(!isTaken));
      if (isTaken) wake();
    }, { once: true });
    openDialog(dialog);
  });
}

/** Shows the key to the gateway; what is wrong with it, or null. */
async function begin(key) {
  try {
    const headers = { 'Content-Type': 'application/json' };
    const answer = await fetch('api/session', { method: 'POST', headers, body: JSON.stringify({ key }) });
    if (answer.ok) return null;
    return answer.status === 401 ? 'The gateway does not know this key.' : (await answer.json()).detail;
  } catch {
    return 'The gateway does not answer.';
  }
}
