//! What a client sent and what is not executed yet: one buffer, and the parser that looks into it.
//!
//! A connection that never sent anything owns no memory here. The buffer doubles while a large
//! command arrives (never because one was announced) and goes back to its usual size after it.

use super::commands::is_key;
use super::parse::{Arguments, Parsed, Parser, ProtocolError, Rules};

/// Bytes of a buffer in normal use.
const USUAL_BYTES: usize = 16 << 10;
/// Least room for a read, unless a command's own bytes leave less.
const LEAST_ROOM: usize = USUAL_BYTES / 4;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Input {
    data: Vec<u8>,
    start: usize,
    end: usize,
    parser: Parser,
    /// Size of the command at `start`, if it is complete.
    complete: Option<usize>,
    /// The command at `start` is refused, and its end has not come.
    is_refused: bool,
}

impl Input {
    /// The oldest complete command, or one that is refused as soon as that is known; the same again until
    /// [`Input::consume`]. Values have at most `value_bytes`.
    ///
    /// # Errors
    /// [`ProtocolError`]: nothing after it can be understood.
    pub fn command(&mut self, value_bytes: usize) -> Result<Option<Arguments<'_>>, ProtocolError> {
        if self.complete.is_none() && !self.is_refused {
            let unread = self.data.get_mut(self.start..self.end).unwrap_or_default();
            match self.parser.parse(unread, Rules { is_key, value_bytes })? {
                Parsed::Partial => {}
                Parsed::Skipped(bytes) => {
                    self.start += bytes;
                    self.is_refused = self.parser.has_refused();
                }
                Parsed::Complete(bytes) => self.complete = Some(bytes),
            }
        }
        let unread = self.data.get(self.start..self.end).unwrap_or_default();
        let is_there = self.complete.is_some() || self.is_refused;
        Ok(is_there.then(|| self.parser.arguments(unread)))
    }

    /// The command was executed. Returns how many bytes it had.
    pub fn consume(&mut self) -> usize {
        if std::mem::take(&mut self.is_refused) {
            self.parser.told();
            return 0;
        }
        let bytes = self.complete.take().unwrap_or_default();
        self.start += bytes;
        self.parser.next();
        bytes
    }

    /// Room for what comes next; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.data.len() != USUAL_BYTES {
                self.data = vec![0; USUAL_BYTES];
            }
        }
        if self.start > 0 && self.large_bytes() > 0 && self.unexecuted() <= USUAL_BYTES - LEAST_ROOM {
            // The large command has gone, and what came with its end needs no large buffer.
            let mut usual = vec![0; USUAL_BYTES];
            let rest = self.data.get(self.start..self.end).unwrap_or_default();
            if let Some(place) = usual.get_mut(..rest.len()) {
                place.copy_from_slice(rest);
            }
            (self.start, self.end) = (0, rest.len());
            self.data = usual;
        }
        if self.start > 0 && self.data.len() - self.end < LEAST_ROOM {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.data.len() {
            self.data.resize(2 * self.data.len(), 0);
        }
        self.data.get_mut(self.end..).unwrap_or_default()
    }

    /// How many bytes [`Input::room`] will add to the buffer beyond its usual size.
    pub const fn growth(&self) -> usize {
        let stays = self.start == self.end || self.start > 0 || self.end < self.data.len();
        if stays { 0 } else { self.data.len() }
    }

    /// Bytes of the buffer beyond its usual size.
    pub const fn large_bytes(&self) -> usize {
        self.data.len().saturating_sub(USUAL_BYTES)
    }

    /// What was not executed, if that begins with a command that was not parsed yet; else nothing. What is left of a
    /// refused command is a client's data, and parsing a line changes it.
    pub fn next_bytes(&self) -> &[u8] {
        let begins = self.complete.is_none() && !self.parser.is_refusing();
        self.data.get(self.start..self.end).filter(|_| begins).unwrap_or_default()
    }

    /// Bytes that were not executed.
    pub const fn unexecuted(&self) -> usize {
        self.end - self.start
    }

    /// `bytes` of the room were filled.
    pub const fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(input: &mut Input, mut bytes: &[u8]) -> usize {
        let mut commands = 0;
        while !bytes.is_empty() {
            let (before, growth) = (input.data.len(), input.growth());
            let room = input.room();
            assert!(before == 0 || room.len() >= growth);
            let taken = room.len().min(bytes.len()).min(7_000);
            room[..taken].copy_from_slice(&bytes[..taken]);
            input.filled(taken);
            bytes = &bytes[taken..];
            while input.command(usize::MAX).unwrap().is_some() {
                commands += 1;
                input.consume();
            }
        }
        commands
    }

    #[test]
    fn a_large_command_grows_the_buffer_only_for_itself() {
        let mut input = Input::default();
        let mut large = b"PING\r\n*1\r\n$100000\r\n".to_vec();
        large.resize(large.len() + 100_000, b'x');
        assert_eq!(feed(&mut input, &large), 1);
        assert!(input.data.len() > 100_000);
        assert_eq!(input.large_bytes(), input.data.len() - USUAL_BYTES);
        assert_eq!(feed(&mut input, b"\r\nPING\r\n"), 2);
        assert_eq!(input.room().len(), USUAL_BYTES);
    }

    #[test]
    fn the_beginning_of_the_next_command_keeps_no_large_buffer() {
        let mut input = Input::default();
        let mut large = b"*1\r\n$100000\r\n".to_vec();
        large.resize(large.len() + 100_000, b'x');
        large.extend_from_slice(b"\r\n*1\r\n$4\r\nPI");
        assert_eq!(feed(&mut input, &large), 1);
        assert!(input.large_bytes() > 0);
        assert_eq!((input.room().len() + input.unexecuted(), input.large_bytes()), (USUAL_BYTES, 0));
        assert_eq!(feed(&mut input, b"NG\r\n"), 1);
        assert_eq!(input.unexecuted(), 0);
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut input = Input::default();
        assert_eq!(input.data.capacity(), 0);
        feed(&mut input, b"*2\r\n$8388608\r\n");
        assert_eq!(input.data.len(), USUAL_BYTES);
    }

    #[test]
    fn of_an_argument_that_is_too_long_nothing_is_kept() {
        let mut input = Input::default();
        for (command, bytes) in
            [("*2\r\n$3\r\nGET\r\n", 5_000_000), ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n", 9_000_000)]
        {
            let mut large = format!("{command}${bytes}\r\n").into_bytes();
            large.resize(large.len() + bytes, b'x');
            assert_eq!(feed(&mut input, &large), 1, "it is told at once");
            assert_eq!(input.large_bytes(), 0);
            assert_eq!(feed(&mut input, b"\r\nPING\r\n"), 2);
        }
    }

    #[test]
    fn commands_across_the_buffers_end_stay_whole() {
        let mut input = Input::default();
        let mut stream = Vec::new();
        for size in 0..300usize {
            stream.extend_from_slice(format!("*2\r\n$4\r\nECHO\r\n${}\r\n", size * 3).as_bytes());
            stream.resize(stream.len() + size * 3, b'x');
            stream.extend_from_slice(b"\r\n");
        }
        assert_eq!(feed(&mut input, &stream), 300);
    }

    #[test]
    fn what_was_parsed_is_no_beginning_any_more() {
        let mut input = Input::default();
        let line = b"\"*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\na\\r\\n\"\r\nGET b\r\n";
        input.room()[..line.len()].copy_from_slice(line);
        input.filled(line.len());
        assert_eq!(input.next_bytes(), line);
        assert!(input.command(usize::MAX).unwrap().is_some());
        assert_eq!(input.next_bytes(), b"", "unquoting it has changed it");
        input.consume();
        assert_eq!(input.next_bytes(), b"GET b\r\n");
    }
}
