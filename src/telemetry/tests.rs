//! Prometheus' text format, read as strictly as its description allows, and what kith makes of it.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// The samples of one metric, by their names and labels.
#[derive(Debug, Default)]
pub(crate) struct Family {
    help: bool,
    kind: String,
    samples: BTreeMap<String, f64>,
}

/// A text's metrics by their names. Panics at everything that the format does not allow.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let comment = line.strip_prefix("# HELP ").map(|rest| (true, rest));
        match comment.or_else(|| line.strip_prefix("# TYPE ").map(|rest| (false, rest))) {
            Some((is_help, rest)) => {
                let (name, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(is_name(name), "{line}");
                let known = families.contains_key(name);
                assert!(!known || current == name, "{name} stands in two places");
                name.clone_into(&mut current);
                let family = families.entry(name.to_owned()).or_default();
                assert!(family.samples.is_empty(), "{line} stands behind its samples");
                if is_help {
                    assert!(!std::mem::replace(&mut family.help, true), "{line} stands twice");
                } else {
                    assert!(family.kind.is_empty(), "{line} stands twice");
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    rest.clone_into(&mut family.kind);
                }
            }
            None => {
                let family = families.get_mut(&current).unwrap_or_else(|| panic!("{line} has no head"));
                assert!(family.help && !family.kind.is_empty(), "{line} has no help or type");
                sample(line, &current, family);
            }
        }
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has no samples");
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    families
}

/// The value of a series, given as the text names it.
pub(crate) fn value(families: &BTreeMap<String, Family>, series: &str) -> f64 {
    let found = families.values().find_map(|family| family.samples.get(series));
    *found.unwrap_or_else(|| panic!("{series} is not there"))
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn sample(line: &str, family_name: &str, family: &mut Family) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
        None => (series, ""),
    };
    let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
    assert!(suffixes.iter().any(|suffix| name == format!("{family_name}{suffix}")), "{line}");
    check_labels(labels, line);
    let value: f64 = match value {
        "+Inf" => f64::INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().unwrap_or_else(|_| panic!("{line}")),
    };
    assert!(family.kind == "gauge" || (value.is_finite() && value >= 0.0), "{line}");
    assert!(family.samples.insert(series.to_owned(), value).is_none(), "{series} stands twice");
}

fn check_labels(labels: &str, line: &str) {
    let (mut rest, mut seen) = (labels, BTreeSet::new());
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(name) && seen.insert(name), "{line}");
        let (mut escaped, mut end) = (false, None);
        for (at, letter) in quoted.char_indices() {
            match letter {
                '\\' | '"' | 'n' if escaped => escaped = false,
                _ if escaped => panic!("{line} has an escape that there is not"),
                '\\' => escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        rest = &quoted[end.unwrap_or_else(|| panic!("{line}")) + 1..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("{line}"));
        }
    }
}

/// The buckets of each label set rise to `+Inf`, which is the count, and there is a sum.
fn check_histogram(name: &str, family: &Family) {
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, count) in &family.samples {
        if let Some(labels) = series.strip_prefix(&format!("{name}_bucket{{")) {
            let (labels, bound) = labels.rsplit_once(",le=\"").unwrap();
            let bound = bound.trim_end_matches("\"}").replace("+Inf", "inf").parse().unwrap();
            buckets.entry(labels.to_owned()).or_default().push((bound, *count));
        }
    }
    assert!(!buckets.is_empty(), "{name} has no buckets");
    for (labels, mut rising) in buckets {
        rising.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(rising.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels}");
        let last = rising.last().unwrap();
        assert!(last.0.is_infinite());
        let of = |suffix: &str| family.samples.get(&format!("{name}_{suffix}{{{labels}}}")).copied();
        assert_eq!(of("count"), Some(last.1), "{name} {labels}");
        assert!(of("sum").is_some(), "{name} {labels}");
    }
}

#[test]
fn the_text_is_what_prometheus_reads_with_help_and_type_for_every_metric() {
    let telemetry = Telemetry::new("edge\"1\\", "1.2.3-\"quoted\"\\");
    telemetry.metrics().http.record("/v1/kv/{collection}/{key}", 200, 1_500);
    telemetry.metrics().http.record("/v1/status", 503, u64::MAX / 4);
    let mut latencies = [Latencies::default(); OPERATIONS.len()];
    for (count, latencies) in (1..).zip(&mut latencies) {
        latencies.record_many(1_000 * count, count);
    }
    telemetry.metrics().publish_latencies(&latencies);
    let peer = PeerTotals { member: "a".to_owned(), lag_seconds: f64::INFINITY, ..PeerTotals::default() };
    telemetry.metrics().peers.publish(vec![peer]);
    let totals =
        names::TableTotals { disk_free_bytes: f64::NAN, bytes: 1e15, ..names::TableTotals::default() };
    telemetry.metrics().table.publish(&totals);
    let families = parse(&telemetry.render());
    let known: BTreeMap<&str, String> = names::PLAIN
        .iter()
        .chain(names::FAMILIES)
        .map(|metric| (metric.name, format!("{:?}", metric.kind).to_lowercase()))
        .collect();
    let found: BTreeMap<&str, String> =
        families.iter().map(|(name, family)| (name.as_str(), family.kind.clone())).collect();
    assert_eq!(found, known);
    assert!(value(&families, "kith_disk_free_bytes").is_nan());
    let of_process = |name| value(&families, name);
    assert!(of_process("process_resident_memory_bytes") > 1e6);
    assert!((3.0..=of_process("process_max_fds")).contains(&of_process("process_open_fds")));
    let since_start =
        std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - of_process("process_start_time_seconds");
    assert!((0.0..60.0).contains(&since_start), "{since_start}");
}

#[test]
#[should_panic(expected = "stands in two places")]
fn a_metric_in_two_places_is_no_text_of_prometheus() {
    parse("# HELP a b\n# TYPE a gauge\na 1\n# HELP c d\n# TYPE c gauge\nc 1\n# HELP a b\n");
}
