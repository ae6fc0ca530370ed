//! What records take of memory.

use super::load;
use super::report::Case;
use super::servers::Target;
use anyhow::Result;
use std::fmt::Write as _;

/// Each key is written so many times more, so that checkpoints run.
const OVERWRITES: u64 = 5;

/// Resident memory of the server that clients talk to: idle, with records, with twice as many, and after these were
/// overwritten again and again. What a record takes is what one more of them takes.
pub fn compare(redis: &Target<'_>, kith: &Target<'_>, keys: u64) -> Result<String> {
    let (million, twice) = (keys as f64 / 1e6, 2.0 * keys as f64 / 1e6);
    let mut text = format!(
        "\n| resident memory, MB | idle | with {million} M records of {} bytes | with {twice} M | each record that was added, bytes | \
         its largest copy | after {OVERWRITES} overwrites of each |\n|---|---|---|---|---|---|---|\n",
        load::VALUE_BYTES,
    );
    let mut added = Vec::new();
    for target in [redis, kith] {
        let (idle, _) = target.resident_mb()?;
        load::fill(target, 0..keys)?;
        let (once, _) = target.resident_mb()?;
        load::fill(target, keys..2 * keys)?;
        let (both, copy) = target.resident_mb()?;
        let case = Case { test: "set", pipeline: 16, keys: 2 * keys, target: None, note: "" };
        load::measure(target, &case, OVERWRITES * 2 * keys)?;
        let (after, _) = target.resident_mb()?;
        let each = (both - once) * 1e6 / keys as f64;
        added.push(each);
        // Writing to a string can't fail.
        _ = writeln!(
            text,
            "| {} | {idle:.0} | {once:.0} | {both:.0} | {each:.0} | {copy:.0} | {after:.0} |",
            target.name
        );
    }
    if let [redis, kith] = added[..] {
        let verdict = if kith <= redis { "holds" } else { "**not met**" };
        _ = writeln!(
            text,
            "\nEach record that was added: {:.2} × Redis (target: ≤ 1): {verdict}.",
            kith / redis
        );
    }
    Ok(text)
}
