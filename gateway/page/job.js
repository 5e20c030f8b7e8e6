// One picture under way. It goes on when the page is reloaded, and is found again by its id.

import { Problem, UNREACHABLE, call, parse } from './api.js';
import { recall, remember } from './store.js';

export const begin = async (request) => {
  const job = await call('POST', 'api/jobs', request);
  remember('job', job.id);
  return job;
};

/** The job that this browser asked for last, if the gateway still knows it. */
export async function last() {
  const id = recall('job');
  if (!id) return null;
  try {
    return await call('GET', `api/jobs/${encodeURIComponent(id)}`);
  } catch (problem) {
    if (problem.status === 404) remember('job', null);
    return null;
  }
}

export const forget = () => remember('job', null);

export const cancel = (id) => call('DELETE', `api/jobs/${encodeURIComponent(id)}`);

/**
 * Tells what happens to a job: `progress`, `preview` and `waiting` (the connection is lost and
 * tried again) any number of times, then `result` or `failure` once.
 */
export function follow(id, tell) {
  const source = new EventSource(`api/jobs/${encodeURIComponent(id)}/events`);
  const end = (name, data) => {
    source.close();
    tell(name, data);
  };
  let latest = null;
  source.addEventListener('progress', (event) => tell('progress', latest = parse(event.data)));
  source.addEventListener('preview', (event) => tell('preview', parse(event.data)));
  // Connected again: what was last known holds until there is news.
  source.addEventListener('open', () => { if (latest) tell('progress', latest); });
  source.addEventListener('result', (event) => end('result', parse(event.data)));
  source.addEventListener('error', (event) => {
    // The server's event of this name has data, the browser's own has none.
    if (event.data) end('failure', new Problem(parse(event.data)));
    else if (source.readyState === EventSource.CLOSED) ask(id, end);
    else tell('waiting');
  });
}

/** The stream was refused; the job itself may say why. */
async function ask(id, end) {
  try {
    const job = await call('GET', `api/jobs/${encodeURIComponent(id)}`);
    if (job.status === 'done') end('result', job.result);
    else end('failure', new Problem(job.error ?? UNREACHABLE));
  } catch (problem) {
    end('failure', problem);
  }
}
