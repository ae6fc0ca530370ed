// Prometheus' text format, and what two scrapes tell: rates, and quantiles of what happened between them.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Series by name: `{ labels, value }` each. */
export function parse(text) {
  const families = new Map();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const match = LINE.exec(line);
    if (!match) continue;
    const [, name, labels, value] = match;
    const named = {};
    for (const [, label, text] of (labels ?? '').matchAll(LABEL)) named[label] = text;
    const number = value === '+Inf' ? Infinity : value === '-Inf' ? -Infinity : Number(value);
    if (!families.has(name)) families.set(name, []);
    families.get(name).push({ labels: named, value: number });
  }
  return families;
}

const always = () => true;

/** The sum of a metric's series that fit; null if there is none. */
export function sum(scrape, name, fits = always) {
  const series = (scrape.get(name) ?? []).filter(({ labels }) => fits(labels));
  return series.length === 0 ? null : series.reduce((total, { value }) => total + value, 0);
}

/** How much a counter has risen from one scrape to the next; null after a restart. */
export function rise(before, now, name, fits = always) {
  // A series begins with what it first counts.
  const [one, other] = [sum(before, name, fits) ?? 0, sum(now, name, fits)];
  return other === null || other < one ? null : other - one;
}

/**
 * An upper bound, within its bucket by interpolation, of a share of what a histogram counted between two scrapes; null if
 * that was nothing.
 */
export function quantile(before, now, name, share, fits = always) {
  const bucket = `${name}_bucket`;
  const bounds = new Map();
  for (const { labels, value } of (now.get(bucket) ?? []).filter(({ labels }) => fits(labels))) {
    bounds.set(labels.le, (bounds.get(labels.le) ?? 0) + value);
  }
  for (const { labels, value } of (before.get(bucket) ?? []).filter(({ labels }) => fits(labels))) {
    bounds.set(labels.le, (bounds.get(labels.le) ?? 0) - value);
  }
  const limit = (le) => (le === '+Inf' ? Infinity : Number(le));
  const rows = [...bounds].map(([le, total]) => [limit(le), total]).sort(([one], [other]) => one - other);
  const total = rows.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return null;
  let [below, seen] = [0, 0];
  for (const [bound, upTo] of rows) {
    if (upTo >= share * total && upTo > seen) {
      return Number.isFinite(bound) ? below + ((bound - below) * (share * total - seen)) / (upTo - seen) : below;
    }
    [below, seen] = [bound, upTo];
  }
  return null;
}
