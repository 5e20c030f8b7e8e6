// The template picker: a search, categories, a list, and what the chosen one makes of the prompt.

import { call } from './api.js';
import { openDialog } from './dialogs.js';
import { $, debounce, make, setText, show } from './dom.js';
import { changed, setTemplate, template } from './settings.js';
import { countText, format, showChat } from './tokens.js';

let all = [];
let shown = [];
let active = null;
let category = '';

export async function load() {
  all = (await call('GET', 'api/templates')).templates;
  drawCategories();
}

function drawCategories() {
  const names = [...new Set(all.map((one) => one.category))];
  const chip = (name, label, count) => make('label', { className: 'chip' },
    make('input', { type: 'radio', name: 'category', value: name, checked: name === '' }),
    label, make('span', { className: 'value' }, String(count)));
  const chips = names.map((name) => chip(name, name, all.filter((one) => one.category === name).length));
  const legend = $('picker-categories').querySelector('legend');
  $('picker-categories').replaceChildren(legend, chip('', 'all', all.length), ...chips);
}

function open() {
  active = all.find((one) => one.name === template()) ?? null;
  $('picker-search').value = '';
  choose('');
  openDialog($('picker'));
  $('picker-search').focus();
  reveal();
}

function choose(name) {
  category = name;
  document.querySelector(`#picker-categories input[value="${CSS.escape(name)}"]`).checked = true;
  draw();
}

/** A template is found when each word of the search occurs in what is said about it. */
function isFound(one, words) {
  const text = `${one.name} ${one.category} ${one.description}`.toLowerCase().replaceAll('_', ' ');
  return (!category || one.category === category) && words.every((word) => text.includes(word));
}

function draw() {
  const words = $('picker-search').value.toLowerCase().split(/[\s_]+/).filter(Boolean);
  shown = all.filter((one) => isFound(one, words));
  if (!shown.includes(active)) active = shown[0] ?? null;
  $('picker-list').replaceChildren(...shown.map(option));
  setText('picker-count', shown.length === 1 ? '1 template' : `${shown.length} templates`);
  select(active);
}

function option(one) {
  return make('li', {
    id: `template-${one.name}`, role: 'option', 'aria-selected': 'false', 'data-name': one.name,
    onclick: () => select(one), ondblclick: use,
  }, make('span', { className: 'name' }, title(one.name)), make('span', { className: 'hint' }, one.description));
}

export const title = (name) => name.replace(/^z_image_/, '').replaceAll('_', ' ');

function select(one) {
  active = one;
  for (const row of $('picker-list').children) {
    row.setAttribute('aria-selected', String(row.dataset.name === one?.name));
  }
  $('picker-search').setAttribute('aria-activedescendant', one ? `template-${one.name}` : '');
  $('picker-use').disabled = !one;
  show($('picker-none'), template() !== '');
  describe(one);
}

const reveal = () => active && $(`template-${active.name}`)?.scrollIntoView({ block: 'nearest' });

function describe(one) {
  const about = $('picker-about');
  if (!one) return about.replaceChildren(make('p', { className: 'hint' }, 'No template matches all of these words.'));
  const pre = make('pre', { className: 'chat', tabIndex: 0, 'aria-label': 'Formatted prompt' });
  const count = make('span', { className: 'value' });
  about.replaceChildren(
    make('div', { className: 'row between' }, make('h3', {}, title(one.name)),
      make('span', { className: 'value' }, one.category + (one.has_thinking ? ', with thinking' : ''))),
    make('p', { className: 'hint' }, one.description),
    make('h4', {}, 'With your prompt ', count), pre,
  );
  preview(one, pre, count);
}

const preview = debounce(120, async (one, pre, count) => {
  try {
    const answer = await format({ template: one.name });
    showChat(pre, answer.formatted_prompt);
    count.textContent = countText(answer);
  } catch (problem) {
    pre.textContent = problem.detail;
  }
});

function use() {
  if (active) pick(active.name);
}

function pick(name) {
  setTemplate(name);
  changed();
  $('picker').close();
}

function move(by) {
  const at = Math.min(Math.max(shown.indexOf(active) + by, 0), shown.length - 1);
  if (shown[at]) select(shown[at]);
  reveal();
}

const KEYS = { ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(8), PageUp: () => move(-8), Enter: use };

export function wire() {
  $('template-open').onclick = open;
  $('template-clear').onclick = () => pick('');
  $('picker-use').onclick = use;
  $('picker-none').onclick = () => pick('');
  $('picker-search').oninput = () => { draw(); $('picker-list').scrollTop = 0; };
  $('picker-search').onkeydown = (event) => {
    if (!KEYS[event.key] || event.isComposing) return;
    event.preventDefault();
    KEYS[event.key]();
  };
  $('picker-categories').onchange = (event) => choose(event.target.value);
}
