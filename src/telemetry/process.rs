//! What this process takes of the machine; from the files that Linux has for it, and zero elsewhere.

use super::names;
use super::recorder::plain;
use std::fs;

/// See the head of this file.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Bytes of memory that are in use.
    pub resident_bytes: u64,
    /// The most that were.
    pub peak_bytes: u64,
    /// Bytes of memory of the machine.
    pub machine_bytes: u64,
    /// Seconds of processor time in the process itself.
    pub user_seconds: f64,
    /// And in the system for it.
    pub system_seconds: f64,
}

/// The usual length of the ticks in which Linux counts processor time.
const TICKS_PER_SECOND: f64 = 100.0;

impl Usage {
    /// As it is now.
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (user_seconds, system_seconds) = seconds(&read("/proc/self/stat"));
        let status = read("/proc/self/status");
        Self {
            resident_bytes: bytes(&status, "VmRSS:"),
            peak_bytes: bytes(&status, "VmHWM:"),
            machine_bytes: bytes(&read("/proc/meminfo"), "MemTotal:"),
            user_seconds,
            system_seconds,
        }
    }
}

/// The metrics that every process has.
pub(super) fn render(started_seconds: f64, out: &mut String) {
    let usage = Usage::now();
    let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // What the system does not say is not 0.
    let told = |number: u64| if number == 0 { f64::NAN } else { gauge(number) };
    plain(names::PROCESS_MEMORY, told(usage.resident_bytes), out);
    plain(names::PROCESS_CPU, usage.user_seconds + usage.system_seconds, out);
    plain(names::PROCESS_FILES, told(files as u64), out);
    plain(names::PROCESS_FILES_LIMIT, told(max_files(&limits)), out);
    plain(names::PROCESS_START, started_seconds, out);
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers by Prometheus' convention")]
const fn gauge(number: u64) -> f64 {
    number as f64
}

/// The first number behind the name, which is the limit that counts.
fn max_files(limits: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The number behind a name, which is in KiB.
fn bytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number =
        line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1_024)
}

/// User and system time. What stands before them is a name in parentheses, with whatever it contains, and the
/// fields from the third on.
fn seconds(stat: &str) -> (f64, f64) {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut times = fields.split_whitespace().skip(11).map(|word| word.parse::<f64>().unwrap_or_default());
    let mut next = || times.next().unwrap_or_default() / TICKS_PER_SECOND;
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_writes_is_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 171 0 0 0 250 31 0 0 20 0 1 0 28 2736128 208";
        assert_eq!(seconds(stat), (2.5, 0.31));
        let years = stat.replace(" 250 31 ", " 5000000000 31 ");
        assert_eq!(seconds(&years), (50_000_000.0, 0.31), "more ticks than 32 bits count");
        assert_eq!(bytes("VmPeak:\t  9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), 1_234 * 1_024);
        let limits = "Max processes  9  9  processes\nMax open files            1024                 524288               files\n";
        assert_eq!(max_files(limits), 1_024);
        assert_eq!((seconds(""), bytes("", "VmRSS:"), max_files("")), ((0.0, 0.0), 0, 0));
    }
}
