// LoRAs of the diffusion service. What is ticked here holds for the pictures made here, and
// changes nothing for others.

import { call } from './api.js';
import { $, fillSlider, make, setText } from './dom.js';
import { recall, remember } from './store.js';

let known = [];
let chosen = new Map();

/** As a request wants them: exactly these. Nothing where the service has none. */
export const loras = () => known.length ? [...chosen].map(([name, one]) => ({ name, ...one })) : undefined;

export async function load() {
  try {
    known = (await call('GET', 'api/loras')).loras;
  } catch (problem) {
    known = [];
    setText('loras-hint', problem.status === 501 ? `Not set up: ${problem.detail}` : problem.detail);
    return;
  }
  restore();
  draw();
}

/** The last choice, or at first what the service itself has in use. */
function restore() {
  const saved = recall('loras');
  const names = new Set(known.filter((one) => !one.problem).map((one) => one.name));
  const active = known.filter((one) => one.active).map((one) => ({ name: one.name, scale: one.scale ?? 1, trigger_words: one.trigger_words ?? '' }));
  set((saved ?? active).filter((one) => names.has(one.name)));
}

function set(list) {
  chosen = new Map(list.map(({ name, scale = 1, trigger_words }) => [name, trigger_words ? { scale, trigger_words } : { scale }]));
}

export function reuse(list = []) {
  if (!known.length) return;
  const names = new Set(known.map((one) => one.name));
  set(list.filter((one) => names.has(one.name)));
  keep();
}

function keep() {
  remember('loras', [...chosen].map(([name, one]) => ({ name, ...one })));
  draw();
}

function draw() {
  setText('loras-hint', known.length ? '' : 'The folder for LoRAs is empty.');
  setText('loras-text', chosen.size ? String(chosen.size) : '');
  $('loras-list').replaceChildren(...known.map(row));
}

function row(one) {
  const on = chosen.has(one.name);
  const tick = make('input', { type: 'checkbox', checked: on, disabled: Boolean(one.problem), onchange: () => toggle(one) });
  const about = one.problem ?? `rank ${one.rank ?? '?'}, ${one.modules} modules`;
  return make('li', {}, make('label', { className: 'check' }, tick, make('span', {}, one.name,
    make('span', { className: one.problem ? 'problem' : 'hint' }, about))), on ? controls(one.name) : null);
}

function toggle(one) {
  if (chosen.has(one.name)) chosen.delete(one.name);
  else chosen.set(one.name, one.trigger_words ? { scale: 1, trigger_words: one.trigger_words } : { scale: 1 });
  keep();
  $('loras-list').children[known.indexOf(one)].querySelector('input').focus();
}

function controls(name) {
  const change = (more) => {
    chosen.set(name, { ...chosen.get(name), ...more });
    remember('loras', [...chosen].map(([key, value]) => ({ name: key, ...value })));
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
