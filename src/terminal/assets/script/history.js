// The versions of the settings: what each has changed, and the way back, with the difference shown first.

import { change, read } from './api.js';
import { visible } from './bytes.js';
import { confirmDifference, showDifference } from './difference.js';
import { $, announce, busy, el, keyed, setAttribute, setError, setText } from './dom.js';
import { moment, plural } from './format.js';

const CREATED = 'created';
// A change that came late and has no effect shows in nothing else, so the list is asked for now and then.
const EVERY_MS = 20000;
// Of what a version has changed so much is listed.
const MOST_LISTED = 8;

const valueOf = (value) => value ?? 'not set';
const rowOf = ({ collection, name, from, to }) => (
  { name: collection ? `${collection}: ${name}` : name, before: valueOf(from), after: valueOf(to) });
const titleOf = ({ version }) => (version === CREATED ? 'the cluster’s creation' : `the version ${version}`);

function changesOf({ version, differences, refused }) {
  if (differences.length === 0) return refused ? [] : [version === CREATED ? 'all defaults' : 'nothing was changed by it'];
  const listed = differences.slice(0, MOST_LISTED).map(rowOf).map((one) => `${one.name} ${one.before} → ${one.after}`);
  const rest = differences.length - listed.length;
  return rest > 0 ? [...listed, `and ${plural(rest, 'other', 'others')}`] : listed;
}

function originOf({ version, member, by, back_to: backTo }) {
  if (version === CREATED) return 'the cluster was created so';
  const parts = [member ? `${member} was asked` : '', by ? `with the token ${by}` : '', backTo ? `back to ${backTo}` : ''];
  return visible(parts.filter((part) => part !== '').join(', '));
}

/** What each version offers: the one in force to be taken back, those before it to be gone back to. */
function withWaysBack(versions) {
  const effective = versions.filter((row) => !row.refused);
  const [current, before] = effective;
  return versions.map((row) => {
    if (row.refused) return { row, target: null };
    return row === current ? { row, isCurrent: true, target: before ?? null } : { row, target: row };
  });
}

function makeVersion(goBack) {
  const [time, name, state] = [el('time'), el('code'), el('span', { class: 'state' })];
  const [origin, changes, refusal] = [el('p', { class: 'help' }), el('ul'), el('p', { class: 'note', 'data-tone': 'warn' })];
  const button = el('button', { type: 'button', class: 'small' });
  const node = el('li', {}, el('p', { class: 'what' }, name, time, state),
    el('div', { class: 'changes' }, changes, origin, refusal), button);
  let target = null;
  button.addEventListener('click', () => goBack(target));
  const update = (version) => {
    const { row, isCurrent } = version;
    target = version.target;
    setText(name, row.version);
    setText(time, moment(row.time_ms));
    setAttribute(time, 'datetime', new Date(row.time_ms).toISOString());
    setText(state, isCurrent ? 'in force' : row.refused ? 'no effect here' : '');
    setAttribute(state, 'data-tone', isCurrent ? 'good' : 'warn');
    keyed(changes, changesOf(row), (text) => text, (text) => ({ node: el('li', {}, visible(text)), update() {} }));
    setText(origin, originOf(row));
    setText(refusal, visible(row.refused ?? ''));
    refusal.hidden = !row.refused;
    setText(button, isCurrent ? 'Take back…' : 'Back to this…');
    setAttribute(button, 'aria-label', isCurrent ? `Take back ${titleOf(row)}` : `Back to ${titleOf(row)}`);
    button.hidden = target === null;
  };
  return { node, update };
}

/** The list below the form; `changed(settings)` is told what came of going back. */
export function makeHistory(changed) {
  const [list, error] = [$('versions'), $('versions-error')];
  let [shown, askedMs] = [null, 0];

  const ask = (version, query) => change('POST', `/v1/settings/rollback${query}`, { version });
  const wouldChange = async ({ version }) => (await ask(version, '?dry_run=true')).differences.map(rowOf);
  const goBack = (target) => busy(list, async () => {
    setError(error, '');
    let rows;
    try {
      rows = await wouldChange(target);
    } catch (failure) {
      // Nothing is changed by looking, whether it is answered or not.
      setError(error, failure.isSilence ? 'this member does not answer' : failure.message);
      return;
    }
    if (rows.length === 0) {
      announce('Nothing would change: these values are in force.', 'info');
      return;
    }
    confirmDifference(`All settings become what they were after ${titleOf(target)}, of ${moment(target.time_ms)}.`, rows, async () => {
      const now = await wouldChange(target);
      if (JSON.stringify(now) !== JSON.stringify(rows)) {
        rows = now;
        showDifference(rows);
        throw new Error('somebody changed the settings meanwhile; what stands here now would change');
      }
      const settings = await ask(target.version, '');
      announce(`The settings are back at ${titleOf(target)}, and within seconds on all members.`);
      changed(settings);
    });
  });

  return {
    /** Reads it anew if what is in force is no longer what it ends with. */
    async poll({ version, digest, refused = [] }) {
      const now = `${version} ${digest} ${refused.length}`;
      if (now === shown && performance.now() - askedMs < EVERY_MS) return;
      let versions;
      try {
        versions = (await read('/v1/settings/history')).versions;
      } catch (failure) {
        if (shown === null) setError(error, failure.message);
        return;
      }
      if (shown === null) setError(error, '');
      [shown, askedMs] = [now, performance.now()];
      keyed(list, withWaysBack(versions), ({ row }) => row.version, () => makeVersion(goBack));
    },
  };
}
