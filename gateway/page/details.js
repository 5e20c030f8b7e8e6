// What a picture was made with, each part of it to be used again, and what can be done with it.

import { relative } from './api.js';
import { button, make, toast } from './dom.js';
import { reuse as reuseLoras } from './loras.js';
import { changed, reuse, reuseOne, reuseSize } from './settings.js';
import { startFrom } from './source.js';

const LABELS = {
  negative_prompt: 'Negative prompt', template: 'Template', size: 'Size', steps: 'Steps', seed: 'Seed', scheduler: 'Scheduler',
  guidance_scale: 'Guidance', shift: 'Shift', strength: 'Strength', loras: 'LoRAs', encoder: 'Encoder',
  system_prompt: 'System prompt', thinking_content: 'Thinking',
};
const ENDINGS = { 'image/png': 'png', 'image/jpeg': 'jpg', 'image/webp': 'webp' };
/** What follows from the picture or the request and needs no row. */
const SILENT = ['prompt', 'width', 'height', 'image'];

const label = (name) => LABELS[name] ?? name.replaceAll('_', ' ');
const loraText = (list) => list.map(({ name, scale }) => `${name} ${scale ?? 1}`).join(', ') || 'none';

/** Names and values in the order of `LABELS`, then whatever else there is. */
function rows(parameters) {
  const { width, height } = parameters;
  const all = { ...parameters, size: width ? `${width} × ${height}` : null };
  const names = [...new Set([...Object.keys(LABELS), ...Object.keys(all)])];
  const given = (name) => all[name] !== null && all[name] !== undefined && all[name] !== '';
  return names.filter((name) => !SILENT.includes(name) && given(name)).map((name) => [name, all[name]]);
}

function useOne(name, parameters) {
  if (name === 'loras') {
    const missing = reuseLoras(parameters.loras);
    if (missing.length) return toast(`This server does not have ${missing.join(', ')}`);
  } else if (name === 'size') reuseSize(parameters);
  else if (!reuseOne(name, parameters[name])) return toast(`This page has no field for ${label(name)}`);
  changed();
  toast(`${label(name)} is in use`);
}

export function useAll(parameters) {
  // Without LoRAs in its parameters, a picture was made with none.
  const rest = [...reuse(parameters).map(label), ...reuseLoras(parameters.loras ?? [])];
  toast(rest.length ? `In use, except ${rest.join(', ')}` : 'All parameters are in use');
}

function row([name, value], parameters) {
  const shown = name === 'loras' ? loraText(value) : String(value);
  const isLong = shown.length > 28;
  return make('button', {
    type: 'button', className: isLong ? 'parameter long' : 'parameter', title: `Use this ${label(name).toLowerCase()}`,
    'data-name': name, onclick: () => useOne(name, parameters),
  }, make('span', { className: 'label' }, label(name)), make('span', { className: 'shown' }, shown));
}

/** A file name that says what is in it. */
function fileName({ prompt = '', seed }, mediaType) {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ['picture'];
  return `${words.join('-').slice(0, 60)}-${seed}.${ENDINGS[mediaType] ?? 'png'}`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyTheOldWay(text);
  }
  toast('Link copied');
}

/** Without https the clipboard is closed, except to this. */
function copyTheOldWay(text) {
  const area = make('textarea', { value: text, className: 'unseen' });
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

/** Everything about a picture. `more` are buttons beside the usual ones, `leave` runs before one that needs the form. */
export function describe({ parameters, image_url, media_type, generation_time }, leave = () => {}, more = []) {
  const url = relative(image_url);
  const save = make('a', { className: 'button', href: url, download: fileName(parameters, media_type) });
  save.append(...button('Download', 'save').childNodes);
  const actions = make('div', { className: 'actions' },
    button('Use all', 'reuse', () => { useAll(parameters); leave(); }), save,
    button('Copy link', 'link', () => copy(new URL(url, document.baseURI).href)),
    button('Use as init image', 'image', () => { startFrom(url); leave(); }), ...more);
  const words = make('button', {
    type: 'button', className: 'prompt', title: 'Use this prompt', 'data-name': 'prompt', onclick: () => useOne('prompt', parameters),
  }, parameters.prompt ?? '');
  const list = make('div', { className: 'parameters' }, ...rows(parameters).map((one) => row(one, parameters)));
  const took = generation_time ? `Made in ${generation_time.toFixed(generation_time < 10 ? 1 : 0)} s. ` : '';
  return [words, actions, list, make('p', { className: 'hint' }, `${took}Click a value to use it again.`)];
}
