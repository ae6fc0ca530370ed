//! `kith import`: a file of records, stored in batches of which several are on their way.
//!
//! A line that is wrong or refused is reported by its number and does not stop the rest; what stops
//! an import is a file that can't be read or a cluster that can't be reached any more.
//!
//! Lines of one key are stored in their order: a record waits until the one before it under its key was
//! answered, however often that one had to be sent. So lines of one key alone go one by one.
//!
//! A batch whose fate is unknown is sent again. If it had been stored all the same, it is so twice, and the
//! second time is the later change: what somebody else wrote under its keys between the two is replaced.

mod batch;

use super::error::CliError;
use super::output::{Output, counted};
use super::progress;
use super::{LevelArg, shutdown};
use crate::client::{Client, ClientError};
use crate::model::key::{KeyHash, KeyRef};
use crate::model::settings::Level;
use crate::node::handle::documents::{Entry, Verb};
use batch::{Report, store};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

/// Records in a batch.
const BATCH_RECORDS: usize = 500;
/// Bytes of lines in a batch.
const BATCH_BYTES: usize = 1 << 20;
/// Batches on their way.
const IN_FLIGHT: usize = 4;
/// Bytes of the longest line: the largest value, every byte of it escaped, and its company.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// Complaints that are printed; the rest is counted.
const MAX_COMPLAINTS: usize = 20;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file; `-` reads standard input
    file: PathBuf,
    /// The collection of lines that name none [default: default]
    #[arg(long, short)]
    collection: Option<String>,
    #[command(flatten)]
    level: LevelArg,
}

/// How a command that stores records speaks of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    /// What it does.
    pub(super) what: &'static str,
    /// What to do when it did not do all.
    pub(super) again: &'static str,
}

const WORDS: Words = Words { what: "import", again: "import again" };

/// A record and the line that it stands on.
type Numbered = (u64, Entry);

/// `kith import`
pub(super) async fn run(client: &Client, args: &ImportArgs, output: Output) -> Result<(), CliError> {
    if let Some(collection) = &args.collection {
        KeyRef::new(collection, b"any").map_err(ClientError::Key)?;
    }
    let name =
        if args.file.as_os_str() == "-" { "standard input".into() } else { args.file.display().to_string() };
    let failed = |source| CliError::io(format!("can't read {name}"), source);
    let (reader, length): (Box<dyn AsyncBufRead + Unpin>, _) = if args.file.as_os_str() == "-" {
        (Box::new(BufReader::with_capacity(READ_BYTES, standard_input().map_err(failed)?)), None)
    } else {
        let file = tokio::fs::File::open(&args.file).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        (Box::new(BufReader::with_capacity(READ_BYTES, file)), Some(length))
    };
    let progress = progress::of_bytes(length, output);
    let mut import = Import::new(client.clone(), args.level.level, WORDS, output, progress);
    import.collection.clone_from(&args.collection);
    let read = tokio::select! {
        read = import.read_all(reader) => read,
        _ = tokio::signal::ctrl_c() => {
            import.interrupt();
            Ok(())
        }
    };
    import.finish().await?;
    read.map_err(failed)?;
    import.conclude(&name)
}

/// Standard input as a file: pipes, files and terminals are all read alike.
fn standard_input() -> std::io::Result<tokio::fs::File> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(input)))
}

/// Records on their way.
pub(super) struct Import {
    client: Client,
    level: Option<Level>,
    /// Of lines that name none.
    collection: Option<String>,
    words: Words,
    output: Output,
    progress: ProgressBar,
    batch: Vec<Numbered>,
    batch_bytes: usize,
    /// Hashes of the keys in `batch`.
    gathered: HashSet<KeyHash>,
    running: JoinSet<(HashSet<KeyHash>, Report)>,
    /// Hashes of the keys in all batches that run.
    under_way: HashSet<KeyHash>,
    /// Lines that were read.
    read: u64,
    stored: u64,
    superseded: u64,
    failed: u64,
    complaints: usize,
    /// How many of the failed may be stored all the same.
    doubtful: u64,
    /// The first line of those that were not tried.
    untried_from: Option<u64>,
    stop: Option<String>,
}

impl Import {
    pub(super) fn new(
        client: Client,
        level: Option<Level>,
        words: Words,
        output: Output,
        progress: ProgressBar,
    ) -> Self {
        Self {
            client,
            level,
            collection: None,
            words,
            output,
            progress,
            batch: Vec::new(),
            batch_bytes: 0,
            gathered: HashSet::new(),
            running: JoinSet::new(),
            under_way: HashSet::new(),
            read: 0,
            stored: 0,
            superseded: 0,
            failed: 0,
            complaints: 0,
            doubtful: 0,
            untried_from: None,
            stop: None,
        }
    }

    /// Sends every line on its way, until the end or until there is no sense in going on.
    async fn read_all(&mut self, mut reader: impl AsyncBufRead + Unpin) -> std::io::Result<()> {
        let mut line = Vec::new();
        for number in 1.. {
            let taken = read_line(&mut reader, &mut line).await?;
            if taken == 0 || self.stop.is_some() {
                break;
            }
            self.progress.inc(taken);
            if line.len() > MAX_LINE_BYTES {
                self.fail(number, number, &format!("has more than {MAX_LINE_BYTES} bytes"));
            } else if !line.trim_ascii().is_empty() {
                match record_of(&line, self.collection.as_deref()) {
                    Ok((key, entry)) => self.add(number, key, entry).await,
                    Err(reason) => self.fail(number, number, &reason),
                }
            }
            self.read = number;
        }
        Ok(())
    }

    /// What is on its way is waited for, and nothing more is sent.
    pub(super) fn interrupt(&mut self) {
        self.stop.get_or_insert_with(|| "it was interrupted".to_owned());
        // Those that wait to be sent are before it.
        if self.batch.is_empty() {
            self.untried_from.get_or_insert(self.read + 1);
        }
    }

    /// Sends a record of a line that was checked, once there is room for it. Says whether it makes sense to go on.
    pub(super) async fn take(&mut self, number: u64, entry: Entry) -> bool {
        let operation = entry.operation(None, 0, 0).map_err(|error| error.to_string());
        match operation.and_then(|operation| Ok(operation.key().key_ref().map_err(|e| e.to_string())?.hash()))
        {
            Ok(key) => self.add(number, key, entry).await,
            Err(reason) => self.fail(number, number, &reason),
        }
        self.read = number;
        self.stop.is_none()
    }

    async fn add(&mut self, number: u64, key: KeyHash, entry: Entry) {
        let bytes = line_bytes(&entry);
        let is_full = self.batch.len() >= BATCH_RECORDS || self.batch_bytes + bytes > BATCH_BYTES;
        if is_full || self.gathered.contains(&key) || self.under_way.contains(&key) {
            self.send().await;
        }
        while self.under_way.contains(&key) && !self.running.is_empty() {
            self.take_one().await;
        }
        self.gathered.insert(key);
        self.batch.push((number, entry));
        self.batch_bytes += bytes;
    }

    /// Sends what was gathered, once there is room for it.
    async fn send(&mut self) {
        while self.running.len() >= IN_FLIGHT {
            self.take_one().await;
        }
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let keys = std::mem::take(&mut self.gathered);
        if !batch.is_empty() && self.stop.is_none() {
            self.under_way.extend(&keys);
            let stored = store(self.client.clone(), batch, self.level);
            self.running.spawn(async move { (keys, stored.await) });
        } else if let Some((first, _)) = batch.first() {
            self.untried_from.get_or_insert(*first);
        }
    }

    async fn take_one(&mut self) {
        let Some(Ok((keys, report))) = self.running.join_next().await else { return };
        self.under_way.retain(|key| !keys.contains(key));
        self.stored += report.stored;
        self.superseded += report.superseded;
        self.doubtful += report.doubtful;
        self.progress.set_message(format!("{} records", self.stored));
        self.stop = self.stop.take().or(report.stop);
        let mut failed = report.failed.into_iter().peekable();
        while let Some((first, reason)) = failed.next() {
            let mut last = first;
            while failed.next_if(|(number, other)| *number == last + 1 && *other == reason).is_some() {
                last += 1;
            }
            self.fail(first, last, &reason);
        }
    }

    /// Waits for what is on its way; who interrupts that once more waits no longer.
    pub(super) async fn finish(&mut self) -> Result<(), CliError> {
        self.finish_unless(shutdown()).await
    }

    async fn finish_unless(&mut self, stopped: impl Future<Output = ()>) -> Result<(), CliError> {
        let again = self.words.again;
        tokio::select! {
            () = self.send_all() => Ok(()),
            () = stopped => {
                let problem = format!("interrupted; the last records may be stored or not: {again}");
                Err(CliError::Failed(problem))
            }
        }
    }

    async fn send_all(&mut self) {
        self.send().await;
        while !self.running.is_empty() {
            self.take_one().await;
        }
        self.progress.finish_and_clear();
    }

    /// Lines failed, all for one reason.
    fn fail(&mut self, first: u64, last: u64, reason: &str) {
        self.failed += last - first + 1;
        // Why it ends is told at its end.
        if self.stop.as_deref() == Some(reason) {
            return;
        }
        self.complaints += 1;
        let text = match self.complaints {
            ..=MAX_COMPLAINTS if first == last => format!("line {first}: {reason}"),
            ..=MAX_COMPLAINTS => format!("lines {first} to {last}: {reason}"),
            number if number == MAX_COMPLAINTS + 1 => {
                "more lines failed; they are only counted from here on".to_owned()
            }
            _ => return,
        };
        let output = self.output;
        self.progress.suspend(|| output.complain(&text));
    }

    pub(super) fn conclude(self, name: &str) -> Result<(), CliError> {
        let Self { stored, superseded, failed, doubtful, untried_from, words, .. } = self;
        let Words { what, again } = words;
        let document = json!({
            "stored": stored,
            "superseded": superseded,
            "failed": failed,
            "outcome_unknown": doubtful,
            "not_tried_from_line": untried_from,
        });
        self.output.show(&document, || {
            let records = counted(stored, "record", "records");
            match superseded {
                0 => format!("{records} stored, {failed} failed"),
                _ => format!(
                    "{records} stored, {failed} failed, {superseded} found newer ones in their places"
                ),
            }
        })?;
        let mut problem = match self.stop {
            Some(error) => format!("the {what} of {name} was given up: {error}"),
            None if failed > 0 => format!("{} of {name} failed", counted(failed, "line", "lines")),
            None => return Ok(()),
        };
        if let Some(line) = untried_from {
            problem.push_str(&format!("; nothing from line {line} on was tried"));
        }
        if doubtful > 0 {
            problem.push_str(&format!(
                "; of the lines that failed {doubtful} may be stored all the same (outcome unknown): {again}"
            ));
        }
        Err(CliError::Failed(problem))
    }
}

/// The next line without its end; gives the bytes that were taken, 0 at the end of the input. Of a
/// line that is too long only so much is kept that this shows.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<u64> {
    line.clear();
    let mut taken = 0;
    loop {
        let available = reader.fill_buf().await?;
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        if line.len() <= MAX_LINE_BYTES {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        let at_end = available.is_empty();
        reader.consume(used);
        taken += used as u64;
        if end.is_some() || at_end {
            return Ok(taken);
        }
    }
}

/// Bytes that a record takes in a batch.
fn line_bytes(entry: &Entry) -> usize {
    struct Counted(usize);
    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(1);
    // Whoever sends it is told if it can't be written.
    _ = serde_json::to_writer(&mut counted, entry);
    counted.0
}

fn record_of(line: &[u8], collection: Option<&str>) -> Result<(KeyHash, Entry), String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
    let mut entry = Entry::parse(text).map_err(|error| error.to_string())?;
    entry.collection = entry.collection.or_else(|| collection.map(str::to_owned));
    if entry.op.is_some_and(|verb| verb != Verb::Put) {
        return Err("only records can be imported; leave `op` out".to_owned());
    }
    if entry.condition.is_some() {
        // It would not hold when the record is sent again.
        return Err("records are imported without a condition; leave `if` out".to_owned());
    }
    // The member would refuse the whole batch for it.
    let operation = entry.operation(None, 0, 0).map_err(|error| error.to_string())?;
    let key = operation.key().key_ref().map_err(|error| error.to_string())?.hash();
    Ok((key, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn lines_are_cut_at_their_ends_and_counted_whole() {
        let mut reader = BufReader::with_capacity(3, &b"one\n\ntwo words\nlast"[..]);
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while let taken @ 1.. = read_line(&mut reader, &mut line).await.unwrap() {
            lines.push((String::from_utf8(line.clone()).unwrap(), taken));
        }
        let expected = [("one", 4), ("", 1), ("two words", 10), ("last", 4)];
        assert_eq!(lines, expected.map(|(text, taken)| (text.to_owned(), taken)));
    }

    async fn body_on(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        loop {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            let text = String::from_utf8_lossy(&request);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return body.to_owned();
            }
        }
    }

    async fn answer_on(stream: &mut TcpStream, status: u16, answer: &str) {
        let close = "connection: close";
        let head = format!("HTTP/1.1 {status} x\r\n{close}\r\ncontent-length: {}\r\n\r\n", answer.len());
        stream.write_all((head + answer).as_bytes()).await.unwrap();
    }

    /// Takes every record, but refuses the first request for now. Gives the values in the order in which they came
    /// to stay.
    async fn refuses_once(listener: TcpListener, stored: Arc<Mutex<Vec<u64>>>) {
        let mut is_first = true;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let body = body_on(&mut stream).await;
            let (status, answer) = if std::mem::take(&mut is_first) {
                (503, json!({"error": "overloaded", "message": "too much to do"}))
            } else {
                let entries: Vec<_> = body.lines().map(|line| Entry::parse(line).unwrap()).collect();
                let results = vec![json!({"outcome": "stored"}); entries.len()];
                let same = entries.into_iter().filter(|entry| entry.key.as_deref() == Some("same"));
                stored.lock().unwrap().extend(same.map(|entry| entry.value.unwrap().parse::<u64>().unwrap()));
                (200, json!({ "results": results }))
            };
            answer_on(&mut stream, status, &answer.to_string()).await;
        }
    }

    /// Takes every batch, and notes how long each was.
    async fn takes_all(listener: TcpListener, lengths: Arc<Mutex<Vec<usize>>>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let body = body_on(&mut stream).await;
            lengths.lock().unwrap().push(body.len());
            let results = vec![json!({"outcome": "stored"}); body.lines().count()];
            answer_on(&mut stream, 200, &json!({ "results": results }).to_string()).await;
        }
    }

    #[tokio::test]
    async fn a_batch_is_as_long_as_its_lines_are_with_their_keys_and_escapes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::builder([listener.local_addr().unwrap().to_string()]);
        let client = client.patience(Duration::ZERO).build().unwrap();
        let lengths = Arc::default();
        let member = tokio::spawn(takes_all(listener, Arc::clone(&lengths)));
        let mut import = Import::new(client, None, WORDS, Output { json: true }, ProgressBar::hidden());
        // As a restore does it: few bytes of values, each of them six in a line, and long keys.
        for number in 0..BATCH_RECORDS as u64 {
            let (key, value) = (format!("{number:0>4000}"), "\u{1}".repeat(1_000));
            assert!(import.take(number, Entry::put("c", key.as_bytes(), value.as_bytes())).await);
        }
        import.finish().await.unwrap();
        member.abort();
        assert_eq!((import.stored, import.failed), (BATCH_RECORDS as u64, 0));
        let lengths = lengths.lock().unwrap();
        assert!(lengths.iter().all(|length| *length <= BATCH_BYTES), "{lengths:?}");
        assert!(lengths.iter().sum::<usize>() > 4 * BATCH_BYTES, "{lengths:?}");
    }

    #[tokio::test]
    async fn lines_of_one_key_are_stored_in_their_order_also_when_one_must_be_sent_again() {
        // In one batch, and in those that would be on their way beside it.
        let lines_of_one_key = [1, 2, BATCH_RECORDS, 2 * BATCH_RECORDS, 3 * BATCH_RECORDS];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::builder([listener.local_addr().unwrap().to_string()]);
        let client = client.patience(Duration::ZERO).build().unwrap();
        let stored = Arc::default();
        let member = tokio::spawn(refuses_once(listener, Arc::clone(&stored)));
        let key = |n| if lines_of_one_key.contains(&n) { "same".to_owned() } else { format!("other {n}") };
        let lines: String = (0..4 * BATCH_RECORDS)
            .map(|n| format!("{{\"key\":\"{}\",\"value\":\"{n}\"}}\n", key(n)))
            .collect();
        let mut import = Import::new(client, None, WORDS, Output { json: true }, ProgressBar::hidden());
        import.read_all(lines.as_bytes()).await.unwrap();
        import.finish().await.unwrap();
        member.abort();
        assert_eq!((import.stored, import.failed), (4 * BATCH_RECORDS as u64, 0));
        assert_eq!(*stored.lock().unwrap(), lines_of_one_key.map(|n| n as u64));
    }

    #[tokio::test]
    async fn an_import_that_is_given_up_tells_what_was_not_tried_and_what_may_be_stored() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::builder([listener.local_addr().unwrap().to_string()]);
        let client = client.patience(Duration::ZERO).build().unwrap();
        // It takes one request, never answers, and is gone.
        let dies = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 1]).await.unwrap();
        });
        let lines: String =
            (0..20 * BATCH_RECORDS).map(|n| format!("{{\"key\":\"{n}\",\"value\":\"v\"}}\n")).collect();
        let mut import = Import::new(client, None, WORDS, Output { json: true }, ProgressBar::hidden());
        import.read_all(lines.as_bytes()).await.unwrap();
        import.finish().await.unwrap();
        dies.await.unwrap();
        let tried = import.untried_from.unwrap() - 1;
        assert_eq!((import.stored, import.failed), (0, tried));
        assert!((1..=tried).contains(&import.doubtful), "{} of {tried}", import.doubtful);
        let told = import.conclude("words").unwrap_err().to_string();
        assert!(told.contains("given up") && told.contains("outcome unknown"), "{told}");
        assert!(told.contains(&format!("nothing from line {} on", tried + 1)), "{told}");
    }

    #[tokio::test]
    async fn who_interrupts_twice_does_not_wait_for_what_is_on_its_way() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new([silent.local_addr().unwrap().to_string()]).unwrap();
        let words = Words { what: "restore", again: "restore again with --force" };
        let mut import = Import::new(client, None, words, Output { json: true }, ProgressBar::hidden());
        assert!(import.take(1, Entry::put("c", b"k", b"v")).await);
        import.send().await;
        import.interrupt();
        let told = import.finish_unless(std::future::ready(())).await.unwrap_err().to_string();
        assert!(told.contains("may be stored or not: restore again with --force"), "{told}");
        let told = import.conclude("all.jsonl").unwrap_err().to_string();
        assert!(told.contains("the restore of all.jsonl was given up"), "{told}");
    }

    #[tokio::test]
    async fn an_import_that_is_interrupted_tells_from_where_on_nothing_was_tried() {
        let client = Client::builder(["127.0.0.1:1"]).build().unwrap();
        let mut import = Import::new(client, None, WORDS, Output { json: true }, ProgressBar::hidden());
        let lines = "{\"key\":\"a\",\"value\":\"v\"}\n\n{\"key\":\"b\",\"value\":\"v\"}\n";
        import.read_all(format!("\n{lines}").as_bytes()).await.unwrap();
        import.interrupt();
        import.finish().await.unwrap();
        let told = import.conclude("words").unwrap_err().to_string();
        assert!(told.contains("interrupted") && told.contains("nothing from line 2 on"), "{told}");
    }

    #[test]
    fn only_records_are_imported() {
        let of = |collection| {
            let (plain, named) =
                (r#"{"key":"a","value":"b","ttl":"1h"}"#, r#"{"key":"a","value":"b","collection":"c"}"#);
            [plain, named].map(|line| record_of(line.as_bytes(), collection).unwrap().1.collection)
        };
        assert_eq!(of(None), [None, Some("c".to_owned())]);
        assert_eq!(of(Some("d")), [Some("d".to_owned()), Some("c".to_owned())]);
        assert!(record_of(br#"{"op":"delete","key":"a"}"#, None).unwrap_err().contains("only records"));
        assert!(record_of(br#"{"key":"a","value":"b","if":"absent"}"#, None).unwrap_err().contains("`if`"));
        assert!(record_of(b"\xff", None).unwrap_err().contains("UTF-8"));
        assert!(
            record_of(br#"{"key":"a","value":"b","collection":"no good"}"#, None)
                .unwrap_err()
                .contains("collection")
        );
    }
}
