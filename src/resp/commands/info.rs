//! INFO: how the member is, in the sections and by the names that Redis has for them, so that what reads
//! Redis reads kith; and in a section of its own what only kith has.

use super::client::REDIS_VERSION;
use super::{Context, Flow};
use crate::node::local::{Local, LocalInfo};
use crate::resp::listening::database_of;
use crate::resp::parse::Arguments;
use crate::resp::shared::{Rates, Shared};
use crate::telemetry::Usage;
use std::fmt::Write as _;

/// What INFO was asked for.
type Wanted<'a> = dyn Fn(&str) -> bool + 'a;

/// INFO \[section …\]
pub fn info<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let all = |word: &[u8]| {
        [b"all".as_slice(), b"default", b"everything"].iter().any(|name| word.eq_ignore_ascii_case(name))
    };
    let wanted = |name: &str| {
        arguments.len() == 1
            || arguments.from(1).any(|word| all(word) || word.eq_ignore_ascii_case(name.as_bytes()))
    };
    let port = context.client.shown.addresses.1.port();
    let mut info = context.local.info();
    info.collections.retain(|(name, _)| context.client.session.may_read(name));
    let text = sections(&info, context.shared, (port, context.wall_ms), &wanted);
    context.answer(|out| out.text(&text))
}

fn sections(info: &LocalInfo, shared: &Shared, (port, wall_ms): (u16, u64), wanted: &Wanted<'_>) -> String {
    let mut text = String::new();
    let mut add = |name: &str, lines: &dyn Fn() -> Vec<(&'static str, String)>| {
        if !wanted(name) {
            return;
        }
        let gap = if text.is_empty() { "" } else { "\r\n" };
        // Writing to a string can't fail.
        _ = write!(text, "{gap}# {name}\r\n");
        for (name, value) in lines() {
            _ = write!(text, "{name}:{value}\r\n");
        }
    };
    let usage = Usage::now();
    add("Server", &|| server(info, port, wall_ms));
    add("Clients", &|| clients(shared));
    add("Memory", &|| memory(info, usage));
    add("Persistence", &persistence);
    add("Stats", &|| stats(info, shared, wall_ms));
    add("Replication", &|| replication(info));
    add("CPU", &|| processor(usage));
    add("Modules", &Vec::new);
    add("Errorstats", &Vec::new);
    add("Cluster", &|| vec![("cluster_enabled", "0".to_owned())]);
    add("Kith", &|| kith(info));
    if wanted("Keyspace") {
        let gap = if text.is_empty() { "" } else { "\r\n" };
        _ = write!(text, "{gap}# Keyspace\r\n{}", keyspace(info));
    }
    text
}

fn server(info: &LocalInfo, port: u16, wall_ms: u64) -> Vec<(&'static str, String)> {
    vec![
        ("redis_version", REDIS_VERSION.to_owned()),
        ("kith_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("redis_mode", "standalone".to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", std::process::id().to_string()),
        ("tcp_port", port.to_string()),
        ("server_time_usec", wall_ms.saturating_mul(1_000).to_string()),
        ("uptime_in_seconds", info.uptime_seconds.to_string()),
        ("uptime_in_days", (info.uptime_seconds / 86_400).to_string()),
    ]
}

fn clients(shared: &Shared) -> Vec<(&'static str, String)> {
    let (mut received, mut unsent) = (0, 0);
    shared.clients.for_each(|shown| {
        received = shown.unexecuted.get().max(received);
        unsent = shown.unsent.get().max(unsent);
    });
    vec![
        ("connected_clients", shared.clients.count().to_string()),
        ("cluster_connections", "0".to_owned()),
        ("maxclients", shared.max_clients.to_string()),
        ("client_recent_max_input_buffer", received.to_string()),
        ("client_recent_max_output_buffer", unsent.to_string()),
        ("blocked_clients", "0".to_owned()),
    ]
}

fn memory(info: &LocalInfo, usage: Usage) -> Vec<(&'static str, String)> {
    let human = |bytes: u64| {
        let (mut scaled, mut unit) = (bytes as f64, "B");
        for larger in ["K", "M", "G"] {
            if scaled >= 1_024.0 {
                (scaled, unit) = (scaled / 1_024.0, larger);
            }
        }
        if unit == "B" { format!("{scaled}B") } else { format!("{scaled:.2}{unit}") }
    };
    vec![
        ("used_memory", usage.resident_bytes.to_string()),
        ("used_memory_human", human(usage.resident_bytes)),
        ("used_memory_rss", usage.resident_bytes.to_string()),
        ("used_memory_rss_human", human(usage.resident_bytes)),
        ("used_memory_peak", usage.peak_bytes.to_string()),
        ("used_memory_peak_human", human(usage.peak_bytes)),
        ("used_memory_dataset", info.table_bytes.to_string()),
        ("total_system_memory", usage.machine_bytes.to_string()),
        ("total_system_memory_human", human(usage.machine_bytes)),
        ("maxmemory", "0".to_owned()),
        ("maxmemory_human", "0B".to_owned()),
        ("maxmemory_policy", "noeviction".to_owned()),
        ("mem_fragmentation_ratio", "1.00".to_owned()),
        ("mem_allocator", "mimalloc".to_owned()),
    ]
}

fn persistence() -> Vec<(&'static str, String)> {
    let fixed = [
        ("loading", "0"),
        ("async_loading", "0"),
        ("rdb_changes_since_last_save", "0"),
        ("rdb_bgsave_in_progress", "0"),
        ("rdb_last_bgsave_status", "ok"),
        ("aof_enabled", "1"),
        ("aof_rewrite_in_progress", "0"),
        ("aof_last_bgrewrite_status", "ok"),
        ("aof_last_write_status", "ok"),
    ];
    fixed.map(|(name, value)| (name, value.to_owned())).to_vec()
}

fn stats(info: &LocalInfo, shared: &Shared, wall_ms: u64) -> Vec<(&'static str, String)> {
    let counts = &shared.counts;
    let now = Rates {
        at_ms: wall_ms,
        commands: counts.commands.get(),
        received: counts.bytes_received.get(),
        sent: counts.bytes_sent.get(),
    };
    let (mut channels, mut patterns) = (0, 0);
    shared.clients.for_each(|shown| {
        channels += shown.listening.get().0;
        patterns += shown.listening.get().1;
    });
    let before = shared.rates.replace(now);
    let elapsed_ms = now.at_ms.saturating_sub(before.at_ms).max(1);
    let rate = |now: u64, before: u64| now.saturating_sub(before).saturating_mul(1_000) / elapsed_ms;
    let kilobytes = |now, before| format!("{:.2}", rate(now, before) as f64 / 1_024.0);
    vec![
        ("total_connections_received", counts.accepted.get().to_string()),
        ("total_commands_processed", now.commands.to_string()),
        ("instantaneous_ops_per_sec", rate(now.commands, before.commands).to_string()),
        ("total_net_input_bytes", now.received.to_string()),
        ("total_net_output_bytes", now.sent.to_string()),
        ("instantaneous_input_kbps", kilobytes(now.received, before.received)),
        ("instantaneous_output_kbps", kilobytes(now.sent, before.sent)),
        ("rejected_connections", counts.rejected.get().to_string()),
        ("expired_keys", "0".to_owned()),
        ("evicted_keys", "0".to_owned()),
        ("keyspace_hits", info.reads_found.to_string()),
        ("keyspace_misses", info.reads_missing.to_string()),
        ("pubsub_channels", channels.to_string()),
        ("pubsub_patterns", patterns.to_string()),
        ("latest_fork_usec", "0".to_owned()),
        ("total_error_replies", counts.errors.get().to_string()),
    ]
}

/// Every member takes writes, so each says that it is a master; the others are its replicas.
fn replication(info: &LocalInfo) -> Vec<(&'static str, String)> {
    vec![
        ("role", "master".to_owned()),
        ("connected_slaves", info.live_peers.to_string()),
        ("master_failover_state", "no-failover".to_owned()),
        ("master_repl_offset", "0".to_owned()),
        ("repl_backlog_active", "0".to_owned()),
    ]
}

fn processor(usage: Usage) -> Vec<(&'static str, String)> {
    vec![
        ("used_cpu_sys", format!("{:.6}", usage.system_seconds)),
        ("used_cpu_user", format!("{:.6}", usage.user_seconds)),
        ("used_cpu_sys_children", "0.000000".to_owned()),
        ("used_cpu_user_children", "0.000000".to_owned()),
    ]
}

fn kith(info: &LocalInfo) -> Vec<(&'static str, String)> {
    vec![
        ("member", info.member.clone()),
        ("cluster", info.cluster.clone()),
        ("members", info.members.to_string()),
        ("live_peers", info.live_peers.to_string()),
        ("replication_factor", info.replication_factor.to_string()),
        ("records", info.records.to_string()),
    ]
}

/// The databases that this member has records of, and the client may read. Their expiries are not counted.
fn keyspace(info: &LocalInfo) -> String {
    let mut databases: Vec<(u16, u64)> =
        info.collections.iter().filter_map(|(name, keys)| Some((database_of(name)?, *keys))).collect();
    databases.sort_unstable();
    let mut text = String::new();
    for (number, keys) in databases {
        _ = write!(text, "db{number}:keys={keys},expires=0,avg_ttl=0\r\n");
    }
    text
}
