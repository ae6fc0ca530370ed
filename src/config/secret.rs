//! The cluster secret as text: never shown, wiped when dropped.

use super::member::read_bounded;
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// Bytes below which a secret is refused.
pub const MIN_SECRET_BYTES: usize = 16;
/// Bytes above which a secret is refused: longer ones are a mistaken file.
pub const MAX_SECRET_BYTES: usize = 1_024;

/// What is wrong with a secret; says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Too short to resist guessing.
    #[error(
        "the secret has {0} bytes and needs at least {MIN_SECRET_BYTES}: make a good one with `kith secret`"
    )]
    TooShort(usize),
    /// Longer than any secret.
    #[error("the secret has {0} bytes, more than {MAX_SECRET_BYTES}: name a file that `kith secret` made")]
    TooLong(usize),
}

/// Why a file gives no secret; says nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SecretFileError(String);

/// A cluster secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// A secret from text; spaces and line ends around it don't count.
    ///
    /// # Errors
    /// When it is too short or too long.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        match text.len() {
            bytes if bytes < MIN_SECRET_BYTES => Err(SecretError::TooShort(bytes)),
            bytes if bytes > MAX_SECRET_BYTES => Err(SecretError::TooLong(bytes)),
            _ => Ok(Self(Zeroizing::new(text.to_owned()))),
        }
    }

    /// The secret that stands in a file.
    ///
    /// # Errors
    /// When it can't be read, or what it holds can't be a secret.
    pub fn read(file: &Path) -> Result<Self, SecretFileError> {
        let text =
            read_bounded(file, 4 * MAX_SECRET_BYTES as u64).map(Zeroizing::new).map_err(SecretFileError)?;
        Self::new(&text).map_err(|error| SecretFileError(format!("{}: {error}", file.display())))
    }

    /// The secret itself, for the one place that stretches it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(not shown)")
    }
}
