// Errors, where they belong: beside the field that the message names, else below the button.

import { $, make, reveal, setText, show } from './dom.js';

/** What the server's messages call fields that are called otherwise here. */
const NAMES = { num_inference_steps: 'steps', guidance: 'guidance_scale', lora: 'loras' };
const FIELDS = ['prompt', 'negative_prompt', 'width', 'height', 'steps', 'seed', 'guidance_scale', 'shift', 'scheduler',
  'strength', 'image', 'loras', 'template', 'system_prompt', 'thinking_content', 'encoder', 'output_format'];

/** What a status means for a person; the message itself says more. */
const TITLES = {
  0: 'The server does not answer', 200: 'This image cannot be shown', 400: 'These settings do not work', 401: 'An API key is needed',
  403: 'The server does not allow this', 404: 'The server does not have this', 409: 'This is not finished yet',
  410: 'The image was deleted', 413: 'This is too large', 429: 'Too many requests', 499: 'Cancelled', 500: 'The server made a mistake',
  501: 'This server cannot do that', 502: 'A part of the server was lost', 503: 'The server is busy or not ready',
  504: 'This took too long', 507: 'There is not enough memory or space',
};
TITLES[415] = TITLES[422] = TITLES[400];

export const titleOf = ({ status }) => TITLES[status] ?? 'Something went wrong';

/** The field that a message is about: it begins with its name, or speaks of a choice that is not there. */
export function fieldOf(detail) {
  if (/^\d+x\d+ is /.test(detail)) return 'width';
  const word = /^(?:the )?[`"']?([a-z_]+)/i.exec(detail)?.[1].toLowerCase();
  const name = NAMES[word] ?? word;
  if (FIELDS.includes(name)) return name;
  const choice = /\b(template|scheduler|encoder|lora)\b/i.exec(detail)?.[1].toLowerCase();
  return choice ? NAMES[choice] ?? choice : null;
}

const boxOf = (name) => document.querySelector(`[data-field="${name}"]`) ?? controlOf(name)?.closest('.field') ?? null;
const controlOf = (name) => $('composer').querySelector(`[name="${name}"]:not([type=hidden])`);

/** Puts a message beside a field, or with null takes it away. */
export function fieldProblem(name, text) {
  $(`problem-${name}`)?.remove();
  const [box, control] = [boxOf(name), controlOf(name)];
  control?.removeAttribute('aria-invalid');
  control?.removeAttribute('aria-errormessage');
  if (!box || text === null) return;
  box.append(make('p', { className: 'problem', id: `problem-${name}`, role: 'alert' }, text));
  control?.setAttribute('aria-invalid', 'true');
  control?.setAttribute('aria-errormessage', `problem-${name}`);
}

export function clearProblems() {
  FIELDS.forEach((name) => fieldProblem(name, null));
  show($('form-problem'), false);
}

/** Shows what is wrong with a request. */
export function place(problem) {
  const field = [400, 404, 413, 422].includes(problem.status) ? fieldOf(problem.detail) : null;
  if (field && boxOf(field)) {
    const control = controlOf(field);
    for (let at = boxOf(field); at; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true;
    fieldProblem(field, problem.detail);
    control?.focus({ preventScroll: true });
    reveal(boxOf(field), 'center');
    return;
  }
  const again = problem.retryAfter ? `${/[.!?]$/.test(problem.detail) ? '' : '.'} Try again in ${problem.retryAfter} s.` : '';
  setText('form-problem', problem.detail + again);
  show($('form-problem'));
  reveal($('form-problem'));
}
