// Asking the member that served this page. The token is kept for this tab only, and travels in a header and nowhere else.

const KEPT = 'kith-token';
const PATIENCE_MS = 10000;
// A member that hangs is noticed within this.
const READ_PATIENCE_MS = 5000;

/** Why something was not done. */
export class Failure extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Nobody answered: of a change nobody knows whether it was made. */
  get isSilence() {
    return this.status === 0;
  }

  get needsToken() {
    return this.status === 401;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEPT),
  set: (text) => sessionStorage.setItem(KEPT, text),
  forget: () => sessionStorage.removeItem(KEPT),
};

let onDenied = () => {};

/** Who is told when the member wants a token, or another one. */
export function whenDenied(act) {
  onDenied = act;
}

async function failureOf(answer) {
  try {
    const { error, message } = await answer.json();
    if (typeof error === 'string' && typeof message === 'string') return new Failure(answer.status, error, message);
  } catch {
    // What is no document of ours is told by its status.
  }
  return new Failure(answer.status, 'unexpected', `the member answered with status ${answer.status} and no reason`);
}

/**
 * One request; gives the answer once it is known to be good, else throws a Failure. `shown` is a token to be tried instead
 * of the kept one.
 */
export async function ask(method, path, { body, headers = {}, shown, patience = PATIENCE_MS } = {}) {
  const credential = shown ?? token.get();
  const all = new Headers(headers);
  if (credential) {
    // Anything else could not stand in a header.
    if (!/^[\x21-\x7e]+$/.test(credential)) throw new Failure(401, 'unauthenticated', 'this is no token: tokens have no spaces, and no letters but a to z and A to Z');
    all.set('authorization', `Bearer ${credential}`);
  }
  let answer;
  try {
    answer = await fetch(path, {
      method, body, headers: all, cache: 'no-store', credentials: 'omit', redirect: 'error', mode: 'same-origin',
      signal: AbortSignal.timeout(patience),
    });
  } catch {
    const unknown = method === 'GET' ? '' : '; whether the change was made is unknown, so look before you repeat it';
    throw new Failure(0, 'silent', `this member does not answer${unknown}`);
  }
  if (answer.ok) return answer;
  const failure = await failureOf(answer);
  if (failure.needsToken && shown === undefined) onDenied(failure);
  throw failure;
}

/** What a read gives as a document. */
export async function read(path) {
  const answer = await ask('GET', path, { patience: READ_PATIENCE_MS });
  try {
    return await answer.json();
  } catch {
    throw new Failure(0, 'silent', 'this member did not answer to the end');
  }
}

/** Changes something by a document, or by nothing but the request. Changes of the cluster may take a while. */
export async function change(method, path, document) {
  const headers = document === undefined ? {} : { 'content-type': 'application/json' };
  const body = document === undefined ? undefined : JSON.stringify(document);
  return (await ask(method, path, { body, headers, patience: 90000 })).json();
}
