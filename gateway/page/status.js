// The server, in the bar: its model, and whether it answers.

import { KEY_NEEDED } from './api.js';
import { $, make, setText, show } from './dom.js';
import { check, onHealth } from './health.js';
import { enterKey, onKey } from './key.js';

/** Short, for phones. */
const TEXTS = {
  away: 'No answer; trying again',
  draining: 'Shutting down',
  unavailable: 'Not ready; trying again',
};

let model = '';
let health = 'unknown';
let isKeyMissing = false;

function present() {
  const isBad = isKeyMissing || !['ok', 'unknown'].includes(health);
  const text = health === 'away' ? TEXTS.away : isKeyMissing ? 'API key needed' : TEXTS[health] ?? model;
  const dot = make('span', { className: isBad ? 'dot bad' : 'dot', 'aria-hidden': 'true' });
  // The same text again would be said again.
  if ($('model').textContent !== text || $('model').firstChild?.className !== dot.className) {
    $('model').replaceChildren(...(text ? [dot, make('span', {}, text)] : []));
  }
  show($('key-open'), isKeyMissing && health !== 'away');
}

export function setModel({ model: name, device, dtype, version }) {
  model = `${name}, ${device} ${dtype ?? ''}`.trim();
  isKeyMissing = false;
  $('model').title = `llm-dit ${version}`;
  present();
}

/** The model could not be asked for; the reason may be known already, or is asked for. */
export function setProblem(problem) {
  $('model').title = problem.detail;
  if (problem.status === KEY_NEEDED) isKeyMissing = true;
  else check();
  present();
}

export function wire() {
  $('key-open').onclick = enterKey;
  onHealth((now) => { health = now; present(); });
  onKey((isMissing) => { isKeyMissing = isMissing; present(); });
}
