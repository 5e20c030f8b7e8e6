// Where a finished picture can be fetched: at its job or in the history, as soon as the server answers.

import { Problem, UNREACHABLE, relative, request } from './api.js';
import { pause } from './health.js';

const FIRST = 1000;
const LONGEST = 15_000;

/**
 * An address whose picture the browser has loaded. `waiting` is called when the server does not
 * answer and is waited for. Rejects with a `Problem` when it says that the picture is gone, or when
 * `signal` is aborted.
 */
export async function locate({ image_url: url, history_id: id }, signal, waiting) {
  // The history keeps pictures whose jobs are forgotten.
  const places = [relative(url), id === null || id === undefined ? null : `api/history/${id}/image`].filter(Boolean);
  for (let wait = FIRST; ; wait = Math.min(wait * 2, LONGEST)) {
    const problem = await tryAll(places, signal);
    signal.throwIfAborted();
    if (typeof problem === 'string') return new URL(problem, document.baseURI).href;
    if (!problem.isPassing) throw problem;
    waiting(problem);
    await pause(wait, signal);
  }
}

/** The first place that has it, or the problem with the last one; one that may pass goes first. */
async function tryAll(places, signal) {
  let worst = null;
  for (const place of places) {
    if (await isLoaded(place)) return place;
    const problem = await reason(place, signal);
    // It came back between the two questions.
    if (problem === null && await isLoaded(place)) return place;
    worst = worst?.isPassing ? worst : problem ?? new Problem({ detail: 'The browser cannot show this image.', status: 200 });
  }
  return worst;
}

async function isLoaded(url) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return true;
  } catch {
    return false;
  }
}

/** An image element does not say why it has none. */
async function reason(url, signal) {
  try {
    await (await request('GET', url, undefined, { signal, headers: { Accept: 'image/*' } })).arrayBuffer();
    return null;
  } catch (problem) {
    return problem instanceof Problem ? problem : new Problem(UNREACHABLE);
  }
}
