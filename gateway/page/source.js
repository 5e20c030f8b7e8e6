// The picture to start from: dropped, pasted, chosen, or one made before.

import { UNREACHABLE, request } from './api.js';
import { $, setText, show, toast } from './dom.js';
import { changed, fieldProblem, setSourceSize } from './settings.js';

const MAX_BYTES = 16 * 1024 * 1024;
const TYPES = ['image/png', 'image/jpeg', 'image/webp'];

let dataUrl = null;

/** As a `data:` URL, or null. */
export const source = () => dataUrl;

function refuse(why) {
  $('source').open = true;
  fieldProblem('image', why);
}

async function take(file) {
  if (!TYPES.includes(file.type)) return refuse(`${file.name || 'This'} is not a PNG, JPEG or WebP image.`);
  if (file.size > MAX_BYTES) return refuse(`${file.name || 'This image'} has ${Math.ceil(file.size / 2 ** 20)} MiB; the maximum is 16.`);
  const url = await readAsUrl(file);
  const image = $('source-image');
  image.src = url;
  try {
    await image.decode();
  } catch {
    return refuse(`${file.name || 'This image'} cannot be read.`);
  }
  use(url, `${image.naturalWidth} × ${image.naturalHeight}`);
}

function use(url, text) {
  dataUrl = url;
  fieldProblem('image', null);
  const has = url !== null;
  show($('source-image'), has);
  show($('source-clear'), has);
  show($('source-hint'), !has);
  show($('strength-field'), has);
  setText('source-text', text);
  setSourceSize(has);
  $('source').open ||= has;
  changed();
}

export function clear() {
  $('source-image').removeAttribute('src');
  $('file').value = '';
  use(null, '');
}

function readAsUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Starts from a picture of the gateway's. */
export async function startFrom(url) {
  try {
    const response = await request('GET', url, undefined, { headers: { Accept: 'image/*' } });
    await take(await response.blob());
    toast('Set as init image');
  } catch (problem) {
    toast(problem.isGone ? 'This image was deleted' : problem.detail ?? UNREACHABLE.detail);
  }
}

const fileOf = (transfer) => [...(transfer?.files ?? [])][0];
const hasFile = (event) => event.dataTransfer?.types.includes('Files');

function wireDrop() {
  // Entering a child leaves its parent, so only leaving the window counts.
  addEventListener('dragenter', (event) => { if (hasFile(event)) show($('catch')); });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) show($('catch'), false); });
  addEventListener('dragover', (event) => { if (hasFile(event)) event.preventDefault(); });
  addEventListener('drop', (event) => {
    show($('catch'), false);
    if (!hasFile(event)) return;
    event.preventDefault();
    const file = fileOf(event.dataTransfer);
    if (file) take(file);
  });
}

export function wire() {
  wireDrop();
  addEventListener('paste', (event) => {
    const file = fileOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  $('file').onchange = () => { if ($('file').files[0]) take($('file').files[0]); };
  $('source-clear').onclick = clear;
}
