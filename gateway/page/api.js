// The gateway's HTTP API (docs/web_server_api.md). Addresses are relative, so that the page also
// works below a path of a reverse proxy.

import { askForKey } from './key.js';

const KEY_NEEDED = 401;

/** What went wrong, in the gateway's words (RFC 9457). */
export class Problem extends Error {
  constructor({ status = 0, title = 'Something went wrong', detail = '' }, retryAfter = null) {
    super(detail || title);
    Object.assign(this, { status, title, detail: detail || title, retryAfter });
  }
}

export const UNREACHABLE = { title: 'No answer', detail: 'The gateway does not answer. Is it still running?' };

/** Seeds go to 2^64-1, more than a number holds; long ones are read as text. */
export const parse = (text) => JSON.parse(text.replace(/("seed":\s*)(\d{16,})/g, '$1"$2"'));

/** The reverse. A quote inside of a text is escaped, so this finds only the field. */
const serialize = (body) => JSON.stringify(body).replace(/("seed":)"(\d+)"/, '$1$2');

/** Calls the API and returns the answer's JSON. Throws a `Problem`. */
export async function call(method, path, body, signal) {
  const options = { method, signal, headers: { Accept: 'application/json' } };
  if (body !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = serialize(body);
  }
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(UNREACHABLE);
  }
  if (response.status === KEY_NEEDED && await askForKey()) return call(method, path, body, signal);
  const answer = read(text);
  if (response.ok && answer !== undefined) return answer;
  const fallback = { status: response.status, detail: `The answer was ${response.status} ${response.statusText}.` };
  throw new Problem(answer ?? fallback, response.headers.get('Retry-After'));
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
