// Pictures made before: a gallery by pages, and one of them in detail.

import { call, relative } from './api.js';
import { describe } from './details.js';
import { confirm, openDialog } from './dialogs.js';
import { $, button, make, setText, show, toast } from './dom.js';
import { wanted } from './key.js';

const PAGE = 24;
let entries = [];
let total = 0;
let opened = null;

/** Asks for the newest pictures; older ones stay, unless there may be some between. */
export async function refresh() {
  try {
    const answer = await call('GET', `api/history?limit=${PAGE}`);
    const oldest = answer.history.at(-1)?.id ?? 0;
    const isJoined = answer.history.some(({ id }) => entries.some((one) => one.id === id));
    take(answer, [], isJoined ? entries.filter((one) => one.id < oldest) : []);
  } catch (problem) {
    if (!entries.length) setText('history-hint', problem.detail);
  }
}

async function more() {
  wanted();
  const last = entries.at(-1);
  try {
    take(await call('GET', `api/history?limit=${PAGE}&before=${last.id}`), entries);
  } catch (problem) {
    toast(problem.detail);
  }
}

function take(answer, before, after = []) {
  entries = [...before, ...answer.history, ...after];
  total = answer.total;
  draw();
}

/** Brings in a new picture, which is on disk a moment after it was answered. */
export async function include(id, tries = 8) {
  if (id === null || id === undefined || entries.some((one) => one.id === id)) return;
  try {
    const entry = await call('GET', `api/history/${id}`);
    entries = [entry, ...entries].sort((a, b) => b.id - a.id);
    total += 1;
    draw();
  } catch (problem) {
    if (problem.status === 404 && tries > 0) setTimeout(() => include(id, tries - 1), 150);
  }
}

function draw() {
  setText('history-count', total ? String(total) : '');
  setText('history-hint', total ? '' : 'Your images are stored here.');
  show($('history-clear'), total > 0);
  show($('history-more'), entries.length < total);
  const kept = new Map([...$('gallery').children].map((item) => [item.dataset.id, item]));
  $('gallery').replaceChildren(...entries.map((entry) => kept.get(String(entry.id)) ?? thumbnail(entry)));
}

function thumbnail(entry) {
  const { prompt = '' } = entry.parameters;
  const image = make('img', { src: relative(entry.thumbnail_url), alt: prompt, loading: 'lazy', decoding: 'async' });
  const open = make('button', { type: 'button', title: prompt, onclick: () => openEntry(entry) }, image);
  return make('li', { 'data-id': String(entry.id) }, open);
}

// ---- One picture

function openEntry(entry) {
  opened = entry;
  const { width, height, prompt = '' } = entry.parameters;
  Object.assign($('details-image'), { src: relative(entry.image_url), alt: prompt, width: width ?? 0, height: height ?? 0 });
  setText('details-time', new Date(entry.timestamp).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' }));
  const bin = button('Delete', 'bin', remove, 'danger');
  $('details-body').replaceChildren(...describe(entry, () => $('details').close(), [bin]));
  const at = entries.indexOf(entry);
  $('details-newer').disabled = at <= 0;
  $('details-older').disabled = at === entries.length - 1 && entries.length >= total;
  openDialog($('details'));
}

async function step(by) {
  const at = entries.indexOf(opened) + by;
  if (at === entries.length && entries.length < total) await more();
  if (entries[at]) openEntry(entries[at]);
}

async function remove() {
  const entry = opened;
  wanted();
  if (!await confirm('Delete this image?', 'Delete')) return;
  try {
    await call('DELETE', `api/history/${entry.id}`);
  } catch (problem) {
    if (problem.status !== 404) return toast(problem.detail);
  }
  drop(entry);
}

function drop(entry) {
  $('details').close();
  entries = entries.filter((one) => one !== entry);
  total -= 1;
  draw();
}

/** The opened picture has no image: others share the history and may have deleted it. */
async function explain() {
  const entry = opened;
  try {
    await call('GET', `api/history/${entry.id}`);
  } catch (problem) {
    if (problem.isGone && entries.includes(entry)) drop(entry);
    toast(problem.isGone ? 'This image was deleted' : problem.detail);
  }
}

async function clear() {
  wanted();
  const pictures = total === 1 ? 'the one picture' : `all ${total} pictures`;
  if (!await confirm(`Delete ${pictures} of the history?`, 'Delete all')) return;
  try {
    await call('DELETE', 'api/history');
    take({ history: [], total: 0 }, []);
  } catch (problem) {
    toast(problem.detail);
  }
}

const KEYS = { ArrowLeft: -1, ArrowRight: 1 };

export function wire() {
  $('history-more').onclick = more;
  $('history-clear').onclick = clear;
  $('details-image').onerror = explain;
  $('details-newer').onclick = () => step(-1);
  $('details-older').onclick = () => step(1);
  $('details').onkeydown = (event) => { if (KEYS[event.key]) step(KEYS[event.key]); };
}
