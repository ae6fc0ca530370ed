// Who owns which partition: a strip for each member, and the owners of one key.

import { read } from './api.js';
import { $, busy, cell, drawn, el, keyed, setAttribute, setError, setText } from './dom.js';
import { bytesOf, percent, shown, visible } from './bytes.js';
import { count, plural } from './format.js';

const HEIGHT = 10;
const MOST_ROWS = 1024;
// A placement of many partitions is asked for less often.
const MANY = 1024;
const MANY_EVERY_MS = 10000;

const homeOf = (row) => row.owners.find((owner) => owner.name === row.home)?.id;

function kindOf(row, owner) {
  if (!owner.alive) return 'gone';
  if (!owner.complete) return 'coming';
  return homeOf(row) === owner.id ? 'home' : 'copy';
}

/** Of each member, by id, the partitions of each kind. */
function byMember(placement) {
  const members = new Map();
  for (const row of placement.rows) {
    for (const owner of row.owners) {
      if (!members.has(owner.id)) members.set(owner.id, { id: owner.id, name: owner.name, home: [], copy: [], coming: [], gone: [] });
      members.get(owner.id)[kindOf(row, owner)].push(row.partition);
    }
  }
  return [...members.values()].sort((one, other) => one.name.localeCompare(other.name) || one.id.localeCompare(other.id));
}

// Where in a strip each kind is drawn, from the top: it is told by its place, whatever the colours are.
const PLACES = { home: [0, HEIGHT], copy: [4, 6], coming: [8, 2], gone: [0, 3] };

const pathOf = (partitions, [top, height]) => partitions.map((at) => `M${at} ${top}h1v${height}h-1z`).join('');

function makeStrip() {
  const [name, told] = [el('strong'), el('span', { class: 'help' })];
  const paths = Object.keys(PLACES).map((kind) => [kind, drawn('path', { class: kind })]);
  const drawing = drawn('svg', { preserveAspectRatio: 'none', role: 'img' }, ...paths.map(([, path]) => path));
  const node = el('div', { class: 'strip' }, el('p', {}, name, ' ', told), drawing);
  const update = ({ member, partitions }) => {
    setText(name, visible(member.name));
    const parts = [`home of ${count(member.home.length)}`, `copies of ${count(member.copy.length)}`];
    if (member.coming.length > 0) parts.push(`${count(member.coming.length)} not complete`);
    if (member.gone.length > 0) parts.push(`dead, ${count(member.gone.length)} owned`);
    setText(told, parts.join(', '));
    setAttribute(drawing, 'viewBox', `0 0 ${partitions} ${HEIGHT}`);
    setAttribute(drawing, 'aria-label', `Partitions of ${member.name}: ${parts.join(', ')}`);
    for (const [kind, path] of paths) setAttribute(path, 'd', pathOf(member[kind], PLACES[kind]));
  };
  return { node, update };
}

function ownerText(row, owner) {
  const marks = [];
  if (homeOf(row) === owner.id) marks.push('home');
  if (!owner.alive) marks.push('dead');
  if (!owner.complete) marks.push('not complete');
  if (!owner.old) marks.push('to come');
  if (!owner.new) marks.push('to go');
  return visible(marks.length > 0 ? `${owner.name} (${marks.join(', ')})` : owner.name);
}

const ownersText = (row) => row.owners.map((owner) => ownerText(row, owner)).join(', ');

/** A partition's number, and the collection that it is of if that is placed by itself. */
const nameOf = (row) => (row.collection ? `${row.partition} (${visible(row.collection)})` : String(row.partition));

function makeRow() {
  const [home, owners] = [cell('Home'), cell('Owners')];
  const number = el('th', { scope: 'row' });
  const update = (row) => {
    setText(number, nameOf(row));
    setText(home, visible(row.home ?? 'no complete owner'));
    setText(owners, ownersText(row));
  };
  return { node: el('tr', {}, number, home, owners), update };
}

function summaryOf(placement) {
  const complete = placement.rows.map((row) => row.owners.filter((owner) => owner.alive && owner.complete).length);
  const least = Math.min(...complete);
  const without = complete.filter((owners) => owners === 0).length;
  const many = plural(placement.partitions, 'partition', 'partitions');
  if (without > 0) return `${many}; ${count(without)} of them have no live owner that is complete.`;
  return `${many}; each has ${plural(least, 'live owner', 'live owners')} at least that ${least === 1 ? 'is' : 'are'} complete.`;
}

export function makePartitions() {
  let [placement, askedMs] = [null, 0];
  const showRows = () => {
    const isOpen = $('partition-details').open;
    keyed($('partition-rows'), isOpen && placement ? placement.rows.slice(0, MOST_ROWS) : [], (row) => row.partition, makeRow);
  };
  $('partition-details').addEventListener('toggle', showRows);

  const form = $('owners-form');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const [collection, key] = [$('owners-collection').value, bytesOf($('owners-key').value)];
    const answer = $('owners-answer');
    answer.hidden = true;
    setError($('owners-error'), '');
    busy(form, async () => {
      try {
        const found = await read(`/v1/cluster/placement?collection=${encodeURIComponent(collection)}&key=${percent(key)}`);
        const row = found.rows[0];
        setText(answer, `${shown(key)} lies in partition ${nameOf(row)}: ${ownersText(row)}`);
        answer.hidden = false;
      } catch (failure) {
        setError($('owners-error'), failure.message);
      }
    });
  });

  return {
    update() {},
    async poll() {
      const isLarge = placement !== null && placement.partitions > MANY;
      if (isLarge && performance.now() - askedMs < MANY_EVERY_MS) return;
      askedMs = performance.now();
      try {
        placement = await read('/v1/cluster/placement');
      } catch (failure) {
        setText($('partitions-summary'), failure.message);
        return;
      }
      setText($('partitions-summary'), summaryOf(placement));
      const members = byMember(placement).map((member) => ({ member, partitions: placement.partitions }));
      keyed($('strips'), members, ({ member }) => member.id, makeStrip);
      showRows();
    },
  };
}
