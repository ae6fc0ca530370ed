//! Runs redis-benchmark and reads what it measured.

use super::options::Options;
use super::report::{Case, Measured};
use super::servers::Target;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// redis-benchmark never gives up on a server that is gone.
const PATIENCE: Duration = Duration::from_secs(600);

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

/// Writes as many random keys as there are, so that reads find most of them.
pub fn fill(target: &Target, options: &Options) -> Result<()> {
    let case = Case { test: "set", pipeline: 16, requests: options.keys, rounds: 1, long: false };
    measure(target, &case, options).map(|_| ())
}

/// One round of one case.
pub fn measure(target: &Target, case: &Case, options: &Options) -> Result<Measured> {
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-c", "50", "-d", "100", "--csv"]);
    command.args(["-p", &target.port.to_string(), "-t", case.test, "-P", &case.pipeline.to_string()]);
    command.args(["-n", &case.requests.to_string(), "-r", &options.keys.to_string()]);
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
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse(&text).with_context(|| format!("redis-benchmark said: {text}"))
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
    })
}
