// The form: what a request is made of. Empty fields take the model's defaults, and stay empty when
// the model changes.

import { Problem } from './api.js';
import { $, fillSlider, icon, make, setText, show } from './dom.js';
import { fieldProblem } from './problems.js';
import { presets, same } from './size.js';
import { own } from './store.js';

export { fieldProblem };

const CHAT = ['system_prompt', 'thinking_content', 'enable_thinking', 'force_think_block', 'strip_quotes', 'template', 'encoder'];
const NUMBERS = ['steps', 'guidance_scale', 'shift'];
const SECTIONS = ['sampling', 'source', 'loras', 'advanced'];
/** Where sliders stand while their field is empty and no model is known. */
const STAND_INS = { steps: 8, guidance_scale: 0, shift: 3, strength: 0.6 };

let defaults = {};
let schedulers = [];
let sizes = [];
let wanted = '';
let isLocked = false;
let hasSource = false;
const listeners = [];

const control = (name) => $('composer').elements[name];
const controls = () => [...$('composer').elements].filter((one) => one.name && one.name !== 'size');
const text = (name) => control(name).value.trim();
const isTrue = (name) => control(name).value === 'true' || control(name).checked;

export const template = () => control('template').value;

/** Calls `listener` after every change. */
export const onChange = (listener) => listeners.push(listener);

/** Keeps the settings, and brings all that depends on them up to date. */
export function changed() {
  save();
  present();
  listeners.forEach((listener) => listener());
}

// ---- To a request

/** The texts that the encoder reads. */
export function texts() {
  const body = { prompt: control('prompt').value };
  for (const name of CHAT) {
    const { type, value, checked } = control(name);
    if (type === 'checkbox' ? checked : value.trim()) body[name] = type === 'checkbox' || value;
  }
  if (body.enable_thinking) body.enable_thinking = isTrue('enable_thinking');
  return body;
}

/** A request for what the form says, without starting picture and LoRAs. Throws a `Problem`. */
export function request() {
  const body = { ...texts(), ...size() };
  for (const name of hasSource ? [...NUMBERS, 'strength'] : NUMBERS) {
    const value = number(name);
    if (value !== undefined) body[name] = value;
  }
  for (const name of ['scheduler', 'output_format']) if (text(name)) body[name] = text(name);
  if (text('negative_prompt') && isGuided()) body.negative_prompt = control('negative_prompt').value;
  if (isLocked && text('seed')) body.seed = seed();
  return body;
}

const wrong = (detail) => new Problem({ status: 400, detail });

function number(name) {
  const { value, validity } = control(name);
  if (validity.badInput) throw wrong(`${name} is not a number`);
  return value === '' ? undefined : Number(value);
}

function seed() {
  const digits = text('seed').replace(/^0+(?=\d)/, '');
  if (!/^\d+$/.test(digits)) throw wrong('seed is a whole number from 0 to 18446744073709551615');
  return digits;
}

function size() {
  if (wanted === 'image') return {};
  if (wanted === 'custom') return { width: number('width'), height: number('height') };
  const { width, height } = preset() ?? {};
  return { width, height };
}

const preset = () => sizes.find((one) => one.shape === wanted);

/** The size that a picture will have, as far as it is known. */
export function expectedSize() {
  const known = wanted === 'custom' ? { width: +text('width'), height: +text('height') } : preset();
  if (wanted === 'image') return { width: $('source-image').naturalWidth, height: $('source-image').naturalHeight };
  return known?.width && known.height ? known : { width: defaults.width ?? 1, height: defaults.height ?? 1 };
}

const isGuided = () => (number('guidance_scale') ?? defaults.guidance_scale ?? 0) > 0;

// ---- From a request

/** Takes over all parameters of a picture. Returns the names of those that have no field here. */
export function reuse(parameters) {
  for (const one of controls()) set(one, '');
  lock(false);
  wanted = sizes[0]?.shape ?? '';
  const rest = Object.entries(parameters).filter(([name, value]) => !reuseOne(name, value));
  reuseSize(parameters);
  changed();
  return rest.map(([name]) => name);
}

/** Takes over one parameter, if there is a field for it. */
export function reuseOne(name, value) {
  if (['width', 'height', 'loras'].includes(name)) return true;
  const target = control(name);
  if (!target) return false;
  set(target, name === 'template' ? String(value ?? '').replace(/^z_image_/, '') : value);
  if (name === 'seed') lock(true);
  return true;
}

export function reuseSize({ width, height }) {
  if (!width || !height) return;
  const match = sizes.find((one) => same(one, { width, height }));
  wanted = match?.shape ?? 'custom';
  control('width').value = width;
  control('height').value = height;
}

function set(target, value) {
  if (target.type === 'checkbox') target.checked = value === true || value === 'true';
  else target.value = value ?? '';
  // A choice can be made before its options are known.
  if (target.tagName === 'SELECT') target.dataset.wanted = value ?? '';
}

const valueOf = (one) => one.type === 'checkbox' ? String(one.checked) : one.value || one.dataset.wanted || '';

export function setTemplate(name) {
  control('template').value = name;
}

export function setPrompt(value) {
  control('prompt').value = value;
  control('prompt').focus();
  changed();
}

/** With a starting picture, its size can be taken. */
export function setSourceSize(has) {
  if (has !== hasSource) wanted = has ? 'image' : sizes[0]?.shape ?? '';
  hasSource = has;
  drawSizes();
}

/** Shows the seed of the last picture, to be kept if wished. */
export function showSeed(value) {
  if (isLocked) return;
  control('seed').value = value;
  save();
}

function lock(yes) {
  isLocked = yes;
  $('lock').setAttribute('aria-pressed', String(yes));
  $('lock').replaceChildren(icon(yes ? 'lock' : 'open'));
}

function roll() {
  control('seed').value = crypto.getRandomValues(new Uint32Array(1))[0];
  lock(true);
  changed();
}

// ---- Kept between visits

function save() {
  const values = controls().map((one) => [one.name, valueOf(one)]);
  const open = SECTIONS.filter((id) => $(id).open);
  own.remember('settings', { values: Object.fromEntries(values), size: hasSource ? '' : wanted, isLocked, open });
}

function restore() {
  const saved = own.recall('settings');
  for (const [name, value] of Object.entries(saved?.values ?? {})) if (control(name)) set(control(name), value);
  wanted = saved?.size ?? '';
  lock(saved?.isLocked ?? false);
  for (const id of SECTIONS) $(id).open = saved?.open?.includes(id) ?? false;
}

export function reset() {
  const prompt = control('prompt').value;
  reuse({ prompt });
}

// ---- What the server offers

/** Fits the form to the model. */
export function setModel(model) {
  defaults = model.defaults;
  sizes = presets(model);
  $('steps').max = model.limits.max_steps;
  slider('steps').max = Math.min(model.limits.max_steps, Math.max(50, defaults.steps));
  for (const side of [control('width'), control('height')]) {
    Object.assign(side, { min: model.limits.min_side, max: model.limits.max_side, step: model.limits.side_multiple });
  }
  for (const name of ['width', 'height']) control(name).placeholder = defaults[name];
  fill('encoder', model.encoders.map((name, at) => [at ? name : '', name]));
  show($('encoder-field'), model.encoders.length > 1);
  setSchedulers(schedulers);
  if (!preset() && !['custom', 'image'].includes(wanted)) wanted = sizes[0].shape;
  drawSizes();
  present();
}

export function setSchedulers(list) {
  schedulers = list;
  if (!list.length) return;
  const usual = list.find((one) => one.id === defaults.scheduler);
  const rest = list.filter((one) => one !== usual).map((one) => [one.id, one.name]);
  fill('scheduler', [['', usual ? usual.name : 'The model’s own'], ...rest]);
  present();
}

/** Fills a choice, whose value stays if it can. */
function fill(name, options) {
  const select = control(name);
  const value = valueOf(select);
  delete select.dataset.wanted;
  select.replaceChildren(...options.map(([id, label]) => make('option', { value: id }, label)));
  select.value = options.some(([id]) => id === value) ? value : '';
}

function drawSizes() {
  const choices = [...sizes.map((one) => [one.shape, one.shape, one.width / one.height]), ['custom', 'Custom', 0]];
  if (hasSource) choices.unshift(['image', 'As it is', 0]);
  $('sizes').replaceChildren(...choices.map(sizeChoice));
}

function sizeChoice([value, label, ratio]) {
  const shape = make('span', { className: ratio ? 'shape' : 'shape free', 'aria-hidden': 'true' });
  shape.style.setProperty('--ratio', ratio || 1);
  const radio = make('input', { type: 'radio', name: 'size', value, checked: value === wanted });
  return make('label', { className: 'size' }, radio, shape, label);
}

function chooseSize(shape) {
  const before = preset();
  if (shape === 'custom' && before) reuseSides(before);
  wanted = shape;
  changed();
}

function reuseSides({ width, height }) {
  control('width').value = width;
  control('height').value = height;
}

// ---- What depends on the fields

const slider = (name) => document.querySelector(`input[data-for="${name}"]`);

function present() {
  for (const range of document.querySelectorAll('input[data-for]')) {
    const name = range.dataset.for;
    const usual = defaults[name] ?? STAND_INS[name];
    control(name).placeholder = usual;
    range.value = text(name) || usual;
    fillSlider(range);
  }
  presentSize();
  const scheduler = schedulers.find((one) => one.id === (text('scheduler') || defaults.scheduler));
  setText('scheduler-text', scheduler?.description ?? '');
  setText('sampling-text', samplingText(scheduler));
  control('negative_prompt').disabled = !isGuidedSafely();
  setText('template-name', template() ? template().replaceAll('_', ' ') : 'Template');
  show($('template-clear'), template() !== '');
  setText('advanced-text', ['system_prompt', 'thinking_content'].some(text) ? 'in use' : '');
}

function isGuidedSafely() {
  try {
    return isGuided();
  } catch {
    return false;
  }
}

function presentSize() {
  for (const radio of $('sizes').querySelectorAll('input')) radio.checked = radio.value === wanted;
  show($('custom'), wanted === 'custom');
  const { width, height } = expectedSize();
  setText('size-text', wanted !== 'custom' && width > 1 ? `${width} × ${height}` : '');
}

function samplingText(scheduler) {
  const value = (name) => text(name) || defaults[name];
  const parts = [scheduler?.name, value('guidance_scale') > 0 ? `guidance ${value('guidance_scale')}` : null];
  return parts.filter(Boolean).join(', ');
}

function swap() {
  const { width, height } = { width: text('width'), height: text('height') };
  reuseSides({ width: height, height: width });
  changed();
}

function input({ target }) {
  if (target.dataset.for) control(target.dataset.for).value = target.value;
  if (target.name === 'seed') lock(target.value !== '');
  if (target.name === 'size') return chooseSize(target.value);
  if (target.name || target.dataset.for) fieldProblem(target.name || target.dataset.for, null);
  changed();
}

export function wire() {
  restore();
  present();
  $('composer').addEventListener('input', input);
  $('dice').onclick = roll;
  $('lock').onclick = () => { lock(!isLocked); changed(); };
  $('swap').onclick = swap;
  for (const id of SECTIONS) $(id).addEventListener('toggle', save);
}
