// Small plots that move: what /metrics tells, the last two minutes of it, a point at each scrape.

import { drawn, el, setAttribute, setText } from './dom.js';
import { bytes, count, rate, seconds } from './format.js';
import { quantile, rise, sum } from './metrics.js';

const POINTS = 60;
const WIDTH = 240;
const HEIGHT = 56;
// Scrapes that lie further apart than this have a gap between them.
const GAP_S = 10;

const oneOf = (...names) => ({ op }) => names.includes(op);
const READS = oneOf('get', 'scan');
const CHANGES = oneOf('set', 'delete', 'increment', 'modify');
const ON_KEYS = ({ route }) => route.startsWith('/v1/kv/') || route === '/v1/batch';
const each = (before, now, name, span, fits) => {
  const risen = rise(before, now, name, fits);
  return risen === null ? null : risen / span;
};

const PLOTS = [
  {
    title: 'Operations',
    format: rate,
    lines: [
      ['changes', (before, now, span) => each(before, now, 'kith_operations_total', span, CHANGES)],
      ['reads', (before, now, span) => each(before, now, 'kith_operations_total', span, READS)],
    ],
  },
  {
    title: 'Latency of changes',
    format: seconds,
    lines: [
      ['p99', (before, now) => quantile(before, now, 'kith_operation_seconds', 0.99, CHANGES)],
      ['median', (before, now) => quantile(before, now, 'kith_operation_seconds', 0.5, CHANGES)],
    ],
  },
  {
    title: 'A sync of the journal',
    format: seconds,
    lines: [['mean', (before, now) => {
      const [busy, syncs] = [rise(before, now, 'kith_journal_sync_busy_seconds_total'), rise(before, now, 'kith_journal_syncs_total')];
      return busy !== null && syncs ? busy / syncs : null;
    }]],
  },
  {
    title: 'Requests of clients',
    format: rate,
    lines: [
      ['RESP', (before, now, span) => each(before, now, 'kith_resp_commands_total', span)],
      ['HTTP, on keys', (before, now, span) => each(before, now, 'kith_http_requests_total', span, ON_KEYS) ?? 0],
    ],
  },
  {
    title: 'Between members',
    base: 1024,
    format: (number) => `${bytes(number)}/s`,
    lines: [
      ['sent', (before, now, span) => each(before, now, 'kith_link_sent_bytes_total', span)],
      ['received', (before, now, span) => each(before, now, 'kith_link_received_bytes_total', span)],
    ],
  },
  {
    title: 'Waiting for other members',
    format: count,
    lines: [
      ['hints', (_, now) => sum(now, 'kith_hints_pending')],
      ['on the way', (_, now) => sum(now, 'kith_peer_records_under_way') ?? 0],
    ],
  },
];

/** The next round number of the kind 1, 2, 5, in units of `base`: a scale that stays still while what it measures moves. */
function roundUp(number, base) {
  if (!(number > 0)) return 1;
  const unit = base ** Math.floor(Math.log(number) / Math.log(base));
  const power = 10 ** Math.floor(Math.log10(number / unit));
  return [1, 2, 5, 10].map((step) => step * power * unit).find((step) => step >= number * 0.999);
}

/** The line through points, and the dots of those that have a gap on both sides. */
function pathsOf(points, top) {
  const step = WIDTH / (POINTS - 1);
  const isGap = (at) => (points[at] ?? null) === null;
  let [line, dots] = ['', ''];
  points.forEach((point, at) => {
    if (point === null) return;
    const place = `${(at * step).toFixed(1)} ${(HEIGHT - 2 - (point / top) * (HEIGHT - 6)).toFixed(1)}`;
    if (isGap(at - 1) && isGap(at + 1)) dots += `M${place}h.1`;
    else line += `${isGap(at - 1) ? 'M' : 'L'}${place}`;
  });
  return [line, dots];
}

function makePlot({ title, format, lines, base = 10 }) {
  const series = lines.map(() => Array(POINTS).fill(null));
  const stroke = { 'vector-effect': 'non-scaling-stroke' };
  const paths = lines.map((_, at) => ['line', 'dots'].map((kind) => drawn('path', { class: `${kind} line-${at}`, ...stroke })));
  const moving = drawn('g', {}, ...paths.flat().reverse());
  const grid = [0.25, 0.5, 0.75].map((at) => drawn('path', { class: 'grid', d: `M0 ${HEIGHT * at}h${WIDTH}` }));
  const drawing = drawn('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' },
    ...grid, drawn('path', { class: 'axis', d: `M0 ${HEIGHT - 1}h${WIDTH}` }), moving);
  const top = el('span', { class: 'top' });
  const values = lines.map(([name], at) => [el('dt', { class: `line-${at}` }, name), el('dd')]);
  const figure = el('figure', { class: 'plot' },
    el('figcaption', {}, title), el('div', { class: 'field-of-view' }, drawing, top),
    el('dl', {}, ...values.map(([name, value]) => el('div', {}, name, value))));

  const show = () => {
    const points = series.flat().filter((point) => point !== null);
    const highest = roundUp(Math.max(0, ...points), base);
    series.forEach((one, at) => {
      pathsOf(one, highest).forEach((path, kind) => setAttribute(paths[at][kind], 'd', path));
      setText(values[at][1], format(one.at(-1)));
    });
    setText(top, points.length === 0 ? '' : format(highest));
    const told = lines.map(([name], at) => `${name} ${format(series[at].at(-1))}`).join(', ');
    setAttribute(drawing, 'aria-label', `${title}: now ${told}; the scale ends at ${format(highest)}`);
  };
  const push = (points) => {
    series.forEach((kept, at) => {
      kept.push(points[at]);
      kept.shift();
    });
  };
  return {
    figure,
    add(before, now, span) {
      if (span > GAP_S) push(lines.map(() => null));
      push(lines.map(([, value]) => value(before, now, span)));
      show();
    },
    move(ms) {
      const step = `${WIDTH / (POINTS - 1)}px`;
      moving.animate([{ transform: `translateX(${step})` }, { transform: 'none' }], { duration: ms, easing: 'linear' });
    },
  };
}

const still = matchMedia('(prefers-reduced-motion: reduce)');

/** Puts the plots into a place; gives what takes each scrape. */
export function makePlots(place) {
  const plots = PLOTS.map(makePlot);
  place.append(...plots.map(({ figure }) => figure));
  let last = null;
  return (scrape, atMs, everyMs) => {
    if (last !== null) {
      const span = (atMs - last.atMs) / 1000;
      for (const plot of plots) {
        plot.add(last.scrape, scrape, span);
        if (!still.matches) plot.move(Math.min(everyMs, span * 1000));
      }
    }
    last = { scrape, atMs };
  };
}
