//! Splits a client's bytes into commands: ranges of the read buffer, without copying a byte.
//!
//! The parser remembers how far it came, so a command that arrives in many pieces is looked at
//! once. Inline commands (what a person types into telnet) are unquoted in place, where they only
//! get shorter.
//!
//! An argument that is longer than it can be refuses its command when its length is announced. What was kept
//! of the command is let go then and the rest of it passed over, so the next command is found behind it.
//!
//! Invariants: the same bytes give the same commands however they are cut into pieces; nothing is
//! allocated but the list of ranges, and that only as arguments really arrive; of what is beyond a
//! bound no byte is kept.

use crate::model::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// Arguments in one command, its name included.
pub const MAX_ARGUMENTS: usize = 64 << 10;
/// Bytes in one argument, unless the cluster allows values of fewer.
pub const MAX_ARGUMENT_BYTES: usize = MAX_VALUE_BYTES;
/// Bytes in an argument that is passed over because it has more than [`MAX_ARGUMENT_BYTES`]. One that announces
/// more than this, which is Redis's bound, is taken for a mistake.
pub const MAX_SKIPPED_BYTES: usize = 512 << 20;
/// Bytes in an inline command or in a line that announces a length.
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// Bytes in one command, all its arguments together.
pub const MAX_COMMAND_BYTES: usize = 4 * MAX_VALUE_BYTES;
/// Ranges that are kept for the next command.
const KEPT_SPANS: usize = 1_024;

/// What a client sent is not RESP. The connection ends after the error was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// An inline command of more than [`MAX_LINE_BYTES`].
    #[error("too big inline request")]
    LongInline,
    /// A quote in an inline command has no end, or something follows the closing quote.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A line that starts with `*` and does not end.
    #[error("too big mbulk count string")]
    LongCount,
    /// The number of arguments is no number.
    #[error("invalid multibulk length")]
    Count,
    /// The number of arguments is above [`MAX_ARGUMENTS`].
    #[error("invalid multibulk length")]
    TooMany,
    /// An argument does not start with `$`.
    #[error("expected '$', got '{}'", char::from(*.0))]
    NotBulk(u8),
    /// A line that starts with `$` and does not end.
    #[error("too big bulk count string")]
    LongLength,
    /// An argument's length is no number.
    #[error("invalid bulk length")]
    Length,
    /// An argument's length is above [`MAX_SKIPPED_BYTES`].
    #[error("invalid bulk length")]
    TooLong,
    /// An argument is not followed by a line's end.
    #[error("an argument does not end where its length says")]
    Unterminated,
    /// Large commands of all connections together take too much memory.
    #[error("too many large requests at once, try again shortly")]
    NoRoom,
    /// A client that was not let in sends more than fits into the usual buffer.
    #[error("unauthenticated bulk length")]
    Stranger,
}

impl ProtocolError {
    /// Whether a bound was exceeded, rather than a rule broken.
    pub const fn is_of_size(self) -> bool {
        match self {
            Self::LongInline
            | Self::LongCount
            | Self::TooMany
            | Self::LongLength
            | Self::TooLong
            | Self::NoRoom
            | Self::Stranger => true,
            Self::UnbalancedQuotes | Self::Count | Self::NotBulk(_) | Self::Length | Self::Unterminated => {
                false
            }
        }
    }
}

/// Why a command is not carried out, though its bytes are RESP: something in it is longer than it can be.
/// Nothing of it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Oversize {
    /// A key of more than [`MAX_KEY_BYTES`].
    #[error("a key has at most {MAX_KEY_BYTES} bytes")]
    Key,
    /// An argument of more bytes than this, the bound that holds now.
    #[error("an argument has at most {0} bytes (the setting `max_value_bytes`)")]
    Argument(usize),
    /// All arguments together are more than [`MAX_COMMAND_BYTES`].
    #[error("a command has at most {MAX_COMMAND_BYTES} bytes")]
    Command,
}

/// Tells whether the argument at a place of a command is a key: of the command's name, the place, and how many
/// arguments there are, the name included.
pub type IsKey = fn(&[u8], usize, usize) -> bool;

/// What bounds arguments beside what holds always.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Which of them are keys.
    pub is_key: IsKey,
    /// Bytes in a value; arguments that fit into the usual buffer are never too long.
    pub value_bytes: usize,
}

impl Rules {
    fn argument_bytes(self) -> usize {
        self.value_bytes.clamp(MAX_LINE_BYTES, MAX_ARGUMENT_BYTES)
    }
}

/// How far [`Parser::parse`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed behind those that are there.
    Partial,
    /// As many bytes, and more are needed: those belong to a refused command, and have to be dropped.
    Skipped(usize),
    /// A command is complete, or what was left of a refused one, and has as many bytes.
    Complete(usize),
}

/// Where an argument lies, counted from the command's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

/// The arguments of one command, its name first.
#[derive(Clone, Copy)]
pub struct Arguments<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
    refused: Option<Oversize>,
}

impl<'a> Arguments<'a> {
    /// How many there are, the name included.
    pub const fn len(self) -> usize {
        self.spans.len()
    }

    /// The argument at `index`; empty past the end.
    pub fn get(self, index: usize) -> &'a [u8] {
        let span = self.spans.get(index);
        span.and_then(|s| self.bytes.get(s.start as usize..s.end as usize)).unwrap_or_default()
    }

    /// Whether it is no command at all, an empty line.
    pub const fn is_empty(self) -> bool {
        self.len() == 0 && self.refused.is_none()
    }

    /// Why none of them was kept, if so.
    pub const fn refused(self) -> Option<Oversize> {
        self.refused
    }

    /// All from `index` on.
    pub fn from(self, index: usize) -> impl Iterator<Item = &'a [u8]> {
        (index..self.len()).map(move |at| self.get(at))
    }
}

/// Finds commands at the beginning of a buffer.
#[derive(Debug, Default)]
pub struct Parser {
    spans: Vec<Span>,
    /// Arguments in all and those that are still to come; `None` before the command's first line was read.
    count: Option<(usize, usize)>,
    /// Length of the argument whose line was read, or what is left of it to be passed over.
    length: Option<usize>,
    /// Why nothing of this command is kept.
    refused: Option<Oversize>,
    /// That was told before the command had ended.
    is_told: bool,
    /// Everything before this was understood.
    position: usize,
    /// Nothing between `position` and this ends a line.
    searched: usize,
}

impl Parser {
    /// Goes on with `input`, which starts where the command starts and holds at least what it held
    /// before, without what was to be dropped. An empty line is a command without arguments. Call
    /// [`Parser::next`] before anything else once a command is complete.
    ///
    /// # Errors
    /// [`ProtocolError`]; the parser is of no more use.
    pub fn parse(&mut self, input: &mut [u8], rules: Rules) -> Result<Parsed, ProtocolError> {
        let (count, missing) = match self.count {
            Some(counts) => counts,
            None => match input.first() {
                None => return Ok(Parsed::Partial),
                Some(b'*') => match self.announced_count(input)? {
                    Some(count) => (count, count),
                    None => return Ok(Parsed::Partial),
                },
                Some(_) => return self.inline(input),
            },
        };
        for left in (0..missing).rev() {
            if !self.argument(input, (count - left - 1, count), rules)? {
                return Ok(self.pause());
            }
            self.count = Some((count, left));
        }
        Ok(Parsed::Complete(self.position))
    }

    /// Before the command is complete: of a refused one nothing stays.
    const fn pause(&mut self) -> Parsed {
        if self.refused.is_none() {
            return Parsed::Partial;
        }
        let skipped = self.position;
        self.searched = self.searched.saturating_sub(skipped);
        self.position = 0;
        Parsed::Skipped(skipped)
    }

    /// The arguments of the complete command at the start of `input`.
    pub fn arguments<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        let refused = if self.is_told { None } else { self.refused };
        Arguments { bytes: input, spans: &self.spans, refused }
    }

    /// Whether the command that has not ended is refused, which was not told yet.
    pub const fn has_refused(&self) -> bool {
        self.refused.is_some() && !self.is_told
    }

    /// Whether the command that has not ended is refused, which may have been told.
    pub const fn is_refusing(&self) -> bool {
        self.refused.is_some()
    }

    /// The refusal was told; the command's end, when it comes, is that of an empty one.
    pub const fn told(&mut self) {
        self.is_told = true;
    }

    /// Forgets the command that was complete.
    pub fn next(&mut self) {
        self.is_told = false;
        self.spans.clear();
        if self.spans.capacity() > KEPT_SPANS {
            self.spans.shrink_to(KEPT_SPANS);
        }
        (self.count, self.length, self.refused) = (None, None, None);
        (self.position, self.searched) = (0, 0);
    }

    fn announced_count(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = self.line(input, ProtocolError::LongCount)? else { return Ok(None) };
        let digits = line.get(1..).and_then(|rest| rest.strip_suffix(b"\r"));
        let count = digits.and_then(number).ok_or(ProtocolError::Count)?;
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        if count > MAX_ARGUMENTS {
            return Err(ProtocolError::TooMany);
        }
        self.count = Some((count, count));
        Ok(Some(count))
    }

    /// Reads the argument at a place of so many, its length first. False if it is not all there.
    fn argument(&mut self, input: &[u8], place: (usize, usize), rules: Rules) -> Result<bool, ProtocolError> {
        let length = match self.length {
            Some(length) => length,
            None => match self.announced_length(input)? {
                Some(length) => length,
                None => return Ok(false),
            },
        };
        if self.length.replace(length).is_none() {
            self.bound(input, length, place, rules);
        }
        let end = self.position + length;
        let Some(ending) = input.get(end..end + 2) else {
            if self.refused.is_some() {
                let there = length.min(input.len() - self.position);
                self.position += there;
                self.length = Some(length - there);
            }
            return Ok(false);
        };
        if ending != b"\r\n" {
            return Err(ProtocolError::Unterminated);
        }
        if self.refused.is_none() {
            self.push(self.position, end);
        }
        self.length = None;
        (self.position, self.searched) = (end + 2, end + 2);
        Ok(true)
    }

    fn announced_length(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        match input.get(self.position) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::NotBulk(other)),
        }
        let Some(line) = self.line(input, ProtocolError::LongLength)? else { return Ok(None) };
        let digits = line.get(1..).and_then(|rest| rest.strip_suffix(b"\r"));
        let length = digits.and_then(number).ok_or(ProtocolError::Length)?;
        let length = usize::try_from(length).map_err(|_| ProtocolError::Length)?;
        if length > MAX_SKIPPED_BYTES {
            return Err(ProtocolError::TooLong);
        }
        Ok(Some(length))
    }

    /// Refuses the command, unless it is refused already, if an argument can't have the length that it announces.
    fn bound(&mut self, input: &[u8], length: usize, (at, of): (usize, usize), rules: Rules) {
        // Anything may be as long as a key.
        if self.refused.is_some() || length <= MAX_KEY_BYTES && self.position + length <= MAX_COMMAND_BYTES {
            return;
        }
        let command = self.arguments(input).get(0);
        self.refused = if length > MAX_KEY_BYTES && (rules.is_key)(command, at, of) {
            Some(Oversize::Key)
        } else if length > rules.argument_bytes() {
            Some(Oversize::Argument(rules.argument_bytes()))
        } else if self.position + length > MAX_COMMAND_BYTES {
            Some(Oversize::Command)
        } else {
            return;
        };
        self.spans = Vec::new();
    }

    /// Takes the line at `position`, without its `\n`.
    fn line<'a>(&mut self, input: &'a [u8], long: ProtocolError) -> Result<Option<&'a [u8]>, ProtocolError> {
        let from = self.searched.max(self.position);
        let found = input.get(from..).and_then(|rest| rest.iter().position(|&b| b == b'\n'));
        let end = found.map_or(input.len(), |at| from + at);
        if end - self.position > MAX_LINE_BYTES {
            return Err(long);
        }
        if found.is_none() {
            self.searched = end;
            return Ok(None);
        }
        let line = input.get(self.position..end);
        (self.position, self.searched) = (end + 1, end + 1);
        Ok(line)
    }

    fn inline(&mut self, input: &mut [u8]) -> Result<Parsed, ProtocolError> {
        let Some(line) = self.line(input, ProtocolError::LongInline)? else { return Ok(Parsed::Partial) };
        let length = line.len();
        let line = input.get_mut(..length).unwrap_or_default();
        let mut words = Words { line, from: 0 };
        while let Some((start, end)) = words.next_word()? {
            self.push(start, end);
        }
        Ok(Parsed::Complete(self.position))
    }

    /// `MAX_COMMAND_BYTES` keeps both well below 2^32.
    fn push(&mut self, start: usize, end: usize) {
        let bound = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        self.spans.push(Span { start: bound(start), end: bound(end) });
    }
}

/// The words of an inline command, unquoted in place.
struct Words<'a> {
    line: &'a mut [u8],
    from: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

impl Words<'_> {
    fn at(&self, index: usize) -> Option<u8> {
        self.line.get(index).copied()
    }

    fn next_word(&mut self) -> Result<Option<(usize, usize)>, ProtocolError> {
        while self.at(self.from).is_some_and(is_space) {
            self.from += 1;
        }
        if self.from == self.line.len() {
            return Ok(None);
        }
        let (start, mut end, mut quote) = (self.from, self.from, Quote::None);
        loop {
            let byte = match (self.at(self.from), quote) {
                (None, Quote::None) => break,
                (None, _) => return Err(ProtocolError::UnbalancedQuotes),
                (Some(byte), Quote::None) if is_space(byte) => break,
                (Some(b'"'), Quote::None) => {
                    (quote, self.from) = (Quote::Double, self.from + 1);
                    continue;
                }
                (Some(b'\''), Quote::None) => {
                    (quote, self.from) = (Quote::Single, self.from + 1);
                    continue;
                }
                (Some(b'"'), Quote::Double) | (Some(b'\''), Quote::Single) => {
                    self.from += 1;
                    if self.at(self.from).is_some_and(|after| !is_space(after)) {
                        return Err(ProtocolError::UnbalancedQuotes);
                    }
                    break;
                }
                (Some(b'\\'), Quote::Double) => self.escaped(),
                (Some(b'\\'), Quote::Single) if self.at(self.from + 1) == Some(b'\'') => {
                    self.from += 1;
                    b'\''
                }
                (Some(byte), _) => byte,
            };
            self.from += 1;
            if let Some(place) = self.line.get_mut(end) {
                *place = byte;
            }
            end += 1;
        }
        Ok(Some((start, end)))
    }

    /// The byte that an escape stands for; leaves `from` on the escape's last byte.
    fn escaped(&mut self) -> u8 {
        let hex = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        let digits = (hex(self.at(self.from + 2)), hex(self.at(self.from + 3)));
        if let (Some(b'x'), (Some(high), Some(low))) = (self.at(self.from + 1), digits) {
            self.from += 3;
            return u8::try_from(high * 16 + low).unwrap_or_default();
        }
        let Some(next) = self.at(self.from + 1) else { return b'\\' };
        self.from += 1;
        match next {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'a' => 7,
            other => other,
        }
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 11 | 12)
}

/// A decimal number as RESP and Redis write it: no plus, no leading zero, no space, within `i64`.
pub fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    digits.iter().try_fold(0i64, |total, &digit| {
        let value = i64::from(digit.checked_sub(b'0').filter(|d| *d <= 9)?);
        let total = total.checked_mul(10)?;
        if negative { total.checked_sub(value) } else { total.checked_add(value) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Commands = Vec<Result<Vec<Vec<u8>>, Oversize>>;

    /// Of GET the one argument is a key, of PAIR every other one.
    fn is_key(command: &[u8], at: usize, of: usize) -> bool {
        command == b"GET" && (at, of) == (1, 2) || command == b"PAIR" && at % 2 == 1
    }

    const RULES: Rules = Rules { is_key, value_bytes: MAX_ARGUMENT_BYTES };

    #[test]
    fn an_argument_is_no_longer_than_a_value_may_be_unless_it_fits_into_any_buffer() {
        for (value_bytes, most) in [(0, MAX_LINE_BYTES), (1 << 20, 1 << 20), (usize::MAX, MAX_ARGUMENT_BYTES)]
        {
            let parse = |bytes: usize| {
                let mut announced = format!("*2\r\n$3\r\nSET\r\n${bytes}\r\n").into_bytes();
                let mut parser = Parser::default();
                let parsed = parser.parse(&mut announced, Rules { is_key, value_bytes });
                (parsed.unwrap(), parser.refused)
            };
            assert_eq!(parse(most), (Parsed::Partial, None));
            let (parsed, refused) = parse(most + 1);
            assert!(
                matches!(parsed, Parsed::Skipped(_)) && refused == Some(Oversize::Argument(most)),
                "{most}"
            );
        }
    }

    /// Feeds `pieces` one after the other, as a connection would.
    fn parse_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Commands, Option<ProtocolError>) {
        let (mut parser, mut buffer, mut commands) = (Parser::default(), Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match parser.parse(&mut buffer, RULES) {
                    Err(error) => return (commands, Some(error)),
                    Ok(Parsed::Partial) => break,
                    Ok(Parsed::Skipped(size)) => {
                        buffer.drain(..size);
                        // What was announced may still be cut off.
                        assert!(buffer.len() <= MAX_LINE_BYTES);
                        break;
                    }
                    Ok(Parsed::Complete(size)) => {
                        let arguments = parser.arguments(&buffer);
                        let words = arguments.from(0).map(<[u8]>::to_vec).collect();
                        commands.push(arguments.refused().map_or(Ok(words), Err));
                        parser.next();
                        buffer.drain(..size);
                    }
                }
            }
        }
        (commands, None)
    }

    fn words(line: &str) -> Result<Vec<String>, ProtocolError> {
        let (commands, error) = parse_all([line.as_bytes(), b"\r\n"]);
        let text = |word: &Vec<u8>| String::from_utf8_lossy(word).into_owned();
        error.map_or_else(|| Ok(commands[0].as_ref().unwrap().iter().map(text).collect()), Err)
    }

    fn encode(command: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for argument in command {
            out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            out.extend_from_slice(argument);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    #[test]
    fn inline_commands_are_unquoted_like_a_shell_would() {
        assert_eq!(words("SET  a\tb").unwrap(), ["SET", "a", "b"]);
        assert_eq!(words(r#"SET "a b" 'c "d'"#).unwrap(), ["SET", "a b", "c \"d"]);
        assert_eq!(words(r#""\x41\n\"\\" 'it\'s' x"y""#).unwrap(), ["A\n\"\\", "it's", "xy"]);
        assert_eq!(words("   ").unwrap(), [""; 0]);
        assert_eq!(words("\"\" ''").unwrap(), ["", ""]);
        assert_eq!(words("'a"), Err(ProtocolError::UnbalancedQuotes));
        assert_eq!(words("'a'b"), Err(ProtocolError::UnbalancedQuotes));
        assert_eq!(words(r#""a\"#), Err(ProtocolError::UnbalancedQuotes));
    }

    #[test]
    fn malformed_requests_are_told_apart() {
        let error = |input: &[u8]| parse_all([input]).1;
        assert_eq!(error(b"*x\r\n"), Some(ProtocolError::Count));
        assert_eq!(error(b"*65537\r\n"), Some(ProtocolError::TooMany));
        assert_eq!(error(b"*65536\r\n"), None);
        assert_eq!(error(b"*1\n"), Some(ProtocolError::Count));
        assert_eq!(error(b"*1\r\n+"), Some(ProtocolError::NotBulk(b'+')));
        assert_eq!(error(b"*1\r\n$-1\r\n"), Some(ProtocolError::Length));
        assert_eq!(error(b"*1\r\n$1x\r\n"), Some(ProtocolError::Length));
        assert_eq!(error(b"*1\r\n$1\r\nabc"), Some(ProtocolError::Unterminated));
        assert_eq!(error(b"*-5\r\n*0\r\n\r\n"), None);
        assert_eq!(error(&[b'a'; MAX_LINE_BYTES + 1]), Some(ProtocolError::LongInline));
        assert_eq!(error(&[b'*'; MAX_LINE_BYTES + 1]), Some(ProtocolError::LongCount));
        let mut long = b"*1\r\n".to_vec();
        long.extend_from_slice(&[b'$'; MAX_LINE_BYTES + 1]);
        assert_eq!(error(&long), Some(ProtocolError::LongLength));
    }

    #[test]
    fn a_length_that_is_a_mistake_ends_all() {
        let announce = |bytes: usize| format!("*2\r\n$3\r\nGET\r\n${bytes}\r\n").into_bytes();
        assert_eq!(parse_all([&announce(MAX_SKIPPED_BYTES)[..]]).1, None);
        assert_eq!(parse_all([&announce(MAX_SKIPPED_BYTES + 1)[..]]).1, Some(ProtocolError::TooLong));
    }

    #[test]
    fn what_is_longer_than_it_can_be_is_passed_over_and_what_follows_is_found() {
        let long = |bytes: usize| vec![b'x'; bytes];
        let command = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        let (key, value) = (long(MAX_KEY_BYTES), long(MAX_ARGUMENT_BYTES));
        let (longer_key, longer_value) = (long(MAX_KEY_BYTES + 1), long(MAX_ARGUMENT_BYTES + 1));
        for (words, refused) in [
            (command(&[b"GET", &key]), None),
            (command(&[b"GET", &longer_key]), Some(Oversize::Key)),
            (command(&[b"PAIR", b"a", &longer_key, b"b", &value]), None),
            (command(&[b"PAIR", b"a", &value, &longer_key, &longer_value]), Some(Oversize::Key)),
            (command(&[b"OTHER", &longer_key, &value]), None),
            (command(&[b"OTHER", &longer_value]), Some(Oversize::Argument(MAX_ARGUMENT_BYTES))),
            (command(&[b"OTHER", b"a", &longer_value, b"b"]), Some(Oversize::Argument(MAX_ARGUMENT_BYTES))),
            (
                command(&[b"PAIR", b"a", &value, b"b", &value, b"c", &value, b"d", &value]),
                Some(Oversize::Command),
            ),
        ] {
            let next = command(&[b"NEXT"]);
            let input = [encode(&words), encode(&next)].concat();
            let shown = format!("{} {refused:?}", words.len());
            let (commands, error) = parse_all(input.chunks(300_007));
            assert!(error.is_none(), "{shown} {error:?}");
            assert!(commands[0] == refused.map_or(Ok(words), Err) && commands[1] == Ok(next), "{shown}");
        }
    }

    #[test]
    fn numbers_have_one_form() {
        for (text, value) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(number(text.as_bytes()), Some(value));
        }
        for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "9223372036854775808", "1e3", "\u{663}"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }

    /// Bytes that come near to being commands, so that the parser gets far into them.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            proptest::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| encode(&[b"SET".to_vec(), bytes])),
            "[*$]-?[0-9]{0,7}(\r\n|\n|\r)?".prop_map(String::into_bytes),
            "[a\"' \\\\x4]{0,12}\r?\n".prop_map(String::into_bytes),
            (4_094usize..4_099, 0usize..3).prop_map(|(bytes, place)| {
                let mut command = vec![b"PAIR".to_vec(), b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
                command[place + 1] = vec![b'\r'; bytes];
                encode(&command)
            }),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_commands_as_the_whole(
            input in hostile(),
            cuts in proptest::collection::vec(0usize..5_000, 0..8),
        ) {
            let whole = parse_all([&input[..]]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]);
            prop_assert_eq!(&parse_all(pieces), &whole);
            prop_assert_eq!(&parse_all(input.chunks(1)), &whole);
        }

        #[test]
        fn what_was_encoded_is_parsed_back(
            commands in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
                0..6,
            ),
        ) {
            let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
            prop_assert_eq!(parse_all([&bytes[..]]), (commands.into_iter().map(Ok).collect(), None));
        }

        #[test]
        fn numbers_survive_their_text(value: i64) {
            prop_assert_eq!(number(value.to_string().as_bytes()), Some(value));
        }
    }
}
