// Numbers, times and sizes as people read them. `–` stands for what is not known.

const NOTHING = '–';
const whole = new Intl.NumberFormat('en');

const known = (number) => number !== null && number !== undefined && Number.isFinite(number);

export const count = (number) => (known(number) ? whole.format(number) : NOTHING);

function scaled(number, units, step) {
  let at = 0;
  let value = number;
  while (Math.abs(value) >= step * 0.9995 && at < units.length - 1) {
    value /= step;
    at += 1;
  }
  const digits = Math.abs(value) >= 100 || (at === 0 && Number.isInteger(value)) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return [value.toFixed(digits), units[at]];
}

/** How many a second. */
export function rate(number) {
  if (!known(number)) return NOTHING;
  return `${scaled(number, ['', 'k', 'M', 'G'], 1000).join('')}/s`;
}

export function bytes(number) {
  if (!known(number)) return NOTHING;
  return scaled(number, ['B', 'KiB', 'MiB', 'GiB', 'TiB'], 1024).join(' ');
}

/** A short time, in seconds. */
export function seconds(number) {
  if (!known(number)) return NOTHING;
  if (number < 1e-3) return scaled(number * 1e6, ['µs'], 1000).join(' ');
  if (number < 1) return scaled(number * 1e3, ['ms'], 1000).join(' ');
  return scaled(number, ['s'], 1000).join(' ');
}

/** A length of time, in milliseconds. */
export function duration(ms) {
  if (!known(ms)) return NOTHING;
  const total = Math.max(0, Math.round(ms / 1000));
  const parts = [[Math.floor(total / 86400), 'd'], [Math.floor(total / 3600) % 24, 'h'],
    [Math.floor(total / 60) % 60, 'min'], [total % 60, 's']];
  const first = parts.findIndex(([number]) => number > 0);
  if (first < 0) return '0 s';
  const told = parts.slice(first, first + 2).filter(([number]) => number > 0);
  return told.map(([number, unit]) => `${number} ${unit}`).join(' ');
}

/** How far a clock is ahead, in milliseconds. */
export function offset(ms) {
  if (!known(ms)) return NOTHING;
  const sign = ms > 0 ? '+' : ms < 0 ? '−' : '±';
  const size = Math.abs(ms);
  return size < 10000 ? `${sign}${size} ms` : `${sign}${duration(size)}`;
}

const two = (number) => String(number).padStart(2, '0');

/** A moment: the time of day, with the date if it is another day's. */
export function moment(ms) {
  if (!known(ms)) return NOTHING;
  const at = new Date(ms);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === new Date().toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** Milliseconds since the Unix epoch of a record's timestamp, or null. */
export function stampMs(timestamp) {
  const match = /^([0-9a-f]{16})-[0-9a-f]{16}$/i.exec(timestamp ?? '');
  return match ? Number(BigInt(`0x${match[1]}`) >> 16n) : null;
}

/** What is left of a record's life, such as `9500ms`, in milliseconds. */
export function ttlMs(text) {
  const match = /^(\d+)ms$/.exec(text ?? '');
  return match ? Number(match[1]) : null;
}

export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;
