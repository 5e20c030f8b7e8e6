// The prompt as the text encoder gets it, and how many tokens that is.

import { call } from './api.js';
import { $, debounce, make, setText } from './dom.js';
import { texts } from './settings.js';

const PARTS = { system: 'system', user: 'prompt', thinking: 'thinking', assistant: 'assistant', frame: 'frame' };

/** Asks for the chat around the current prompt; `more` goes over the form's own texts. */
export const format = (more = {}, signal) => call('POST', 'api/format-prompt', { ...texts(), ...more }, { signal });

/** Shows a formatted prompt, with its special tokens set apart. */
export function showChat(pre, text) {
  const parts = text.split(/(<\|[^|>]+\|>|<\/?think>)/);
  pre.replaceChildren(...parts.map((part, at) => (at % 2 ? make('span', { className: 'token' }, part) : part)));
}

export function countText({ token_count: count, max_tokens: max }) {
  if (count === null) return '';
  return count > max ? `${count} tokens, cut to ${max}` : `${count} of ${max} tokens`;
}

export function partsText({ tokens, char_count: characters }) {
  if (!tokens) return `${characters} characters. This encoder does not count tokens.`;
  const parts = Object.entries(PARTS).filter(([name]) => tokens[name]);
  return parts.map(([name, label]) => `${tokens[name]} ${label}`).join(' + ');
}

let asked;

async function update() {
  asked?.abort();
  asked = new AbortController();
  try {
    present(await format({}, asked.signal));
  } catch (problem) {
    if (problem.name !== 'AbortError') setText('tokens', '');
  }
}

function present(answer) {
  setText('tokens', countText(answer));
  $('tokens').classList.toggle('over', answer.token_count > answer.max_tokens);
  showChat($('formatted'), answer.formatted_prompt);
  setText('token-parts', partsText(answer));
}

export const refresh = debounce(250, update);
