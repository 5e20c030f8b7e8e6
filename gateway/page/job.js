// One picture under way. It goes on when the page is reloaded, and is found again by its id, which
// is this tab's own: other tabs have their own jobs.

import { Problem, call, parse } from './api.js';
import { met, pause } from './health.js';
import { tab } from './store.js';

const KEY = 'job';
/** Milliseconds between two questions after a job, and the longest. */
const FIRST = 1000;
const LONGEST = 15_000;
/** Seconds to wait for a place where the server names none, and the longest that is waited at once. */
const USUAL_WAIT = 5;
const LONGEST_WAIT = 60;

const path = (id) => `api/jobs/${encodeURIComponent(id)}`;

/** A server that was only slow gets the same request again as the same. */
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

/** How long to wait before a request may be made again, in ms; null if that would be no use. */
function patience({ status, retryAfter }) {
  if (![429, 503].includes(status) || retryAfter === null) return null;
  return Math.min(Math.max(Number(retryAfter) || USUAL_WAIT, 1), LONGEST_WAIT) * 1000;
}

/**
 * Asks for a picture, again and again while the server has no place for it: `waiting(problem, n)`
 * tells of the nth try to come. Rejects when `signal` is aborted.
 */
export async function begin(request, signal, waiting) {
  const options = { headers: { 'Idempotency-Key': newKey() } };
  for (let tries = 1; ; tries += 1) {
    try {
      const job = await call('POST', 'api/jobs', request, options);
      if (signal.aborted) cancel(job.id).catch(() => {});
      signal.throwIfAborted();
      tab.remember(KEY, job.id);
      return job;
    } catch (problem) {
      signal.throwIfAborted();
      // Once it waits, it also waits for a server that is restarted.
      const wait = patience(problem) ?? (tries > 1 && problem.status === 0 ? USUAL_WAIT * 1000 : null);
      if (wait === null) throw problem;
      waiting(problem, tries + 1);
      await pause(wait, signal);
    }
  }
}

/** The id of the job that this tab asked for last. */
export const last = () => tab.recall(KEY);

export const forget = () => tab.remember(KEY, null);

export const find = (id) => call('GET', path(id));

export const cancel = (id) => call('DELETE', path(id));

/**
 * Tells what happens to a job: `progress`, `preview` and `waiting` (the connection is lost and
 * tried again) any number of times, then `result` or `failure` once, unless `signal` is aborted.
 */
export function follow(id, tell, signal) {
  let latest = null;
  let wait = FIRST;
  let source;
  const end = (name, data) => {
    source.close();
    if (!signal.aborted) tell(name, data);
  };
  const news = (name, data) => {
    wait = FIRST;
    tell(name, data);
  };
  const connect = () => {
    source = new EventSource(`${path(id)}/events`);
    source.addEventListener('progress', (event) => news('progress', latest = parse(event.data)));
    source.addEventListener('preview', (event) => news('preview', parse(event.data)));
    // Connected again: what was last known holds until there is news.
    source.addEventListener('open', () => { if (latest) tell('progress', latest); });
    source.addEventListener('result', (event) => end('result', parse(event.data)));
    source.addEventListener('error', (event) => {
      // The server's event of this name has data, the browser's own has none.
      if (event.data) return end('failure', new Problem(parse(event.data)));
      met(false);
      tell('waiting', null);
      if (source.readyState === EventSource.CLOSED) ask();
    });
  };
  // The stream was refused. The job itself says whether it is over; a server that says nothing of
  // it may be between two starts, and goes on with its jobs.
  const ask = async () => {
    try {
      const job = await find(id);
      if (job.status === 'done') return end('result', job.result);
      if (job.error) return end('failure', new Problem(job.error));
    } catch (problem) {
      if (!problem.isPassing) return end('failure', problem);
      if (!signal.aborted) tell('waiting', problem);
    }
    const now = wait;
    wait = Math.min(wait * 2, LONGEST);
    pause(now, signal).then(connect, () => {});
  };
  signal.addEventListener('abort', () => source.close());
  connect();
}

// ---- Copies of a tab

/**
 * A copy of a tab has the id of its job as well. It asks around, and the tab that follows the job,
 * as `isFollowed` says, keeps it: `lose` is called in the copy.
 */
export function claim(isFollowed, lose) {
  const channel = new BroadcastChannel('llm-dit.jobs');
  const self = { since: performance.timeOrigin, name: newKey() };
  channel.onmessage = ({ data }) => {
    if (data.owner === self.name) return lose();
    if (data.asks && isFollowed(data.asks) && self.since <= data.since) channel.postMessage({ owner: data.name });
  };
  if (last()) channel.postMessage({ asks: last(), ...self });
}
