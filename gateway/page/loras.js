// LoRAs of the diffusion service. The server has a default set, which others can change; what is
// ticked here holds for the pictures made here, and changes nothing for others.

import { call } from './api.js';
import { $, fillSlider, make, setText, show } from './dom.js';
import { own } from './store.js';

const KEY = 'loras';
let known = [];
let defaults = [];
/** This person's choice, by name; null while they leave it to the server. */
let chosen = null;

/** As a request wants them: exactly these, or nothing for the server's default set. */
export const loras = () => known.length && chosen ? listed() : undefined;

const listed = () => [...chosen].map(([name, one]) => ({ name, ...one }));

export async function load() {
  try {
    const answer = await call('GET', 'api/loras');
    known = answer.loras;
    defaults = answer.active;
  } catch (problem) {
    known = [];
    draw(problem.status === 501 ? `Not set up: ${problem.detail}` : problem.detail);
    return;
  }
  const names = new Set(known.filter((one) => !one.problem).map((one) => one.name));
  set(own.recall(KEY)?.list?.filter((one) => names.has(one.name)) ?? null);
  draw();
}

function set(list) {
  // What the page has no control for is kept as it came.
  const entry = ({ name, scale = 1, trigger_words, blocks, pass }) => [name, { scale, ...(trigger_words && { trigger_words }), ...(blocks && { blocks }), ...(pass && { pass }) }];
  chosen = list && new Map(list.map(entry));
}

/** Takes over the LoRAs of a picture. Returns the names of those that this server does not have. */
export function reuse(list = []) {
  const names = new Set(known.map((one) => one.name));
  if (known.length) choose(list.filter((one) => names.has(one.name)));
  return list.map((one) => one.name).filter((name) => !names.has(name));
}

/** Leaves the choice to the server again. */
export const reset = () => choose(null);

function choose(list) {
  set(list);
  keep();
  draw();
}

const keep = () => own.remember(KEY, { list: chosen && listed() });

function draw(problem = '') {
  setText('loras-hint', problem || (known.length ? '' : 'The folder for LoRAs is empty.'));
  setText('loras-text', chosen?.size ? String(chosen.size) : !chosen && defaults.length && known.length ? 'server default' : '');
  drawDefault();
  $('loras-list').replaceChildren(...known.map(row));
}

/** The server's set is told as the server's; with none, there is nothing to choose between. */
function drawDefault() {
  show($('loras-default-row'), known.length > 0 && defaults.length > 0);
  $('loras-default').checked = !chosen;
  setText('loras-default-text', defaults.map(({ name, scale }) => `${name} ${scale ?? 1}`).join(', '));
}

function row(one) {
  const on = chosen?.has(one.name);
  const tick = make('input', { type: 'checkbox', checked: on, disabled: Boolean(one.problem), onchange: () => toggle(one) });
  const about = one.problem ?? `rank ${one.rank ?? '?'}, ${one.modules} modules`;
  return make('li', {}, make('label', { className: 'check' }, tick, make('span', {}, one.name,
    make('span', { className: one.problem ? 'problem' : 'hint' }, about))), on ? controls(one.name) : null);
}

function toggle(one) {
  chosen ??= new Map();
  if (chosen.has(one.name)) chosen.delete(one.name);
  else chosen.set(one.name, one.trigger_words ? { scale: 1, trigger_words: one.trigger_words } : { scale: 1 });
  keep();
  draw();
  $('loras-list').children[known.indexOf(one)].querySelector('input').focus();
}

function controls(name) {
  const change = (more) => {
    chosen.set(name, { ...chosen.get(name), ...more });
    keep();
  };
  const { scale, trigger_words: words = '' } = chosen.get(name);
  const number = make('input', { type: 'number', step: '0.05', value: scale, 'aria-label': `Scale of ${name}` });
  const range = make('input', { type: 'range', min: '-1', max: '2', step: '0.05', value: scale, 'aria-label': `Scale of ${name}` });
  const follow = (from, to) => {
    to.value = from.value;
    change({ scale: Number(from.value) });
    fillSlider(range);
  };
  range.oninput = () => follow(range, number);
  number.oninput = () => follow(number, range);
  fillSlider(range);
  const text = make('input', { value: words, placeholder: 'trigger words', 'aria-label': `Trigger words of ${name}` });
  text.oninput = () => change({ trigger_words: text.value || undefined });
  return make('div', { className: 'controls' }, make('div', { className: 'slide' }, range, number), text);
}

export function wire() {
  $('loras-default').onchange = (event) => choose(event.target.checked ? null : []);
  // Others may have changed the default set.
  $('loras').addEventListener('toggle', () => { if ($('loras').open && known.length) load(); });
}
