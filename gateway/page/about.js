// What the model says of itself, and prompts to begin with.

import { openDialog } from './dialogs.js';
import { $, make, setText, show } from './dom.js';
import { setPrompt } from './settings.js';

/** For models that bring none. */
const EXAMPLES = ['a red apple on a blue background', 'a lighthouse in a storm', 'a wizard', 'a palm tree'];

function draw(list, examples, leave = () => {}) {
  const idea = (text) => make('li', {}, make('button', { type: 'button', onclick: () => { leave(); setPrompt(text); } }, text));
  list.replaceChildren(...examples.map(idea));
}

export function setModel({ model, device, dtype, version, description, examples = [] }) {
  const shown = examples.length ? examples : EXAMPLES;
  setText('empty-about', description ?? '');
  draw($('ideas'), shown);
  show($('ideas-hint'));
  show($('about-open'), Boolean(description));
  setText('about-title', `The model: ${model}`);
  setText('about-text', description ?? '');
  setText('about-facts', `${device} ${dtype ?? ''}, llm-dit ${version}`);
  draw($('about-examples'), shown, () => $('about').close());
}

export function wire() {
  $('about-open').onclick = () => openDialog($('about'));
}
