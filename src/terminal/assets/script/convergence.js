// Whether the asked member and the others hold the same, as far as it knows.

import { $, cell, el, keyed, readouts, setAttribute, setText } from './dom.js';
import { visible } from './bytes.js';
import { count, duration, offset, plural } from './format.js';

const COLUMNS = [
  ['Reached', (peer) => [peer.reachable ? 'yes' : 'no', peer.reachable ? 'good' : 'bad']],
  ['Compared', (peer) => [peer.lag_ms === null ? 'not yet' : `${duration(peer.lag_ms)} ago`, peer.lag_ms === null || peer.lag_ms > 60000 ? 'warn' : null]],
  ['On the way', (peer) => [count(peer.records_under_way), null]],
  ['Hints', (peer) => [count(peer.hints), peer.hints > 0 ? 'warn' : null]],
  ['Leaves that differed', (peer) => [count(peer.differing_leaves), peer.differing_leaves > 0 ? 'warn' : null]],
  ['Clock', (peer) => [offset(peer.clock_offset_ms), null]],
  ['Tombstones held back', (peer) => [count(peer.tombstones_held_back), null]],
];

function makePeer() {
  const name = el('th', { scope: 'row' });
  const cells = COLUMNS.map(([heading], at) => cell(heading, { class: at === 0 ? '' : 'number' }, el('span')));
  const update = (peer) => {
    setText(name, visible(peer.name));
    COLUMNS.forEach(([, show], at) => {
      const [text, tone] = show(peer);
      setText(cells[at].firstChild, text);
      setAttribute(cells[at].firstChild, 'data-tone', tone);
    });
  };
  return { node: el('tr', {}, name, ...cells), update };
}

/** What keeps members from holding the same, as this one knows. */
function obstacles(told) {
  const found = [];
  const note = (number, one, many) => number > 0 && found.push(plural(number, one, many));
  const sum = (field) => told.peers.reduce((total, peer) => total + peer[field], 0);
  const away = told.peers.filter((peer) => !peer.reachable).map((peer) => visible(peer.name));
  if (away.length > 0) found.push(`${away.join(', ')} out of reach`);
  note(told.incomplete_partitions, 'partition is incomplete', 'partitions are incomplete');
  note(told.awaited_partitions, 'partition is awaited by a change', 'partitions are awaited by a change');
  note(told.foreign_partitions, 'partition is held for others', 'partitions are held for others');
  note(told.unsorted_collections, 'collection is being sorted', 'collections are being sorted');
  note(told.wrong_leaves, 'leaf is being mended', 'leaves are being mended');
  note(told.hints, 'hint is kept', 'hints are kept');
  note(sum('differing_leaves'), 'leaf differed', 'leaves differed');
  note(sum('records_under_way'), 'record is on its way', 'records are on their way');
  const never = told.peers.filter((peer) => peer.reachable && peer.lag_ms === null).map((peer) => visible(peer.name));
  if (never.length > 0) found.push(`${never.join(', ')} not compared yet`);
  return found;
}

export function makeConvergence() {
  return {
    update({ status }) {
      const told = status.convergence;
      const verdict = $('verdict');
      if (!told) {
        setText(verdict, 'This member is in no cluster, so there is nothing to compare with.');
        readouts($('own-convergence'), []);
        keyed($('peers'), [], (peer) => peer.id, makePeer);
        return;
      }
      const found = obstacles(told);
      setText(verdict, found.length === 0
        ? 'As far as this member knows, all hold the same.'
        : `In the way: ${found.join('; ')}.`);
      setAttribute(verdict, 'data-tone', found.length === 0 ? 'good' : 'warn');
      readouts($('own-convergence'), [
        ['Partitions owned', count(told.owned_partitions)],
        ['Incomplete', count(told.incomplete_partitions), told.incomplete_partitions > 0 ? 'warn' : null],
        ['Awaited by changes', count(told.awaited_partitions), told.awaited_partitions > 0 ? 'warn' : null],
        ['Held for others', count(told.foreign_partitions), told.foreign_partitions > 0 ? 'warn' : null],
        ['Hints kept', count(told.hints), told.hints > 0 ? 'warn' : null],
        ['Tombstones waiting', count(told.tombstones_waiting)],
        ['Tombstones settled', count(told.tombstones_settled)],
        ['Writes that lost', count(told.superseded_records)],
      ]);
      keyed($('peers'), told.peers, (peer) => peer.id, makePeer);
    },
  };
}
