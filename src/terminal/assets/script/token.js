// The token: asked for when the member wants one, tried before it is kept, and forgotten with the tab.

import { ask, token, whenDenied } from './api.js';
import { $, announce, busy, setError, setText } from './dom.js';

/**
 * Sees to the token. `changed()` is called when another one is in use, `declined(reason)` when the person has none to show.
 */
export function makeToken({ changed, declined }) {
  const [dialog, form, input, error] = [$('token-dialog'), $('token-form'), $('token-text'), $('token-error')];
  let reason = null;

  const tell = () => setText($('token-button'), token.get() ? 'Token in use…' : 'Token…');
  const open = (why) => {
    setText($('token-why'), why);
    setError(error, '');
    $('token-forget').hidden = !token.get();
    input.value = '';
    if (!dialog.open) dialog.showModal();
    input.focus();
  };
  whenDenied((failure) => {
    reason = failure.message;
    if (!dialog.open) open(`This member answers: ${reason}`);
  });
  const used = (text) => {
    reason = null;
    input.value = '';
    tell();
    dialog.close();
    announce(text);
    changed();
  };

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    setError(error, '');
    const text = input.value.trim();
    if (text === '') {
      setError(error, 'write or paste a token first');
      return;
    }
    busy(form, async () => {
      try {
        await ask('GET', '/v1/status', { shown: text });
      } catch (failure) {
        setError(error, failure.message);
        input.select();
        return;
      }
      token.set(text);
      used('The token is in use.');
    });
  });
  $('token-forget').addEventListener('click', () => {
    token.forget();
    used('The token is forgotten.');
  });
  $('token-cancel').addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => {
    input.value = '';
    if (reason !== null) declined(reason);
  });
  const show = () => {
    const why = token.get()
      ? 'A token is in use. Another one takes its place.'
      : 'None is in use. As long as a cluster has no tokens, clients of the member’s own machine need none.';
    open(reason === null ? why : `This member answers: ${reason}`);
  };
  $('token-button').addEventListener('click', show);
  tell();
  return show;
}
