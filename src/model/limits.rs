//! Every bound that is fixed when kith is built, in one place.
//!
//! What an operator may change is in [`super::settings`]; a setting never exceeds these.

/// Bytes in a collection's name.
pub const MAX_COLLECTION_BYTES: usize = 64;
/// Bytes in a key.
pub const MAX_KEY_BYTES: usize = 4_096;
/// Bytes in a value; the setting `max_value_bytes` may be lower, never higher.
pub const MAX_VALUE_BYTES: usize = 8 << 20;
/// (member, incarnation) pairs in one counter.
pub const MAX_COUNTER_PAIRS: usize = 4_096;
/// Bytes in one record's canonical form: header, names, expiry and the largest value.
pub const MAX_RECORD_BYTES: usize =
    super::record::HEADER_BYTES + MAX_COLLECTION_BYTES + MAX_KEY_BYTES + 8 + MAX_VALUE_BYTES;
/// Bytes in one frame between members, before sealing: the largest record and its company.
pub const MAX_FRAME_BYTES: usize = MAX_RECORD_BYTES + (256 << 10);
/// Leaves in a partition's hash tree.
pub const LEAVES_PER_PARTITION: usize = 64;
/// Bits of the largest number of partitions.
pub const MAX_PARTITION_BITS: u8 = 12;
/// Partitions of a cluster, those of all collections that are placed by themselves among them: two members that compare tell the
/// leaves of each in one frame, and each is looked at for each pass.
pub const MAX_PARTITIONS: usize = 1 << 13;
/// Partitions of a cluster that was created without saying: 1 << 8.
pub const DEFAULT_PARTITION_BITS: u8 = 8;
/// Copies of a record.
pub const MAX_REPLICATION_FACTOR: u8 = 7;
/// Members in the roster, removed ones not counted.
pub const MAX_MEMBERS: usize = 400;
/// Joining members that own partitions at a time; others wait until one of these is active. Each of
/// them copies all that it would own alone, and every write of that reaches it.
pub const MAX_ARRIVING: usize = 4;
/// Bytes of a member's, cluster's or zone's name.
pub const MAX_NAME_BYTES: usize = 63;
/// Keys in one page of a scan.
pub const MAX_SCAN_LIMIT: usize = 10_000;
