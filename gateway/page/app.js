// Puts the page together: the form makes a request, the request a job, the job a picture.

import { call } from './api.js';
import { $, announce, isDialogOpen, make, setText, show, toast, wireDialogs } from './dom.js';
import * as history from './history.js';
import * as job from './job.js';
import * as loras from './loras.js';
import { clearProblems, place } from './problems.js';
import * as settings from './settings.js';
import * as source from './source.js';
import * as stage from './stage.js';
import * as templates from './templates.js';
import * as theme from './look.js';
import * as tokens from './tokens.js';

const IDEAS = ['a red apple on a blue background', 'a rocket on a purple background', 'a wizard', 'a palm tree'];
const RETRY = 3000;
const CANCELLED = 499;

/** The id of the job under way; '' while it is being asked for. */
let running = null;

function setRunning(id) {
  const [from, to] = id === null ? [$('cancel'), $('generate')] : [$('generate'), $('cancel')];
  const hadFocus = document.activeElement === from;
  running = id;
  show(from, false);
  show(to);
  $('cancel').disabled = id === '';
  if (hadFocus) to.focus();
}

function request() {
  const image = source.source();
  return { ...settings.request(), ...(image && { image }), loras: loras.loras() };
}

async function generate(event) {
  event?.preventDefault();
  if (running !== null) return;
  clearProblems();
  try {
    const body = request();
    setRunning('');
    attach(await job.begin(body));
  } catch (problem) {
    setRunning(null);
    place(problem);
  }
}

function attach({ id, progress }) {
  setRunning(id);
  stage.start(settings.expectedSize());
  stage.progress(progress);
  job.follow(id, (what, data) => TELL[what](data));
}

const TELL = {
  progress: stage.progress,
  preview: stage.preview,
  waiting: stage.waiting,
  result: finish,
  failure: fail,
};

async function finish(result) {
  await stage.finish(result);
  setRunning(null);
  settings.showSeed(result.parameters.seed);
  announce('The image is ready');
  warn(result);
  history.include(result.history_id);
}

function warn({ truncated_tokens: prompt, truncated_negative_tokens: negative }) {
  if (prompt) toast(`The prompt was too long; its last ${prompt} tokens were truncated`);
  else if (negative) toast(`The negative prompt was too long; its last ${negative} tokens were truncated`);
}

function fail(problem) {
  setRunning(null);
  job.forget();
  if (problem.status === CANCELLED) {
    stage.rest();
    announce('Cancelled');
    return toast('Cancelled');
  }
  stage.failed(problem);
}

async function cancel() {
  if (!running) return;
  $('cancel').disabled = true;
  try {
    // The job's own last event ends the run.
    await job.cancel(running);
  } catch (problem) {
    $('cancel').disabled = false;
    if (problem.status !== 404) toast(problem.detail);
  }
}

/** Goes on with what was under way, or shows what came of it. */
async function pickUp() {
  const known = await job.last();
  if (['queued', 'running'].includes(known?.status)) attach(known);
  else if (known?.status === 'done') stage.finish(known.result);
  else if (known) job.forget();
}

// ---- What the server offers

async function loadModel() {
  try {
    const model = await call('GET', 'api/model');
    settings.setModel(model);
    $('model').replaceChildren(make('span', { className: 'dot' }), `${model.model}, ${model.device} ${model.dtype}`);
    $('model').title = `llm-dit ${model.version}`;
    loras.load();
  } catch (problem) {
    $('model').replaceChildren(make('span', { className: 'dot bad' }), 'not ready, trying again');
    $('model').title = problem.detail;
    setTimeout(loadModel, RETRY);
  }
}

async function loadLists() {
  try {
    await templates.load();
    settings.setSchedulers((await call('GET', 'api/schedulers')).schedulers);
  } catch (problem) {
    place(problem);
  }
}

function offerIdeas() {
  const idea = (text) => make('li', {}, make('button', { type: 'button', onclick: () => settings.setPrompt(text) }, text));
  $('ideas').append(...IDEAS.map(idea));
}

function wireKeys() {
  const isMac = navigator.platform.startsWith('Mac');
  setText('shortcut', isMac ? '⌘ ↵' : 'Ctrl ↵');
  addEventListener('keydown', (event) => {
    if (isDialogOpen() || event.isComposing) return;
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) generate(event);
    if (event.key === 'Escape') cancel();
  });
}

function boot() {
  [settings, templates, source, stage, history, theme].forEach((part) => part.wire());
  wireDialogs();
  wireKeys();
  settings.onChange(tokens.refresh);
  $('composer').onsubmit = generate;
  $('cancel').onclick = cancel;
  offerIdeas();
  stage.rest();
  tokens.refresh();
  loadModel();
  loadLists();
  history.load();
  pickUp();
}

boot();
