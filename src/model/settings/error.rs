//! Why a change of settings is refused, in words that say what to do.

use super::DEFAULT_VALUE;
use super::collection::MAX_COLLECTIONS;
use crate::model::key::KeyError;

/// Why a change of settings is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// The number of partitions is no setting.
    #[error(
        "the number of partitions is fixed when the cluster is created (`kith init --partitions`, or `partitions` below `[create]` in the file of the member that creates it)"
    )]
    Partitions,
    /// There is no such setting.
    #[error("there is no setting `{}`; {}", shorten(.name), hint(*nearest))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The known name that is most like it, if one is.
        nearest: Option<&'static str>,
    },
    /// Collections have no such setting.
    #[error("a collection has no setting `{}`; {}", shorten(.name), hint(*nearest))]
    UnknownOfCollection {
        /// What was asked for.
        name: String,
        /// The known name that is most like it, if one is.
        nearest: Option<&'static str>,
    },
    /// No collection can have that name.
    #[error("`{}` can't name a collection: {error}", shorten(.name))]
    Collection {
        /// What was asked for.
        name: String,
        /// Which rule is broken.
        error: KeyError,
    },
    /// The collection is kith's own.
    #[error("`{}` is kith's own and has no settings; name a collection of clients", shorten(.0))]
    SystemCollection(String),
    /// Too many collections would have settings of their own.
    #[error(
        "{0} collections would have settings of their own, and {MAX_COLLECTIONS} may; take some back with NAME={DEFAULT_VALUE}"
    )]
    TooManyCollections(usize),
    /// Too many collections would have a replication factor of their own.
    #[error(
        "{wanted} collections would have a `replication_factor` of their own or once had one, and {most} may in a cluster of so many partitions; let collections share the cluster's"
    )]
    TooManyFactors {
        /// How many there would be.
        wanted: usize,
        /// How many there may be.
        most: usize,
    },
    /// kith sets it by itself.
    #[error("`{0}` is kept by kith itself; change `replication_factor` and it follows")]
    Managed(&'static str),
    /// One change names it more than once.
    #[error("`{0}` is set more than once in one change; give it one value")]
    Repeated(&'static str),
    /// The text can't be read.
    #[error("`{name}` can't be `{}`; use {expected}", shorten(.value))]
    Unreadable {
        /// The setting.
        name: &'static str,
        /// The text.
        value: String,
        /// What fits.
        expected: &'static str,
    },
    /// The value is too low or too high.
    #[error("`{name}` can't be `{}`; it must be from {min} to {max}", shorten(.value))]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// The text.
        value: String,
        /// The lowest value, as text.
        min: String,
        /// The highest value, as text.
        max: String,
    },
    /// Two settings don't go together.
    #[error(
        "`hint_bytes` ({hint_bytes}) must be at least twice `max_value_bytes` ({max_value_bytes}); change both together"
    )]
    HintsTooSmall {
        /// What `hint_bytes` would be.
        hint_bytes: String,
        /// What `max_value_bytes` would be.
        max_value_bytes: String,
    },
}

pub(super) const SHOWN_CHARACTERS: usize = 64;

/// What one does whose name is unknown.
fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "`kith settings show` lists them".to_owned(),
        |nearest| format!("the nearest name is `{nearest}`"),
    )
}

/// What a person sees of a text from outside: not more than fits on a line.
pub(super) fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown.escape_debug().to_string()
}
