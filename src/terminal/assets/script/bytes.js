// Keys and values are bytes. Here they become what a path, a form and an eye can take, and come back whole.

const encoder = new TextEncoder();
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export const bytesOf = (text) => encoder.encode(text);

/** The text that bytes are, or null. */
export function textOf(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
}

export function ofBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** The bytes of an entry's `key` or `key_base64`, and likewise of values. */
export function fieldOf(entry, name) {
  const text = entry[name];
  return text === undefined ? ofBase64(entry[`${name}_base64`] ?? '') : bytesOf(text);
}

/** As a path or query names bytes: what is no letter or digit is escaped, slashes too. */
export function percent(bytes) {
  return Array.from(bytes, (byte) => {
    const character = String.fromCharCode(byte);
    return /[A-Za-z0-9_.~-]/.test(character) ? character : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }).join('');
}

/** The bytes that percent-encoded text names; throws with what is wrong. */
export function ofPercent(text) {
  const wrong = /%(?![0-9A-Fa-f]{2})/.exec(text);
  if (wrong) throw new Error(`at character ${wrong.index + 1}: a % is followed by two hexadecimal digits; write %25 for % itself`);
  const bytes = [];
  for (const part of text.match(/%[0-9A-Fa-f]{2}|[^%]+/g) ?? []) {
    if (part.startsWith('%')) bytes.push(parseInt(part.slice(1), 16));
    else bytes.push(...bytesOf(part));
  }
  return Uint8Array.from(bytes);
}

// Control characters, and those that turn the direction of what follows: a name must not look like another one.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;

/** Text as it can be shown: what would not be seen is spelt out. */
export function visible(text) {
  return text.replace(UNSEEN, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

/** Bytes as they can be shown. */
export function shown(bytes) {
  const text = textOf(bytes);
  if (text !== null) return visible(text);
  const one = (byte) => (byte > 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`);
  return Array.from(bytes, one).join('');
}

/** The first bytes in rows of sixteen, as hexadecimal digits and as characters. */
export function hexadecimal(bytes, most) {
  const rows = [];
  for (let at = 0; at < Math.min(bytes.length, most); at += 16) {
    const row = bytes.slice(at, at + 16);
    const digits = Array.from(row, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const signs = Array.from(row, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.')).join('');
    rows.push(`${at.toString(16).padStart(6, '0')}  ${digits.padEnd(47)}  ${signs}`);
  }
  return rows.join('\n');
}
