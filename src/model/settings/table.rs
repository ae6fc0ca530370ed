//! The table of settings: the one place that knows their names, defaults, bounds and meanings.

use super::unit::{KIB, MIB, TIB, Unit};
use super::{Definition, REPLICATION_FACTOR_IN_FORCE, Settings, Value};
use crate::model::limits::{MAX_REPLICATION_FACTOR, MAX_VALUE_BYTES};

/// Every setting, in the order in which they are shown.
pub static DEFINITIONS: [Definition; 13] = [
    Definition {
        name: "replication_factor",
        default: "3",
        description: "how many members hold each record",
        managed: false,
        value: copies(|s| s.replication_factor.into(), |s, copies| s.replication_factor = narrow(copies)),
    },
    Definition {
        name: REPLICATION_FACTOR_IN_FORCE,
        default: "3",
        description: "how many members hold each record until a change of the replication factor is carried out",
        managed: true,
        value: copies(
            |s| s.replication_factor_in_force.into(),
            |s, copies| s.replication_factor_in_force = narrow(copies),
        ),
    },
    Definition {
        name: "write_level",
        default: "available",
        description: "how many owners must confirm a write that does not say",
        managed: false,
        value: level(|s| s.write_level.as_str(), |s, text| text.parse().map(|l| s.write_level = l).is_ok()),
    },
    Definition {
        name: "read_level",
        default: "one",
        description: "how many owners must answer a read that does not say",
        managed: false,
        value: level(|s| s.read_level.as_str(), |s, text| text.parse().map(|l| s.read_level = l).is_ok()),
    },
    Definition {
        name: "write_timeout",
        default: "1s",
        description: "how long a write waits for an owner",
        managed: false,
        value: Value::Number {
            unit: Unit::Milliseconds,
            min: 50,
            max: 60_000,
            get: |s| s.write_timeout_ms,
            set: |s, value| s.write_timeout_ms = value,
        },
    },
    Definition {
        name: "sync",
        default: "always",
        description: "when a copy counts: `always` once fsynced, `interval` once written",
        managed: false,
        value: Value::Choice {
            names: "`always` or `interval`",
            get: |s| s.sync.as_str(),
            set: |s, text| text.parse().map(|mode| s.sync = mode).is_ok(),
        },
    },
    Definition {
        name: "sync_interval",
        default: "1s",
        description: "how long written records wait for fsync when `sync` is `interval`",
        managed: false,
        value: Value::Number {
            unit: Unit::Milliseconds,
            min: 10,
            max: 10_000,
            get: |s| s.sync_interval_ms,
            set: |s, value| s.sync_interval_ms = value,
        },
    },
    Definition {
        name: "max_clock_ahead",
        default: "10s",
        description: "how far ahead of a member's wall clock another member's stamp may move its clock; \
                      a member whose clock is off by half of this stops stamping",
        managed: false,
        value: Value::Number {
            unit: Unit::Milliseconds,
            min: 1_000,
            max: 3_600_000,
            get: |s| s.max_clock_ahead_ms,
            set: |s, value| s.max_clock_ahead_ms = value,
        },
    },
    Definition {
        name: "gossip_interval",
        default: "500ms",
        description: "how often a member gossips",
        managed: false,
        value: Value::Number {
            unit: Unit::Milliseconds,
            min: 100,
            max: 5_000,
            get: |s| s.gossip_interval_ms,
            set: |s, value| s.gossip_interval_ms = value,
        },
    },
    Definition {
        name: "repair_bytes_per_second",
        default: "16MiB",
        description: "how many bytes of records a member sends and takes for repair and handoff, hints among them",
        managed: false,
        value: Value::Number {
            unit: Unit::Bytes,
            min: 64 * KIB,
            max: TIB,
            get: |s| s.repair_bytes_per_second,
            set: |s, value| s.repair_bytes_per_second = value,
        },
    },
    Definition {
        name: "scrub_bytes_per_second",
        default: "4MiB",
        description: "how fast a member reads through its stored records to find damage; 0 turns that off",
        managed: false,
        value: Value::Number {
            unit: Unit::Bytes,
            min: 0,
            max: TIB,
            get: |s| s.scrub_bytes_per_second,
            set: |s, value| s.scrub_bytes_per_second = value,
        },
    },
    Definition {
        name: "hint_bytes",
        default: "256MiB",
        description: "room for records that a member keeps for owners that did not confirm them; \
                      at least twice `max_value_bytes`",
        managed: false,
        value: Value::Number {
            unit: Unit::Bytes,
            min: MIB,
            max: TIB,
            get: |s| s.hint_bytes,
            set: |s, value| s.hint_bytes = value,
        },
    },
    Definition {
        name: "max_value_bytes",
        default: "1MiB",
        description: "the largest value that a client may store",
        managed: false,
        value: Value::Number {
            unit: Unit::Bytes,
            min: 1,
            max: MAX_VALUE_BYTES as u64,
            get: |s| s.max_value_bytes,
            set: |s, value| s.max_value_bytes = value,
        },
    },
];

const fn copies(get: fn(&Settings) -> u64, set: fn(&mut Settings, u64)) -> Value {
    Value::Number { unit: Unit::Plain, min: 1, max: MAX_REPLICATION_FACTOR as u64, get, set }
}

const fn level(get: fn(&Settings) -> &'static str, set: fn(&mut Settings, &str) -> bool) -> Value {
    Value::Choice { names: "`one`, `available`, `quorum` or `all`", get, set }
}

/// Numbers come here within their bounds, which fit.
fn narrow(copies: u64) -> u8 {
    u8::try_from(copies).unwrap_or(MAX_REPLICATION_FACTOR)
}
