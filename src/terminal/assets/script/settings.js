// The settings: edited here, shown as a difference, and then applied, all or none.

import { change, read } from './api.js';
import { confirmDifference } from './difference.js';
import { $, announce, el, keyed, setAttribute, setError, setProse, setText } from './dom.js';
import { moment, plural, stampMs } from './format.js';
import { makeHistory } from './history.js';

function makeRow(edited) {
  const input = el('input', { autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
  const [label, about, meta] = [el('label'), el('p', { class: 'help' }), el('p', { class: 'help meta' })];
  const node = el('div', { class: 'setting' }, el('p', { class: 'field' }, label, input), about, meta);
  let base = null;
  input.addEventListener('input', () => {
    setAttribute(node, 'data-edited', input.value.trim() !== base);
    edited();
  });
  const update = (entry) => {
    const id = `setting-${entry.name}`;
    setText(label, entry.name);
    setAttribute(label, 'for', id);
    setAttribute(input, 'id', id);
    setAttribute(input, 'name', entry.name);
    setAttribute(input, 'aria-describedby', `${id}-about`);
    setAttribute(about, 'id', `${id}-about`);
    input.readOnly = entry.managed;
    setProse(about, entry.description);
    const since = entry.timestamp ? `set ${moment(stampMs(entry.timestamp))}` : 'never set';
    setText(meta, entry.managed ? 'follows by itself' : `default ${entry.default}, ${since}`);
    // What a person has edited stays, whatever others change meanwhile; the difference is made with what is in force then.
    const isEdited = base !== null && input.value.trim() !== base;
    base = entry.value;
    if (!isEdited) input.value = entry.value;
    setAttribute(node, 'data-edited', input.value.trim() !== base);
  };
  return { node, update };
}

export function makeSettings(app) {
  const [form, error] = [$('settings-form'), $('settings-error')];
  let entries = [];

  const field = (name) => document.getElementById(`setting-${name}`);
  const difference = () => entries.filter((entry) => !entry.managed)
    .map((entry) => ({ name: entry.name, before: entry.value, after: field(entry.name).value.trim() }))
    .filter((one) => one.before !== one.after);
  const tellEdited = () => {
    const edited = difference().length;
    $('settings-difference').disabled = edited === 0;
    $('settings-reset').disabled = edited === 0;
    setText($('settings-edited'), edited === 0 ? '' : `${plural(edited, 'setting is', 'settings are')} edited`);
  };
  const show = (settings) => {
    entries = settings.entries;
    keyed($('settings-rows'), entries, (entry) => entry.name, () => makeRow(tellEdited));
    tellEdited();
  };
  const history = makeHistory((settings) => {
    show(settings);
    app.refresh();
  });

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    setError(error, '');
    try {
      // What is in force now, and not when the page was opened.
      show(await read('/v1/settings'));
    } catch (failure) {
      setError(error, failure.message);
      return;
    }
    const changes = difference();
    if (changes.length === 0) {
      announce('Nothing would change: these values are in force.', 'info');
      return;
    }
    confirmDifference('The values that were edited are set.', changes, async () => {
      const settings = Object.fromEntries(changes.map((one) => [one.name, one.after]));
      try {
        const applied = await change('PATCH', '/v1/settings', { settings });
        // The canonical form of a value may be another text than the one that was written.
        for (const one of changes) field(one.name).value = applied.entries.find((entry) => entry.name === one.name)?.value ?? one.after;
        show(applied);
      } catch (failure) {
        setError(error, failure.message);
        throw failure;
      }
      setError(error, '');
      announce(`${plural(changes.length, 'setting is', 'settings are')} changed, and within seconds on all members.`);
      app.refresh();
    });
  });
  form.addEventListener('reset', (event) => {
    event.preventDefault();
    entries.forEach((entry) => {
      field(entry.name).value = entry.value;
    });
    setError(error, '');
    show({ entries });
  });

  return {
    update() {},
    async poll() {
      let settings;
      try {
        settings = await read('/v1/settings');
      } catch (failure) {
        if (entries.length === 0) setError(error, failure.message);
        return;
      }
      show(settings);
      await history.poll(settings);
    },
  };
}
