//! Runs redis-benchmark and reads what it measured.

use super::report::{Case, Measured};
use super::servers::Target;
use crate::support::resp::Resp;
use anyhow::{Context, Result, bail};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// redis-benchmark never gives up on a server that is gone.
const PATIENCE: Duration = Duration::from_secs(900);
/// Requests of each connection in the round that tells how many requests a round needs.
const PROBED: u64 = 1_000;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 100;
/// Connections of redis-benchmark.
pub const CONNECTIONS: u64 = 50;
/// Servers that take less of a processor than this are at rest.
const RESTING: f64 = 0.1;
/// Over which time that is looked at, and how long one waits for it.
const LOOK: Duration = Duration::from_millis(500);
const REST_PATIENCE: Duration = Duration::from_secs(300);

/// Fails with advice if Redis is not installed.
pub fn check_tools() -> Result<()> {
    for tool in ["redis-server", "redis-benchmark"] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            bail!(
                "{tool} is not installed; get Redis 7 or later: \
                 `apt-get install redis-server redis-tools`, `dnf install redis` or `brew install redis`"
            );
        }
    }
    Ok(())
}

/// How many requests a case needs against a server to last about so long.
pub fn requests(target: &Target<'_>, case: &Case, seconds: u64) -> Result<u64> {
    let probe = PROBED * CONNECTIONS * case.pipeline;
    let rate = measure(target, case, probe)?.rate;
    // Rounds are faster than the first one, and should not be shorter than asked for.
    Ok((rate * seconds as f64 * 1.15) as u64)
}

/// One round of one case, begun when nothing is left over of the rounds before.
pub fn measure(target: &Target<'_>, case: &Case, requests: u64) -> Result<Measured> {
    target.prepare()?;
    // What others left to the disk must not wait there for this one's syncs.
    Command::new("sync").status().context("sync")?;
    let before = target.cpu_seconds()?;
    let mut command = Command::new("redis-benchmark");
    command.args([
        "-h",
        "127.0.0.1",
        "--csv",
        "-d",
        &VALUE_BYTES.to_string(),
        "-c",
        &CONNECTIONS.to_string(),
    ]);
    command.args(["-p", &target.port.to_string(), "-t", case.test, "-P", &case.pipeline.to_string()]);
    command.args(["-n", &requests.to_string(), "-r", &case.keys.to_string()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("redis-benchmark did not end within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    // What a server does behind its answers (checkpoints, rewriting its file) is part of what they cost.
    rest(target)?;
    let cpu = target.cpu_seconds()? - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let parsed = parse(&text).with_context(|| format!("redis-benchmark said: {text}"))?;
    Ok(Measured { cpu_per_million: cpu * 1e6 / requests as f64, ..parsed })
}

/// Writes every key once, in order, and waits until the servers rest.
pub fn fill(target: &Target<'_>, keys: Range<u64>) -> Result<()> {
    target.prepare()?;
    let names = keys.map(|number| format!("key:{number:012}"));
    Resp::connect(target.port)?.fill(names, &"x".repeat(VALUE_BYTES))?;
    rest(target)
}

/// Waits until a server has nothing to do any more; says so and goes on if that takes too long.
pub fn rest(target: &Target<'_>) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < REST_PATIENCE {
        let before = target.cpu_seconds()?;
        std::thread::sleep(LOOK);
        let took = target.cpu_seconds()? - before;
        if took <= RESTING * LOOK.as_secs_f64() && !target.is_rewriting() {
            return Ok(());
        }
    }
    eprintln!(
        "{} still works {} s after its load: what comes next is measured beside that",
        target.name,
        REST_PATIENCE.as_secs()
    );
    Ok(())
}

/// `"test","rps","avg_latency_ms","min…","p50…","p95…","p99…","max…"`, then a line of figures.
fn parse(csv: &str) -> Option<Measured> {
    let mut rows = csv.lines().map(|line| line.split(',').map(|field| field.trim_matches('"')));
    let columns: Vec<&str> = rows.find(|row| row.clone().next() == Some("test"))?.collect();
    let figures: Vec<&str> = rows.next()?.collect();
    let figure = |name: &str| -> Option<f64> {
        let at = columns.iter().position(|column| *column == name)?;
        figures.get(at)?.parse().ok()
    };
    Some(Measured {
        rate: figure("rps")?,
        p50_ms: figure("p50_latency_ms")?,
        p99_ms: figure("p99_latency_ms")?,
        cpu_per_million: 0.0,
    })
}
