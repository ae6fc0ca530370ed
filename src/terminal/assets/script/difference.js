// What would change is shown before anything is changed, in one dialog for all that changes settings.

import { $, cell, confirmWith, el, keyed, setText } from './dom.js';

function makeRow() {
  const [name, before, after] = [el('th', { scope: 'row' }), el('del'), el('ins')];
  const update = (one) => {
    setText(name, one.name);
    setText(before, one.before);
    setText(after, one.after);
  };
  return { node: el('tr', {}, name, cell('Now', {}, before), cell('Then', {}, after)), update };
}

/** Shows what would change: `{ name, before, after }` each. */
export function showDifference(rows) {
  keyed($('difference'), rows, (one) => one.name, makeRow);
}

/** Opens the dialog, which says what it is about, and does `act` once that is confirmed; `act` throws to keep it open. */
export function confirmDifference(about, rows, act) {
  setText($('difference-about'), about);
  showDifference(rows);
  confirmWith($('difference-dialog'), act);
}
