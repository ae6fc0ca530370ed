//! Server-sent events (WHATWG HTML §9.2.6) out of bytes that come in pieces, as far as members send them.

use std::collections::VecDeque;

/// Bytes of the largest event: the largest value with every byte of it escaped, and its company.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// One event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: String,
    pub(super) data: String,
    /// The cursor, if it came with one.
    pub(super) id: Option<String>,
}

/// What came and is no whole event yet.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    event: Event,
    bytes: usize,
}

impl Parser {
    /// Takes a piece in and hands out the events that it completes; `Err` says what is wrong with it.
    pub(super) fn take(&mut self, piece: &[u8], events: &mut VecDeque<Event>) -> Result<(), &'static str> {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.gather(line)?;
            rest = after.get(1..).unwrap_or_default();
            let line = std::mem::take(&mut self.line);
            self.end_of_line(&line, events)?;
        }
        self.gather(rest)
    }

    fn gather(&mut self, part: &[u8]) -> Result<(), &'static str> {
        self.bytes += part.len();
        if self.bytes > MAX_EVENT_BYTES {
            return Err("an event without end");
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_of_line(&mut self, line: &[u8], events: &mut VecDeque<Event>) -> Result<(), &'static str> {
        let line = std::str::from_utf8(line).map_err(|_| "an event that is not UTF-8")?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            self.bytes = 0;
            let event = std::mem::take(&mut self.event);
            if !event.data.is_empty() {
                events.push_back(event);
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "id" => self.event.id = Some(value.to_owned()),
            // A comment keeps the connection alive and has no bytes to be remembered.
            "" if self.event == Event::default() => self.bytes = 0,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "event: reset\ndata: {\"reason\":\"x\"}\nid: 1-1-0\n\n: keep-alive\n\nevent: put\r\ndata: {}\r\n\r\ndata\n\n";

    #[test]
    fn events_are_the_same_however_their_bytes_are_cut() {
        for size in 1..TEXT.len() {
            let (mut parser, mut events) = (Parser::default(), VecDeque::new());
            for piece in TEXT.as_bytes().chunks(size) {
                parser.take(piece, &mut events).unwrap();
            }
            let event = |kind: &str, data: &str, id: Option<&str>| Event {
                kind: kind.to_owned(),
                data: data.to_owned(),
                id: id.map(str::to_owned),
            };
            let expected = [event("reset", "{\"reason\":\"x\"}", Some("1-1-0")), event("put", "{}", None)];
            assert_eq!(events, expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..1_000).take_while(|_| parser.take(&piece, &mut events).is_ok()).count();
        assert_eq!(taken, MAX_EVENT_BYTES >> 20);
        assert!(parser.take(b"\xff\n", &mut events).is_err());
    }

    #[test]
    fn comments_may_come_for_ever() {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        let comments = ": keep-alive\n".repeat(1 << 16);
        for _ in 0..100 {
            parser.take(comments.as_bytes(), &mut events).unwrap();
        }
        assert_eq!(events, []);
    }
}
