// Keys and values: browsed, read, written and deleted.

import { Failure, ask, change, read } from './api.js';
import { $, announce, busy, cell, confirmWith, el, keyed, setAttribute, setError, setText } from './dom.js';
import { bytesOf, fieldOf, hexadecimal, ofPercent, percent, shown, textOf } from './bytes.js';
import { bytes, count, duration, moment, plural, stampMs, ttlMs } from './format.js';

const PAGE = 50;
const MOST_OFFERED = 500;
// A value up to here is read whole and may be edited; of a larger one the beginning is shown.
const MOST_EDITED = 256 * 1024;
const MOST_SHOWN = 4096;

// The highest timestamp that was seen: what is written from here follows it.
let seen = '';

function saw(timestamp) {
  if (timestamp && timestamp > seen) seen = timestamp;
}

/** Browsers take these names for steps in a path, however they are written; collections have no other names that do harm. */
const isStep = (text) => text === '.' || text === '..';

function collectionIn(input) {
  const name = input.value.trim();
  if (name === '') throw new Failure(400, 'bad_key', 'name a collection; `default` is the one of clients who name none');
  if (isStep(name)) throw new Failure(400, 'bad_key', 'a collection can’t be named so');
  return name;
}

const pathOf = (collection, key) => `/v1/kv/${encodeURIComponent(collection)}/${percent(key)}`;

/** What a browser can't name in a path goes in a batch of one. */
async function inBatch(operation, collection, key) {
  const answer = await change('POST', '/v1/batch', [{ ...operation, collection, key: textOf(key) }]);
  const [outcome] = answer.results;
  if (outcome.outcome === 'failed') throw new Failure(503, outcome.error, outcome.message);
  if (outcome.outcome === 'condition_failed') throw new Failure(412, 'condition_failed', 'somebody changed it meanwhile');
  return outcome;
}

/** A record, or null: its bytes (the first of them, if there are many), size, timestamp, and what is left of its life. */
async function readRecord(collection, key) {
  if (isStep(textOf(key))) {
    const found = await inBatch({ op: 'get' }, collection, key);
    if (found.outcome === 'not_found') return null;
    const value = fieldOf(found, 'value');
    return { value, size: value.length, timestamp: found.timestamp, tag: found.timestamp, ttl: found.ttl };
  }
  const path = pathOf(collection, key);
  let answer;
  try {
    answer = await ask('GET', path, { headers: { range: `bytes=0-${MOST_EDITED - 1}` } });
  } catch (failure) {
    if (failure.code === 'not_found') return null;
    // A value without bytes has no first one.
    if (failure.code !== 'bad_range') throw failure;
    answer = await ask('GET', path);
  }
  const value = new Uint8Array(await answer.arrayBuffer());
  const range = /\/(\d+)$/.exec(answer.headers.get('content-range') ?? '');
  return {
    value,
    size: range ? Number(range[1]) : value.length,
    timestamp: answer.headers.get('kith-timestamp'),
    tag: answer.headers.get('etag')?.replaceAll('"', '') ?? null,
    ttl: answer.headers.get('kith-ttl'),
  };
}

/** Stores a value under a condition: `if` is `absent`, a timestamp, or nothing. */
async function writeRecord(collection, key, value, { ttl, level, condition }) {
  if (isStep(textOf(key))) {
    const operation = { op: 'put', value, ...(ttl ? { ttl } : {}), ...(condition ? { if: condition } : {}) };
    return inBatch(operation, collection, key);
  }
  const query = new URLSearchParams({ ...(ttl ? { ttl } : {}), ...(level ? { consistency: level } : {}) }).toString();
  const headers = { 'content-type': 'application/octet-stream', ...conditionHeaders(condition) };
  const answer = await ask('PUT', `${pathOf(collection, key)}${query ? `?${query}` : ''}`, { body: bytesOf(value), headers });
  return answer.json();
}

async function deleteRecord(collection, key, { level, condition }) {
  if (isStep(textOf(key))) return inBatch({ op: 'delete', ...(condition ? { if: condition } : {}) }, collection, key);
  const query = level ? `?consistency=${encodeURIComponent(level)}` : '';
  const answer = await ask('DELETE', `${pathOf(collection, key)}${query}`, { headers: conditionHeaders(condition) });
  return answer.json();
}

function conditionHeaders(condition) {
  const headers = seen ? { 'kith-after': seen } : {};
  if (condition === 'absent') headers['if-none-match'] = '*';
  else if (condition) headers['if-match'] = `"${condition}"`;
  return headers;
}

function makeEntry(open) {
  const button = el('button', { type: 'button', class: 'key' });
  const [written, expires] = [cell('Written', { class: 'number' }), cell('Expires', { class: 'number' })];
  const node = el('tr', {}, el('th', { scope: 'row' }, button), written, expires);
  let current = null;
  button.addEventListener('click', () => open(current.collection, current.key));
  const update = (row) => {
    current = row;
    setText(button, shown(row.key));
    setText(written, moment(stampMs(row.entry.timestamp)));
    setText(expires, row.entry.ttl ? `in ${duration(ttlMs(row.entry.ttl))}` : 'never');
  };
  return { node, update };
}

export function makeKeys() {
  let [listed, opened] = [null, null];
  // Each opening of a record has a number, so that a late answer does not take the place of a newer one.
  let asked = 0;

  const list = async (collection, prefix, after) => {
    const query = [`limit=${PAGE}`, 'values=false', `prefix=${percent(bytesOf(prefix))}`];
    // The member escaped it already.
    if (after !== null) query.push(`after=${after}`);
    const page = await (await ask('GET', `/v1/kv/${encodeURIComponent(collection)}?${query.join('&')}`)).json();
    listed = { collection, prefix, after, next: page.next ?? null };
    const rows = page.entries.map((entry) => ({ collection, entry, key: fieldOf(entry, 'key') }));
    rows.forEach((row) => saw(row.entry.timestamp));
    keyed($('listing'), rows, (row) => `${collection}/${percent(row.key)}`, () => makeEntry(open));
    $('listing-table').hidden = rows.length === 0;
    $('first-page').hidden = after === null;
    $('next-page').hidden = listed.next === null;
    const which = prefix === '' ? '' : ` that begin with ${shown(bytesOf(prefix))}`;
    const many = rows.length === 0 ? 'No keys' : plural(rows.length, 'key', 'keys');
    setText($('title-listing'), `${many}${after === null ? '' : ' more'} in ${collection}${which}${listed.next === null ? '' : ', and others'}`);
  };
  const browse = (form, collection, prefix, after) => busy(form, async () => {
    setError($('browse-error'), '');
    try {
      await list(collection(), prefix, after);
    } catch (failure) {
      setError($('browse-error'), failure.message);
    }
  });
  const again = async () => {
    if (listed === null) return;
    try {
      await list(listed.collection, listed.prefix, listed.after);
    } catch (failure) {
      setError($('browse-error'), failure.message);
    }
  };
  /** Offers the collections of which the member holds records. */
  const offer = async () => {
    try {
      const { collections } = await read(`/v1/kv?limit=${MOST_OFFERED}`);
      keyed($('collections'), collections, (name) => name, (name) => ({ node: el('option', { value: name }), update() {} }));
    } catch {
      // They are a help and no more: a name can be written.
    }
  };
  $('browse-collection').addEventListener('focus', offer);
  const form = $('browse-form');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    browse(form, () => collectionIn($('browse-collection')), $('browse-prefix').value, null);
  });
  $('first-page').addEventListener('click', () => browse(form, () => listed.collection, listed.prefix, null));
  $('next-page').addEventListener('click', () => browse(form, () => listed.collection, listed.prefix, listed.next));

  const editor = $('record-form');
  const [collectionField, keyField, valueField] = [$('record-collection'), $('record-key'), $('record-value')];

  const place = (title, collection, key, isNew) => {
    $('record').hidden = false;
    setText($('title-record'), title);
    setError($('record-error'), '');
    const text = textOf(key);
    const isText = text !== null && !/[\r\n\0]/.test(text);
    collectionField.value = collection;
    keyField.value = isText ? text : percent(key);
    $('record-encoded').checked = !isText;
    collectionField.readOnly = !isNew;
    keyField.readOnly = !isNew;
    $('record-encoded').disabled = !isNew;
    $('record-encoding').hidden = !isNew && isText;
    $('record-key-help').hidden = !isNew;
    $('record-delete').hidden = isNew;
    $('record-download').hidden = isNew;
    $('record-unchanged').checked = true;
    $('record-level').value = '';
    setText(document.querySelector('label[for="record-unchanged"]'),
      isNew ? 'only if there is no such key yet' : 'only if nobody changed it meanwhile');
  };
  const tell = () => {
    const { timestamp, size, ttl, copies } = opened.record;
    const parts = [`${bytes(size)}, written ${moment(stampMs(timestamp))}`];
    if (ttl) parts.push(`expires in ${duration(ttlMs(ttl))}`);
    if (copies !== undefined) parts.push(`durable on ${plural(copies, 'owner', 'owners')}`);
    if (opened.why) parts.push(opened.why);
    setText($('record-about'), parts.join('; '));
  };
  const show = (collection, key, record) => {
    const text = record.size > record.value.length ? null : textOf(record.value);
    // A form turns other ends of lines into its own, and would change them unseen.
    const isText = text !== null && !/[\r\0]/.test(text);
    // A counter has no tag: others count on meanwhile, and a value in its place would take away what they count.
    const isCounter = record.tag === null;
    const isEdited = isText && !isCounter;
    let why = null;
    if (record.size > record.value.length) why = `too large to be edited here, these are its first ${count(MOST_SHOWN)} bytes`;
    else if (isCounter) why = 'a counter: it is added to (kith increment) and not edited here';
    else if (!isEdited) why = 'no plain text, so it is shown in hexadecimal digits and can’t be edited here';
    opened = { collection, key, record, why };
    place(shown(key), collection, key, false);
    valueField.value = isText ? text : hexadecimal(record.value, MOST_SHOWN);
    valueField.readOnly = !isEdited;
    setAttribute(valueField, 'data-binary', !isText);
    $('record-save').disabled = !isEdited;
    // What lasts stays so when it is edited, whatever its collection's default is.
    $('record-ttl').value = record.ttl ? `${Math.ceil(ttlMs(record.ttl) / 1000)}s` : 'none';
    $('record-condition').hidden = isCounter;
    tell();
  };
  const open = async (collection, key) => {
    setError($('browse-error'), '');
    asked += 1;
    const number = asked;
    try {
      const record = await readRecord(collection, key);
      // Something else was opened, or begun, meanwhile.
      if (number !== asked) return;
      if (record === null) {
        setError($('browse-error'), `there is no record under ${shown(key)} any more`);
        return;
      }
      saw(record.timestamp);
      show(collection, key, record);
      $('title-record').focus();
      $('record').scrollIntoView({ block: 'nearest' });
    } catch (failure) {
      if (number === asked) setError($('browse-error'), failure.message);
    }
  };
  const close = () => {
    asked += 1;
    opened = null;
    $('record').hidden = true;
  };

  $('new-key').addEventListener('click', () => {
    asked += 1;
    opened = null;
    place('New key', $('browse-collection').value.trim() || 'default', new Uint8Array(), true);
    keyField.value = $('browse-prefix').value;
    valueField.value = '';
    valueField.readOnly = false;
    setAttribute(valueField, 'data-binary', false);
    $('record-save').disabled = false;
    $('record-ttl').value = '';
    $('record-condition').hidden = false;
    setText($('record-about'), '');
    keyField.focus();
    $('record').scrollIntoView({ block: 'nearest' });
  });
  $('record-close').addEventListener('click', () => {
    close();
    $('browse-prefix').focus();
  });

  const keyIn = () => {
    if (opened !== null) return opened.key;
    const key = $('record-encoded').checked ? ofPercent(keyField.value) : bytesOf(keyField.value);
    if (key.length === 0) throw new Error('a key has at least one byte');
    return key;
  };
  const explained = (failure) => {
    if (failure.code !== 'condition_failed') return failure.message;
    return opened === null
      ? 'there is such a key already; nothing was changed'
      : 'somebody changed it meanwhile, so nothing was changed; open it again to see how it is now';
  };
  const conditionIn = (forNew) => {
    if (!$('record-unchanged').checked) return null;
    return opened === null ? forNew : opened.record.tag;
  };
  editor.addEventListener('submit', (event) => {
    event.preventDefault();
    setError($('record-error'), '');
    const number = asked;
    const fail = (text) => (number === asked ? setError($('record-error'), text) : announce(text, 'bad'));
    busy(editor, async () => {
      try {
        const [collection, key] = [collectionIn(collectionField), keyIn()];
        const [value, ttl, level] = [valueField.value, $('record-ttl').value.trim(), $('record-level').value];
        const outcome = await writeRecord(collection, key, value, { ttl, level, condition: conditionIn('absent') });
        saw(outcome.timestamp);
        if (outcome.outcome === 'superseded') {
          fail('a newer write of somebody else stands; open the key again to see it');
          return;
        }
        const lives = await readRecord(collection, key).catch(() => null);
        const record = lives?.timestamp === outcome.timestamp ? lives
          : { value: bytesOf(value), size: bytesOf(value).length, timestamp: outcome.timestamp, tag: outcome.timestamp, ttl: null };
        if (number === asked) {
          show(collection, key, { ...record, copies: outcome.copies });
          if (record !== lives) $('record-ttl').value = ttl;
        }
        announce(`${shown(key)} is stored, durable on ${plural(outcome.copies, 'owner', 'owners')}.`);
        await again();
      } catch (failure) {
        fail(explained(failure));
      }
    });
  });
  $('record-delete').addEventListener('click', () => {
    const { collection, key } = opened;
    const [level, condition] = [$('record-level').value, conditionIn(null)];
    setText($('delete-what'), `${shown(key)} in the collection ${collection}`);
    confirmWith($('delete-dialog'), async () => {
      let outcome;
      try {
        outcome = await deleteRecord(collection, key, { level, condition });
      } catch (failure) {
        throw new Error(explained(failure));
      }
      saw(outcome.timestamp);
      close();
      announce(`${shown(key)} is deleted.`);
      await again();
      return () => $('browse-prefix').focus();
    });
  });
  $('record-download').addEventListener('click', async () => {
    const { collection, key, record } = opened;
    try {
      const whole = record.size === record.value.length ? new Blob([record.value])
        : await (await ask('GET', pathOf(collection, key), { patience: 60000 })).blob();
      const link = el('a', { href: URL.createObjectURL(whole), download: shown(key).replaceAll(/[^\w.-]+/g, '_') || 'value' });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    } catch (failure) {
      setError($('record-error'), failure.message);
    }
  });

  return { update() {} };
}
