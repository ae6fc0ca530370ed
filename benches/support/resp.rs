//! A client that sets and gets over RESP with many requests in flight on one connection.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Requests in flight of [`Resp::fill`].
const BATCH: usize = 1_000;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// One connection.
pub struct Resp {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Resp {
    pub fn connect(port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let answers = BufReader::with_capacity(64 << 10, stream.try_clone()?);
        Ok(Self { stream, answers, out: Vec::new() })
    }

    /// Queues a SET.
    pub fn set(&mut self, key: &str, value: &str) {
        self.command(&["SET", key, value]);
    }

    /// Queues a GET.
    pub fn get(&mut self, key: &str) {
        self.command(&["GET", key]);
    }

    fn command(&mut self, words: &[&str]) {
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
    }

    /// Sends what is queued.
    pub fn send(&mut self) -> Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The answer to a SET; an error is one that the member gave, and the connection goes on.
    pub fn stored(&mut self) -> Result<std::result::Result<(), String>> {
        let line = self.line()?;
        Ok(if line == "+OK" { Ok(()) } else { Err(line) })
    }

    /// The answer to a GET.
    pub fn found(&mut self) -> Result<Option<String>> {
        let line = self.line()?;
        let Some(length) = line.strip_prefix('$') else { bail!("a read failed: {line}") };
        let Ok(length) = length.parse::<usize>() else { return Ok(None) };
        let mut value = vec![0; length + 2];
        self.answers.read_exact(&mut value)?;
        value.truncate(length);
        Ok(Some(String::from_utf8(value)?))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.strip_suffix("\r\n").context("the connection ended")?.to_owned())
    }

    /// Sets all keys to one value.
    pub fn fill(&mut self, keys: impl Iterator<Item = String>, value: &str) -> Result<()> {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut count = 0;
            for key in keys.by_ref().take(BATCH) {
                self.set(&key, value);
                count += 1;
            }
            self.send()?;
            for _ in 0..count {
                if let Err(reason) = self.stored()? {
                    bail!("a write failed: {reason}");
                }
            }
        }
        Ok(())
    }
}
