// The picture: none yet, under way, done, or why it failed.

import { relative } from './api.js';
import { describe } from './details.js';
import { $, announce, setText, show } from './dom.js';

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

/** The last picture of this visit, or nothing. */
export function rest() {
  if (done) finish(done);
  else enter('empty');
}

export function start(size) {
  setShape(size);
  $('picture').removeAttribute('src');
  $('picture').alt = '';
  enter('running');
  progress({ stage: 'encoding', step: 0, steps: 0, queue_position: null, seconds_left: null });
  const { top } = $('stage').getBoundingClientRect();
  if (top > innerHeight * 0.6) $('stage').scrollIntoView({ block: 'start' });
}

function textOf({ stage, step, steps, queue_position: ahead }) {
  if (stage === 'encoding') return 'Encoding the prompt';
  if (stage === 'queued') return ahead ? `Queued, ${ahead} ${ahead === 1 ? 'image' : 'images'} ahead` : 'Queued, next in line';
  if (stage === 'decoding') return 'Decoding the image';
  return `Step ${step} of ${steps}`;
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

export function waiting() {
  setText('running-text', 'Connection lost; reconnecting');
  setText('running-left', '');
}

export async function finish(result) {
  const { parameters, image_url: url } = result;
  done = result;
  setShape(parameters);
  const image = new Image();
  image.src = relative(url);
  try {
    // The preview stays until the picture can be drawn.
    await image.decode();
  } catch {
    done = null;
    return failed({ title: 'The image was deleted', detail: 'The gateway no longer has it.' });
  }
  $('picture').src = image.src;
  $('picture').alt = parameters.prompt;
  $('outcome').replaceChildren(...describe(result));
  enter('done');
  return result;
}

export function failed({ title, detail }) {
  setText('failure-title', title);
  setText('failure-text', detail);
  enter('failed');
}

export function zoom(src, alt) {
  Object.assign($('full-image'), { src, alt });
  $('full').showModal();
}

export function wire() {
  $('zoom').onclick = () => zoom($('picture').src, $('picture').alt);
}
