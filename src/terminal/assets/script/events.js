// What the member noticed lately, the last first.

import { $, el, keyed, setText } from './dom.js';
import { moment, plural } from './format.js';

const TONES = {
  dead: 'bad', removed: 'bad', storage: 'bad',
  clock: 'warn', leaving: 'warn', left: 'warn', partitions: 'warn',
  alive: 'good', active: 'good', joining: 'good', started: 'good',
};
const GROUPS = {
  members: ['joining', 'active', 'leaving', 'left', 'removed', 'alive', 'dead'],
  settings: ['setting'],
  member: ['started', 'state', 'partitions', 'storage', 'clock'],
};
const MOST = 512;
const LATEST = 6;

function makeRow({ event }) {
  const node = el('li', { 'data-tone': TONES[event.kind] ?? 'info' },
    el('time', { datetime: new Date(event.noticed_ms).toISOString() }, moment(event.noticed_ms)),
    el('span', { class: 'kind' }, event.kind), el('span', { class: 'text' }, event.text));
  return { node, update() {} };
}

/** Shows events; gives what takes each answer of `/v1/events`. */
export function makeEvents() {
  let [life, events] = [null, []];
  const show = () => {
    const kinds = GROUPS[$('events-kind').value];
    const newest = events.toReversed();
    const wanted = kinds ? newest.filter(({ event }) => kinds.includes(event.kind)) : newest;
    keyed($('events'), wanted, ({ id }) => id, makeRow);
    keyed($('latest'), newest.slice(0, LATEST), ({ id }) => id, makeRow);
    setText($('events-about'), `${plural(wanted.length, 'event', 'events')} as this member noticed them, the last first. Another member may have noticed others.`);
  };
  $('events-kind').addEventListener('change', show);
  return {
    /** What is to be asked for next. */
    path: () => `/v1/events?after=${events.at(-1)?.event.number ?? 0}`,
    take(answer) {
      if (answer.life !== life) {
        // Another life counts from 1 again; what it told so far was asked for with a number of the life before.
        const isFirst = life === null;
        life = answer.life;
        if (!isFirst) {
          events = [];
          show();
          return;
        }
      }
      if (answer.events.length === 0 && events.length > 0) return;
      const fresh = answer.events.map((event) => ({ id: `${life}-${event.number}`, event }));
      events = [...events, ...fresh].slice(-MOST);
      show();
    },
  };
}
