// Elements, made and changed. Text enters the page by textContent and attributes only: names, keys and messages come from
// clients and other members, and none of them may become markup.

const SVG = 'http://www.w3.org/2000/svg';

export const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    setAttribute(node, name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A new element; children are elements or texts. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** A new element of a drawing. */
export function drawn(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Sets an attribute if it is another one; null and false take it away. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value === true ? '' : String(value));
  }
}

/** Sets a text if it is another one, so that a selection in it stays. */
export function setText(node, text) {
  const wanted = text ?? '';
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Sets a text in which what stands between backquotes is code. */
export function setProse(node, text) {
  if (node.textContent === text.replaceAll('`', '')) return;
  node.replaceChildren(...text.split('`').map((part, at) => (at % 2 === 1 ? el('code', {}, part) : part)));
}

const kept = new WeakMap();

/**
 * Makes the children of `parent` those of `items`, in their order. `make(item)` gives `{ node, update }`; who stays keeps
 * the node, and with it focus and selection.
 */
export function keyed(parent, items, keyOf, make) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (!now.has(key)) now.set(key, before.get(key) ?? make(item));
    now.get(key).update(item);
  }
  for (const [key, row] of before) {
    if (!now.has(key)) row.node.remove();
  }
  let place = parent.firstElementChild;
  for (const { node } of now.values()) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  kept.set(parent, now);
}

/** A cell of a table that is shown as a card where it is narrow: there its heading stands beside it. */
export function cell(heading, attributes = {}, ...children) {
  return el('td', { 'data-heading': heading, ...attributes }, ...children);
}

/** Shows or hides a message at a form. */
export function setError(node, text) {
  setText(node, text ?? '');
  node.hidden = !text;
}

let fading = 0;

/** Says what came of something, also to who does not see it. */
export function announce(text, tone = 'good') {
  const place = $('result');
  clearTimeout(fading);
  place.dataset.tone = tone;
  // A text that is said twice must change to be said again.
  place.textContent = '';
  requestAnimationFrame(() => {
    place.textContent = text;
  });
  fading = setTimeout(() => {
    place.textContent = '';
  }, 8000);
}

/** A list of figures: `[label, value, tone]` each. */
export function readouts(list, figures) {
  keyed(list, figures, ([label]) => label, ([label]) => {
    const value = el('dd');
    const node = el('div', {}, el('dt', {}, label), value);
    const update = ([, text, tone]) => {
      setText(value, text);
      setAttribute(node, 'data-tone', tone ?? null);
    };
    return { node, update };
  });
}

/** Keeps a form from being sent twice while `act` works on it. */
export async function busy(form, act) {
  if (form.getAttribute('aria-busy') === 'true') return;
  form.setAttribute('aria-busy', 'true');
  try {
    await act();
  } finally {
    form.removeAttribute('aria-busy');
  }
}

/** Opens a dialog that only shows something. */
export function show(dialog) {
  for (const button of dialog.querySelectorAll('button.cancel')) {
    button.onclick = () => dialog.close();
  }
  dialog.showModal();
}

/** Lets a dialog be left, or not. */
function letGo(dialog, may) {
  dialog.oncancel = may ? null : (event) => event.preventDefault();
  for (const button of dialog.querySelectorAll('button.cancel')) button.disabled = !may;
}

/**
 * Opens a dialog whose form does `act`, which throws to keep it open with the reason, and may
 * give what is to be done once it is closed. Until it is known what came of `act` the dialog stays.
 */
export function confirmWith(dialog, act) {
  const form = dialog.querySelector('form');
  const error = dialog.querySelector('.error');
  setError(error, '');
  form.onsubmit = (event) => {
    event.preventDefault();
    setError(error, '');
    busy(form, async () => {
      letGo(dialog, false);
      try {
        const after = await act();
        // A dialog gives the focus back to where it was.
        dialog.close();
        after?.();
      } catch (failure) {
        setError(error, failure.message);
        // A browser may close a dialog against its will.
        if (!dialog.open) announce(failure.message, 'bad');
      } finally {
        letGo(dialog, true);
      }
    });
  };
  show(dialog);
}
