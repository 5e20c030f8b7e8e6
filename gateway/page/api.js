// The gateway's HTTP API (docs/api/web_server_api.md). Addresses are relative, so that the page also
// works below a path of a reverse proxy.

import { met } from './health.js';
import { askForKey, keysTaken } from './key.js';

export const KEY_NEEDED = 401;
export const NOT_FOUND = 404;
const GONE = 410;

/** What went wrong, in the gateway's words (RFC 9457). */
export class Problem extends Error {
  constructor({ status = 0, title = 'Something went wrong', detail = '', request_id = null }, retryAfter = null) {
    super(detail || title);
    Object.assign(this, { status, title, detail: detail || title, requestId: request_id, retryAfter });
  }

  /** Nothing answered, or something on the way to the server, or it is asked for a key first. */
  get isPassing() {
    return this.status === 0 || this.status === KEY_NEEDED || this.status === 429 || [502, 503, 504].includes(this.status);
  }

  /** The server says that it no longer has this. */
  get isGone() {
    return this.status === NOT_FOUND || this.status === GONE;
  }
}

export const UNREACHABLE = { detail: 'The server does not answer. Is it still running?' };

/** Seeds go to 2^64-1, more than a number holds; long ones are read as text. */
export const parse = (text) => JSON.parse(text.replace(/("seed":\s*)(\d{16,})/g, '$1"$2"'));

/** The reverse. A quote inside of a text is escaped, so this finds only the field. */
const serialize = (body) => JSON.stringify(body).replace(/("seed":)"(\d+)"/, '$1$2');

/** Calls the API and returns the answer's JSON. Throws a `Problem`. */
export async function call(method, path, body, options = {}) {
  const response = await request(method, path, body, options);
  return read(await textOf(response)) ?? fail({ status: response.status, detail: 'The answer of the server is not JSON.' });
}

/** The same for an answer of any type, of which only the status counts. Throws a `Problem`. */
export async function request(method, path, body, { signal, headers = {} } = {}) {
  const options = { method, signal, headers: { Accept: 'application/json', ...headers } };
  if (body !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = serialize(body);
  }
  const keys = keysTaken();
  const response = await send(path, options);
  if (response.ok) return response;
  if (response.status === KEY_NEEDED && await askForKey(keys)) return request(method, path, body, { signal, headers });
  const fallback = { status: response.status, detail: `The answer was ${response.status} ${response.statusText}.` };
  const said = read(await textOf(response));
  fail(said?.detail ? { status: response.status, ...said } : fallback, response.headers.get('Retry-After'));
}

const send = (path, options) => reach(fetch(path, options));
const textOf = (response) => reach(response.text());

/** What a request brings; a connection that fails is a `Problem` as well. */
async function reach(work) {
  try {
    const brought = await work;
    met(true);
    return brought;
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    met(false);
    return fail(UNREACHABLE);
  }
}

function fail(about, retryAfter) {
  throw new Problem(about, retryAfter);
}

function read(text) {
  try {
    return parse(text);
  } catch {
    return undefined;
  }
}

/** A path that the server named, relative to the page. */
export const relative = (path) => path.replace(/^\//, '');
