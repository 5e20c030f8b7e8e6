// Puts the page together: the form makes a request, the request a job, the job a picture.

import * as about from './about.js';
import { KEY_NEEDED, Problem, call } from './api.js';
import * as dialogs from './dialogs.js';
import { $, announce, setText, show, toast } from './dom.js';
import * as health from './health.js';
import * as history from './history.js';
import * as job from './job.js';
import * as key from './key.js';
import * as loras from './loras.js';
import { clearProblems, place } from './problems.js';
import * as settings from './settings.js';
import * as source from './source.js';
import * as stage from './stage.js';
import * as status from './status.js';
import * as templates from './templates.js';
import * as theme from './look.js';
import * as tokens from './tokens.js';

const CANCELLED = 499;

/** The picture under way: its job's id, once there is one, and what ends the wait for it. */
let run = null;
/** Ends the wait for an earlier picture. */
let earlier = null;

function setRun(next) {
  const [from, to] = next === null ? [$('cancel'), $('generate')] : [$('generate'), $('cancel')];
  const hadFocus = document.activeElement === from;
  run = next;
  show(from, false);
  show(to);
  $('cancel').disabled = false;
  if (hadFocus) to.focus();
}

const newRun = (id = null) => ({ id, isDone: false, end: new AbortController() });

function request() {
  const image = source.source();
  return { ...settings.request(), ...(image && { image }), loras: loras.loras() };
}

async function generate(event) {
  event?.preventDefault();
  if (run !== null) return;
  clearProblems();
  earlier?.abort();
  key.wanted();
  const mine = newRun();
  let isWaiting = false;
  const waiting = (problem, tries) => {
    if (!isWaiting) stage.start(settings.expectedSize());
    isWaiting = true;
    stage.queueing(problem, tries);
  };
  try {
    const body = request();
    setRun(mine);
    attach(await job.begin(body, mine.end.signal, waiting), mine);
  } catch (problem) {
    if (mine.end.signal.aborted) return;
    if (run === mine) setRun(null);
    if (isWaiting) stage.rest();
    place(problem);
  }
}

function attach({ id, progress }, mine = newRun(id)) {
  mine.id = id;
  setRun(mine);
  stage.start(settings.expectedSize());
  if (progress) stage.progress(progress);
  job.follow(id, (what, data) => TELL[what](data, mine), mine.end.signal);
}

const TELL = {
  progress: stage.progress,
  preview: stage.preview,
  waiting: stage.waiting,
  result: finish,
  failure: fail,
};

async function finish(result, mine) {
  mine.isDone = true;
  try {
    await stage.finish(result, mine.end.signal);
  } catch (problem) {
    return mine.end.signal.aborted ? undefined : fail(problem);
  }
  setRun(null);
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
  setRun(null);
  job.forget();
  if (problem.status === CANCELLED) return tellCancelled();
  stage.failed(problem);
}

function tellCancelled() {
  stage.rest();
  announce('Cancelled');
  toast('Cancelled');
}

/** Ends the wait here; what the server does is another matter. */
function leave() {
  run.end.abort();
  setRun(null);
}

async function cancel() {
  if (!run) return;
  if (run.id === null || run.isDone) {
    leave();
    return tellCancelled();
  }
  $('cancel').disabled = true;
  try {
    // The job's own last event ends the run.
    await job.cancel(run.id);
  } catch (problem) {
    $('cancel').disabled = false;
    if (problem.status !== 404) toast(problem.detail);
  }
}

/** Goes on with what this tab had under way, or shows what came of it. */
async function pickUp() {
  const id = job.last();
  if (!id || run !== null || !stage.isEmpty()) return;
  let known;
  try {
    known = await job.find(id);
  } catch (problem) {
    if (problem.isGone) return job.forget();
    // With a key it is asked again.
    if (problem.status === KEY_NEEDED) return;
    // The server may be between two starts; the job goes on after it.
    known = { id, status: 'queued' };
  }
  if (run !== null || job.last() !== id) return;
  if (['queued', 'running'].includes(known.status)) attach(known);
  else if (known.status === 'done') showEarlier(known.result);
  else if (known.status === 'failed') fail(new Problem(known.error));
  else job.forget();
}

/** A picture that was finished before this visit. */
async function showEarlier(result) {
  earlier = new AbortController();
  try {
    await stage.finish(result, earlier.signal);
  } catch {
    // It was deleted, or there is a newer one.
    if (!earlier.signal.aborted) job.forget();
  }
}

/** In a copy of a tab: the job under way is the other's. */
function lose() {
  job.forget();
  if (run === null) return;
  leave();
  stage.rest();
}

// ---- What the server offers

let model = null;

async function loadModel() {
  try {
    model = await call('GET', 'api/model');
  } catch (problem) {
    return status.setProblem(problem);
  }
  settings.setModel(model);
  status.setModel(model);
  about.setModel(model);
  await loras.load();
}

async function loadLists() {
  try {
    await templates.load();
    settings.setSchedulers((await call('GET', 'api/schedulers')).schedulers);
  } catch (problem) {
    if (!problem.isPassing) place(problem);
  }
}

/** All that the server said may be different after a restart, or was not said for want of a key. */
function load() {
  loadModel();
  loadLists();
  history.refresh();
  tokens.refresh();
  pickUp();
}

function wireKeys() {
  const isMac = navigator.platform.startsWith('Mac');
  setText('shortcut', isMac ? '⌘ ↵' : 'Ctrl ↵');
  addEventListener('keydown', (event) => {
    // 229: a key that an input method uses itself, in browsers that don't say so otherwise.
    if (dialogs.isDialogOpen() || event.isComposing || event.keyCode === 229) return;
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) generate(event);
    // In a field, Escape belongs to the field; held down, to the dialog that it closed.
    if (event.key === 'Escape' && !event.repeat && !event.target.closest?.('input, textarea, select')) cancel();
  });
}

function reset() {
  settings.reset();
  source.clear();
  loras.reset();
}

function boot() {
  [settings, templates, source, stage, history, theme, loras, about, status].forEach((part) => part.wire());
  dialogs.wire();
  wireKeys();
  settings.onChange(tokens.refresh);
  $('composer').onsubmit = generate;
  $('cancel').onclick = cancel;
  $('defaults').onclick = reset;
  stage.rest();
  job.claim((id) => run?.id === id, lose);
  key.onKey((isMissing) => { if (!isMissing) load(); });
  health.onHealth((now, before) => {
    const isBack = now === 'ok' && !['ok', 'unknown'].includes(before);
    if (isBack || (now === 'ok' && model === null && before !== 'unknown')) load();
  });
  // Others share the history.
  document.addEventListener('visibilitychange', () => { if (!document.hidden) history.refresh(); });
  load();
  health.wire();
}

boot();
