// The picture: none yet, under way, done, or why it failed.

import { KEY_NEEDED } from './api.js';
import { describe } from './details.js';
import { openDialog } from './dialogs.js';
import { $, announce, reveal, setText, show } from './dom.js';
import { locate } from './picture.js';
import { titleOf } from './problems.js';

const NAME = document.title;
let done = null;

function enter(state) {
  $('stage').dataset.state = state;
  show($('empty'), state === 'empty');
  show($('frame'), state === 'running' || state === 'done');
  show($('running'), state === 'running');
  show($('failure'), state === 'failed');
  show($('outcome'), state === 'done');
  $('zoom').disabled = state !== 'done';
  if (state !== 'running') document.title = NAME;
}

function setShape({ width, height }) {
  const { style } = $('stage');
  style.setProperty('--w', width);
  style.setProperty('--h', height);
  // Small pictures are shown larger, but not until they fall apart.
  style.setProperty('--widest', `${Math.max(width, Math.min(width * 2.5, (640 * width) / Math.max(width, height)))}px`);
}

export const isEmpty = () => $('stage').dataset.state === 'empty';

/** The last picture of this visit, or nothing. */
export function rest() {
  if (done) present(done);
  else enter('empty');
}

export function start(size) {
  setShape(size);
  $('picture').removeAttribute('src');
  $('picture').alt = '';
  enter('running');
  progress({ stage: 'encoding', step: 0, steps: 0, queue_position: null, seconds_left: null });
  if (!isInSight()) reveal($('stage'), 'start');
}

/** Whether the person sees what happens: the progress is below the frame. */
function isInSight() {
  const { top } = $('frame').getBoundingClientRect();
  const { bottom } = $('running').getBoundingClientRect();
  return top >= 0 && bottom <= innerHeight;
}

function textOf({ stage, step, steps, queue_position: ahead }) {
  if (stage === 'encoding') return 'Encoding the prompt';
  if (stage === 'queued') return ahead ? `Queued, ${ahead} ${ahead === 1 ? 'image' : 'images'} ahead` : 'Queued, next in line';
  if (stage === 'decoding') return 'Decoding the image';
  return `Step ${step} of ${steps}`;
}

/** There is no place yet; the next try will be the nth. */
export function queueing({ title, detail }, tries) {
  const what = title === 'Busy' || title === 'Too Many Requests' ? 'a place in the queue' : 'the server';
  hold(`Waiting for ${what} (try ${tries})`, detail);
}

/** The connection is lost, or the server has something else to do first. */
export function waiting(problem) {
  hold(problem?.status === KEY_NEEDED ? 'Waiting for an API key' : 'Connection lost; reconnecting');
}

function hold(text, more = '') {
  setText('running-text', text);
  setText('running-left', more);
  $('progress').removeAttribute('value');
  announce(text);
}

function leftText(seconds) {
  if (seconds === null || seconds === undefined) return '';
  if (seconds < 1) return 'under a second left';
  return seconds < 90 ? `about ${Math.round(seconds)} s left` : `about ${Math.round(seconds / 60)} min left`;
}

export function progress(now) {
  const text = textOf(now);
  setText('running-text', text);
  setText('running-left', leftText(now.seconds_left));
  const bar = $('progress');
  if (now.steps) {
    // One more than there are steps: the decoding.
    bar.max = now.steps + 1;
    bar.value = now.stage === 'decoding' ? now.steps : now.step;
  } else {
    bar.removeAttribute('value');
  }
  document.title = now.steps ? `${now.step}/${now.steps} ${NAME}` : `… ${NAME}`;
  speak(now, text);
}

/** Steps are told by quarters; every one would be a noise. */
function speak({ stage, step, steps }, text) {
  const quarter = Math.floor((step * 4) / Math.max(steps, 1));
  announce(stage === 'denoising' && steps ? `Drawing, ${quarter * 25} percent` : text);
}

export function preview({ media_type: type, image }) {
  $('picture').src = `data:${type};base64,${image}`;
}

/** Shows a finished picture. Rejects with a `Problem` when there is none, and when `signal` is aborted. */
export async function finish(result, signal) {
  // The preview stays until the picture can be drawn.
  const source = await locate(result, signal, () => hold('The image is finished; waiting for the server'));
  done = { source, result };
  present(done);
}

function present({ source, result }) {
  const { parameters } = result;
  setShape(parameters);
  $('picture').src = source;
  $('picture').alt = parameters.prompt;
  $('outcome').replaceChildren(...describe({ ...result, image_url: source }));
  enter('done');
}

export function failed(problem) {
  setText('failure-title', titleOf(problem));
  setText('failure-text', problem.detail);
  setText('failure-id', problem.requestId && problem.status >= 500 ? `Request id: ${problem.requestId}` : '');
  enter('failed');
}

export function zoom(src, alt) {
  Object.assign($('full-image'), { src, alt });
  openDialog($('full'));
}

export function wire() {
  $('zoom').onclick = () => zoom($('picture').src, $('picture').alt);
}
