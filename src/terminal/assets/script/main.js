// The page: its views, and the loop that asks the member every two seconds while somebody looks.

import { Failure, ask, read } from './api.js';
import { visible } from './bytes.js';
import { makeCluster, ownState } from './cluster.js';
import { makeConvergence } from './convergence.js';
import { $, announce, el, keyed, setAttribute, setText } from './dom.js';
import { makeEvents } from './events.js';
import { duration, moment } from './format.js';
import { makeKeys } from './keys.js';
import { parse } from './metrics.js';
import { makePartitions } from './partitions.js';
import { makePlots } from './plots.js';
import { makeSettings } from './settings.js';
import { makeToken } from './token.js';

const EVERY_MS = 2000;
// States in which a member answers nothing about a cluster.
const OUTSIDE = ['no_cluster', 'records_lost', 'left', 'removed', 'outdated'];

// --- what needs attention

const told = [];
// By key what is wrong now: `{ tone, text, act }`.
const wrong = new Map();

function makeNote() {
  const [text, button] = [el('span'), el('button', { type: 'button', class: 'small' })];
  const node = el('li', { class: 'note' }, text, button);
  const update = (note) => {
    setText(text, note.text);
    setAttribute(node, 'data-tone', note.tone);
    button.hidden = !note.act;
    setText(button, note.act?.label ?? '');
    button.onclick = note.act?.run ?? null;
  };
  return { node, update };
}

function showNotes() {
  const notes = [...[...wrong].map(([key, note]) => ({ key, ...note })), ...told];
  keyed($('notes'), notes, (note) => note.key, makeNote);
  $('notes').hidden = notes.length === 0;
}

/** Leaves a note until it is dismissed. */
function tell(text) {
  const note = { key: `told-${performance.now()}`, tone: 'warn', text: visible(text) };
  note.act = { label: 'Dismiss', run: () => {
    told.splice(told.indexOf(note), 1);
    showNotes();
  } };
  told.push(note);
  showNotes();
}

// --- the loop

let [wake, isWanted] = [() => {}, false];

function refresh() {
  isWanted = true;
  wake();
}

const pause = (ms) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  wake = () => {
    clearTimeout(timer);
    resolve();
  };
});

// --- the views

const app = { refresh, tell };
const events = makeEvents();
const takeScrape = makePlots($('plots'));
const views = {
  cluster: makeCluster(app),
  partitions: makePartitions(app),
  convergence: makeConvergence(app),
  keys: makeKeys(app),
  settings: makeSettings(app),
  events: { update() {} },
};
let current = 'cluster';
let name = '';

function title() {
  const view = $(`title-${current}`).textContent;
  document.title = name === '' ? `${view} · kith` : `${view} · ${name} · kith`;
}

function route(isChosen) {
  const wanted = /^#\/(\w+)$/.exec(location.hash)?.[1];
  // Other fragments are places within the page, such as that of the skip link.
  if (isChosen && location.hash !== '' && wanted === undefined) return;
  current = Object.hasOwn(views, wanted ?? '') ? wanted : 'cluster';
  for (const view of Object.keys(views)) $(`view-${view}`).hidden = view !== current;
  for (const link of document.querySelectorAll('nav a')) {
    setAttribute(link, 'aria-current', link.hash === `#/${current}` ? 'page' : null);
  }
  title();
  if (isChosen) {
    window.scrollTo(0, 0);
    $(`title-${current}`).focus({ preventScroll: true });
  }
  refresh();
}

// --- asking

let isDenied = false;
let silentSince = null;
let answeredMs = null;

const showToken = makeToken({
  changed() {
    isDenied = false;
    wrong.delete('denied');
    showNotes();
    refresh();
  },
  declined(reason) {
    isDenied = true;
    wrong.set('denied', { tone: 'bad', text: `Nothing is asked for until there is a token: ${visible(reason)}`,
      act: { label: 'Show a token…', run: showToken } });
    answering('wait', 'waits for a token');
    showNotes();
  },
});

function answering(tone, text) {
  setAttribute($('answering'), 'data-tone', tone);
  setText($('answering'), text);
}

function tellSilence() {
  if (silentSince === null) {
    silentSince = answeredMs ?? Date.now();
    announce(`${name || 'The member'} does not answer.`, 'bad');
  }
  answering('bad', `no answer since ${moment(silentSince)}`);
  const shown = answeredMs === null ? '' : ' What is shown here is from then.';
  wrong.set('silent', { tone: 'bad', text: `${name || 'This member'} does not answer since ${moment(silentSince)}, ${duration(Date.now() - silentSince)} ago.${shown}` });
}

function tellAnswer(status) {
  if (silentSince !== null) announce(`${status.name} answers again.`);
  silentSince = null;
  answeredMs = Date.now();
  wrong.delete('silent');
  wrong.delete('failed');
  answering('good', `answered ${moment(answeredMs)}`);
  name = visible(status.name);
  setText($('cluster-name'), status.cluster ? visible(status.cluster.name) : 'no cluster');
  setText($('member-name'), name);
  const [state, tone] = ownState(status);
  setText($('member-state'), state);
  setAttribute($('member-state'), 'data-tone', tone);
  title();
}

function noteProblems(status, clusterFailure) {
  for (const key of [...wrong.keys()].filter((key) => key.startsWith('status-'))) wrong.delete(key);
  const note = (key, text, tone = 'warn') => wrong.set(`status-${key}`, { tone, text: visible(text) });
  for (const warning of status.warnings) note(warning, warning);
  // That a dead member can't be reached is no news.
  for (const peer of status.peers.filter((peer) => peer.last_refusal && peer.alive !== false)) {
    note(`${peer.name} ${peer.address}`, `No link with ${peer.name || peer.address}: ${peer.last_refusal}`);
  }
  if (clusterFailure && !clusterFailure.isSilence) note('cluster', clusterFailure.message);
}

async function poll() {
  let status;
  try {
    status = await read('/v1/status');
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.isSilence) tellSilence();
    else if (!failure.needsToken) {
      answering('warn', 'refuses');
      wrong.set('failed', { tone: 'bad', text: visible(failure.message) });
    }
    showNotes();
    return;
  }
  const atMs = performance.now();
  const isMember = status.cluster !== null && !OUTSIDE.includes(status.state);
  const [cluster, happened, metrics] = await Promise.allSettled([
    isMember ? read('/v1/cluster') : null, read(events.path()),
    ask('GET', '/metrics').then((answer) => answer.text()), isMember ? views[current].poll?.() : null,
  ]);
  tellAnswer(status);
  noteProblems(status, cluster.reason);
  showNotes();
  if (happened.status === 'fulfilled') events.take(happened.value);
  if (metrics.status === 'fulfilled') takeScrape(parse(metrics.value), atMs, EVERY_MS);
  const snapshot = { status, cluster: cluster.value ?? null };
  for (const view of Object.values(views)) view.update(snapshot);
}

/** A defect of the page is told, and the page goes on. */
async function pollAnyhow() {
  try {
    await poll();
    if (wrong.delete('defect')) showNotes();
  } catch (failure) {
    console.error(failure);
    wrong.set('defect', { tone: 'bad', text: `This page could not show all that it was told: ${visible(String(failure))}` });
    showNotes();
  }
}

async function askForEver() {
  for (;;) {
    isWanted = false;
    if (!document.hidden && !isDenied && !$('token-dialog').open) await pollAnyhow();
    if (!isWanted) await pause(EVERY_MS);
  }
}

window.addEventListener('hashchange', () => route(true));
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) refresh();
});
route(false);
askForEver();
