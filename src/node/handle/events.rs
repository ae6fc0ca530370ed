//! What a member noticed lately, as data that is also JSON.
//!
//! The forms are those of [`status`](super::status).

use super::{Control, Handle, Request, Stopped};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The asked member started.
    Started,
    /// The asked member came into another state.
    State,
    /// A member was let in.
    Joining,
    /// A member owns its share.
    Active,
    /// A member hands over what it holds.
    Leaving,
    /// A member left.
    Left,
    /// A member was removed.
    Removed,
    /// A member is heard.
    Alive,
    /// A member is heard no more.
    Dead,
    /// A cluster-wide setting has another value.
    Setting,
    /// Partitions that the asked member owns are being copied, or are complete again.
    Partitions,
    /// Something is wrong with the asked member's disk, or right again.
    Storage,
    /// The asked member's clock is off, or right again.
    Clock,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number; they rise by one within a life of the member.
    pub number: u64,
    /// When the member noticed, in milliseconds since the Unix epoch.
    pub noticed_ms: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// The name of the member that it is about, if it is about one.
    pub member: Option<String>,
    /// What happened, as a sentence.
    pub text: String,
}

/// What a member noticed lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Events {
    /// Which of the member's lives this is: numbers begin anew with each.
    pub incarnation: u64,
    /// What that life drew at random at its start: a member that was made anew begins with incarnation 1 again.
    pub life: String,
    /// The latest events, the last one at the end.
    pub events: Vec<Event>,
}

impl Handle {
    /// What the member noticed behind the event of a number; 0 for all that it remembers.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn events(&self, after: u64) -> Result<Events, Stopped> {
        self.ask(|reply| Request::Control(Control::Events { after, reply })).await
    }
}
