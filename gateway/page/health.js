// Whether the server answers, and whether it can generate now: seen in every request, and asked
// for in between.

/** Milliseconds between two questions: while all is well, and after the first failure. */
const CALM = 15_000;
const FIRST = 1000;
/** A server that hangs is as good as none. */
const LIMIT = 10_000;

/** `ok`; `away`; or what the server says of itself: `unavailable`, `draining`. */
let state = 'unknown';
let wait = FIRST;
let timer;
let checking = null;
const listeners = [];
const sleepers = new Set();

/** Calls `listener` with the state and the one before, after every check. */
export const onHealth = (listener) => listeners.push(listener);

/** Ends all pauses: what they waited for may be there. */
export const wake = () => [...sleepers].forEach((end) => end());

/** Waits, but not once the server is back. Rejects when `signal` is aborted. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const end = (settle) => () => {
      clearTimeout(clock);
      sleepers.delete(woken);
      signal?.removeEventListener('abort', aborted);
      settle(signal?.reason);
    };
    const [woken, aborted] = [end(() => resolve()), end(reject)];
    const clock = setTimeout(woken, milliseconds);
    sleepers.add(woken);
    signal?.addEventListener('abort', aborted);
    if (signal?.aborted) aborted();
  });
}

/** What a request met: an answer of any kind, or none. */
export function met(isAnswer) {
  if (isAnswer === (state === 'away')) check();
}

/** Asks now; questions at the same time are one. */
export function check() {
  checking ??= ask().then(become).finally(() => { checking = null; });
  return checking;
}

async function ask() {
  try {
    const answer = await fetch('health', { cache: 'no-store', signal: AbortSignal.timeout(LIMIT) });
    if (answer.ok) return 'ok';
    return (await answer.json()).status;
  } catch {
    return 'away';
  }
}

function become(now) {
  const before = state;
  state = now;
  wait = now === 'ok' ? CALM : before === 'ok' ? FIRST : Math.min(wait * 2, CALM);
  plan();
  listeners.forEach((listener) => listener(now, before));
  if (before === 'away' && now !== 'away') wake();
}

function plan() {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(check, wait);
}

export function wire() {
  // Nobody looks at a hidden page; who comes back wants to know at once.
  document.addEventListener('visibilitychange', () => (document.hidden ? plan() : check()));
  for (const event of ['online', 'offline', 'pageshow']) addEventListener(event, check);
  check();
}
