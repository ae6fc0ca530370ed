// The cluster at a glance, and its members: who there is, what changes, and the forms to join, leave and remove.

import { change } from './api.js';
import { $, announce, busy, cell, confirmWith, el, keyed, readouts, setAttribute, setError, setText, show } from './dom.js';
import { visible } from './bytes.js';
import { bytes, count, duration, offset, plural } from './format.js';

const OWN_TONES = { ready: 'good', starting: 'warn', joining: 'warn', no_cluster: 'warn' };

export const words = (state) => state.replaceAll('_', ' ');

/** The state of the asked member, and how good that is. */
export function ownState(status) {
  return [words(status.state), OWN_TONES[status.state] ?? 'bad'];
}

/** The state of a member of the roster, and how good that is. */
function stateOf(row, status) {
  const place = row.standing === 'active' ? '' : row.standing;
  if (row.alive === false) return [place === '' ? 'dead' : `dead, ${place}`, 'bad'];
  if (place !== '') return [place, 'warn'];
  if (row.this_member) return ownState(status);
  if (row.alive === null) return ['not heard yet', 'wait'];
  return row.ready === false ? ['alive, not ready', 'warn'] : row.ready ? ['ready', 'good'] : ['alive', 'good'];
}

/** The page of another member, or null. */
export function pageOf(address) {
  try {
    return address ? new URL(`${location.protocol}//${address}/`).href : null;
  } catch {
    return null;
  }
}

function makeMember(act) {
  const [link, here, state] = [el('a'), el('span', { class: 'here' }), el('span', { class: 'state' })];
  const [version, clock, partitions, zone, address] = [el('span'), el('span'), el('span'), el('span'), el('span')];
  const button = el('button', { type: 'button', class: 'small' });
  let current = null;
  button.addEventListener('click', () => act(current));
  const node = el('tr', {},
    el('th', { scope: 'row' }, link, here),
    cell('State', {}, state), cell('Version', {}, version), cell('Clock', { class: 'number' }, clock),
    cell('Partitions', { class: 'number' }, partitions), cell('Zone', {}, zone),
    cell('Address', { class: 'code' }, address), cell('', { class: 'act' }, button));
  const update = ({ row, status }) => {
    current = row;
    setText(link, visible(row.name));
    setAttribute(link, 'href', row.this_member ? null : pageOf(row.http_address));
    setText(here, row.this_member ? ' this one' : '');
    const [text, tone] = stateOf(row, status);
    setText(state, text);
    setAttribute(state, 'data-tone', tone);
    setText(version, row.version ?? '–');
    setText(clock, offset(row.clock_offset_ms));
    setAttribute(clock, 'data-tone', row.this_member && !status.clock.may_stamp ? 'bad' : null);
    setText(partitions, count(row.partitions));
    setText(zone, row.zone ?? '–');
    setText(address, row.address);
    setText(button, row.this_member ? 'Leave…' : 'Remove…');
    setAttribute(button, 'aria-label', `${row.this_member ? 'Leave the cluster with' : 'Remove'} ${row.name}`);
    button.hidden = row.this_member && row.standing !== 'active';
    setAttribute(node, 'data-tone', tone);
  };
  return { node, update };
}

function changeText({ change: kind, member, collection, from, to }) {
  if (kind === 'join') return `${member} joins`;
  if (kind === 'leave') return `${member} leaves`;
  if (kind === 'zone') return `${member} moves from zone ${from || 'none'} to ${to || 'none'}`;
  return `replication factor${collection ? ` of ${collection}` : ''} ${from} → ${to}`;
}

function makeTransition() {
  const [what, bar, how] = [el('strong'), el('progress'), el('span', { class: 'help' })];
  const update = (transition) => {
    setText(what, visible(changeText(transition)));
    const { partitions, partitions_done: done, waits, reason } = transition;
    bar.hidden = waits;
    bar.max = Math.max(1, partitions);
    bar.value = done;
    setAttribute(bar, 'aria-label', `${changeText(transition)}: ${done} of ${partitions} partitions`);
    const progress = waits ? 'waits' : `${count(done)} of ${plural(partitions, 'partition', 'partitions')}`;
    setText(how, visible(reason ? `${progress}; ${reason}` : progress));
  };
  return { node: el('li', {}, what, bar, how), update };
}

/** The file of a member that is to be added. */
function fileOf(cluster) {
  const seeds = cluster.members.filter((row) => row.alive !== false).slice(0, 3).map((row) => row.address);
  return `name = "NAME"
cluster = ${JSON.stringify(cluster.name)}
data_dir = "/var/lib/kith"
secret_file = "/etc/kith/cluster.secret"
seeds = [${seeds.map((seed) => JSON.stringify(seed)).join(', ')}]

[listen]
peers = "ADDRESS:7400"
http = "ADDRESS:7401"
resp = "ADDRESS:7402"
`;
}

/** The view; `app.refresh` asks anew at once, `app.tell` leaves a note. */
export function makeCluster(app) {
  let snapshot = null;

  const leave = (row) => {
    const others = snapshot.cluster.members.length - 1;
    setText($('leave-what'), visible(`${row.name} hands what it holds of ${plural(row.partitions, 'partition', 'partitions')} to the other ${plural(others, 'member', 'members')}, and then goes.`));
    confirmWith($('leave-dialog'), async () => {
      await change('POST', '/v1/cluster/leave');
      announce(`${row.name} leaves; what it holds is being handed over.`);
      app.refresh();
    });
  };
  const remove = (row) => {
    setText($('remove-what'), visible(row.alive === false
      ? `${row.name} is dead. It owns ${plural(row.partitions, 'partition', 'partitions')}.`
      : `${row.name} is not known to be dead. A member that lives leaves from its own page.`));
    $('remove-force').checked = false;
    confirmWith($('remove-dialog'), async () => {
      const query = $('remove-force').checked ? '?force=true' : '';
      const removed = await change('DELETE', `/v1/cluster/members/${encodeURIComponent(row.id)}${query}`);
      announce(`${removed.name} is removed.`, removed.warnings.length > 0 ? 'warn' : 'good');
      removed.warnings.forEach((warning) => app.tell(`${removed.name} was removed: ${warning}`));
      app.refresh();
    });
  };
  $('add-button').addEventListener('click', () => {
    const own = snapshot.cluster.members.find((row) => row.this_member);
    setText($('add-file'), fileOf(snapshot.cluster));
    setText($('add-address'), own?.address ?? '');
    show($('add-dialog'));
  });
  const form = $('join-form');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const address = $('join-address').value.trim();
    if (address === '') {
      setError($('join-error'), 'write the address of a member first, such as 10.0.0.1:7400');
      return;
    }
    setError($('join-error'), '');
    busy(form, async () => {
      announce(`asking ${address} to let this member in…`, 'info');
      try {
        const cluster = await change('POST', '/v1/cluster/join', { address });
        announce(`This member is let into the cluster ${cluster.name}.`);
        form.reset();
      } catch (failure) {
        announce('', 'info');
        setError($('join-error'), failure.message);
      }
      app.refresh();
    });
  });

  const figures = ({ status, cluster }) => {
    const alive = cluster?.members.filter((row) => row.alive).length;
    const told = status.convergence;
    const known = (value) => value ?? '–';
    return [
      ['Members alive', cluster ? `${alive} of ${cluster.members.length}` : '–', cluster && alive < cluster.members.length ? 'bad' : null],
      ['Copies of a record', known(cluster?.replication_factor), cluster?.replication_factor > cluster?.members.length ? 'warn' : null],
      ['Partitions complete', told ? `${count(told.owned_partitions - told.incomplete_partitions)} of ${count(told.owned_partitions)}` : '–',
        told?.incomplete_partitions > 0 ? 'warn' : null],
      ['Hints for others', count(status.hints.pending), status.hints.pending > 0 ? 'warn' : null],
      ['Records', count(status.storage.records)],
      ['Memory for these', bytes(status.storage.table_bytes)],
      ['Sync', status.sync],
      ['Up for', duration(status.uptime_ms)],
    ];
  };

  return {
    update(now) {
      snapshot = now;
      const { status, cluster } = now;
      readouts($('readouts'), figures(now));
      $('joining').hidden = status.state !== 'no_cluster';
      $('changing').hidden = status.transitions.length === 0;
      keyed($('transitions'), status.transitions, (one) => `${one.change} ${one.member} ${one.collection}`, makeTransition);
      $('member-list').hidden = !cluster;
      const rows = (cluster?.members ?? []).map((row) => ({ row, status }));
      keyed($('members'), rows, ({ row }) => row.id, () => makeMember((row) => (row.this_member ? leave(row) : remove(row))));
    },
  };
}
