// A gateway with keys asks for one; a cookie then stands for it, for pictures and events as well.

import { $, setText, show } from './dom.js';

let asking = null;

/** Asks the person for a key. Resolves to whether the gateway took one. All who ask at once share the dialog. */
export function askForKey() {
  asking ??= ask().finally(() => { asking = null; });
  return asking;
}

function ask() {
  const [dialog, form, input] = [$('key'), $('key-form'), $('key-input')];
  show($('key-problem'), false);
  input.value = '';
  return new Promise((resolve) => {
    let taken = false;
    form.onsubmit = async (event) => {
      event.preventDefault();
      const problem = await begin(input.value);
      taken = problem === null;
      if (taken) return dialog.close();
      setText('key-problem', problem);
      show($('key-problem'));
      input.select();
    };
    dialog.addEventListener('close', () => resolve(taken), { once: true });
    dialog.showModal();
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
