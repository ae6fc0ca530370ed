//! What comes bit by bit.

use super::ClientError;
use futures_util::{Stream, StreamExt};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Items that come one after the other, until there are no more or one is an error. A [`Stream`], and usable
/// without its extension traits by [`Items::next`]. Dropping it ends what fetches them.
pub struct Items<T>(Pin<Box<dyn Stream<Item = Result<T, ClientError>> + Send>>);

impl<T> Items<T> {
    pub(super) fn new(stream: impl Stream<Item = Result<T, ClientError>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next item; `None` at the end. Nothing is lost when the future is dropped before it is ready.
    ///
    /// # Errors
    /// [`ClientError`]; nothing comes after it.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        self.0.next().await
    }
}

impl<T> Stream for Items<T> {
    type Item = Result<T, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Items")
    }
}
