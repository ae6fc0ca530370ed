//! Why a member does not answer about its cluster, or change it.

/// What one does to come back after leaving or being removed.
const REJOIN: &str = "to join again as a new member, start it with an empty data directory (`kith export` on it still reads what the old one holds)";

/// Why a question about the cluster got no answer, or a change of it was refused. Nothing was
/// changed, except as `Stopping` says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The member belongs to no cluster.
    #[error(
        "this member belongs to no cluster yet; create one with `kith init` or join one with `kith join`"
    )]
    NoCluster,
    /// The member is not far enough in its start.
    #[error("this member is still starting; `kith status` shows the step it is at")]
    Starting,
    /// A member is about to create the cluster.
    #[error(
        "member `{0}` is about to create the cluster, and this member will join it; if `kith status` shows no cluster after some seconds, repeat this"
    )]
    Creating(String),
    /// The member belongs to a cluster, but its records of it are gone.
    #[error(
        "this member belongs to the cluster `{name}` ({id}), but its data directory has lost the cluster's roster and settings; {what_now}"
    )]
    RecordsLost {
        /// That cluster's name.
        name: String,
        /// Its id.
        id: String,
        /// What it does about it, and what a person can do.
        what_now: &'static str,
    },
    /// The member ends or has ended; whether a change was made is unknown.
    #[error("this member is shutting down; ask another member")]
    Stopping,
    /// The member belongs to a cluster already, and not to the one that was asked for.
    #[error(
        "this member belongs to the cluster `{name}` ({id}) already; only an empty data directory can enter another"
    )]
    OtherCluster {
        /// That cluster's name.
        name: String,
        /// Its id.
        id: String,
    },
    /// The same cluster was created before with another content.
    #[error(
        "the cluster exists already and differs in {0}; `kith init` repeats only what was asked the first time, and `kith settings set` changes settings"
    )]
    OtherContent(String),
    /// What a new cluster was asked to be is not possible.
    #[error("a cluster can't be created like this: {0}")]
    InvalidCluster(String),
    /// Nobody answered at the address.
    #[error("no member answered at {address}: {reason}; give the address of its peer port (7400 by default)")]
    Unreachable {
        /// Where it was tried.
        address: String,
        /// What happened.
        reason: String,
    },
    /// A member answered and refused.
    #[error("{address} refuses this member: {message}")]
    Refused {
        /// Who refused.
        address: String,
        /// The refusal's name for programs, in snake case.
        code: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The member left the cluster.
    #[error("this member left the cluster `{0}`; {REJOIN}")]
    Left(String),
    /// The member was removed from the cluster.
    #[error("this member was removed from the cluster `{cluster}` ({reason}); {REJOIN}")]
    Removed {
        /// The cluster's name.
        cluster: String,
        /// Why, or who says so.
        reason: String,
    },
    /// The member's data directory is a copy, or an old one that was restored.
    #[error(
        "this member serves no more: its data directory is a copy, or an old one that was restored ({}); stop it and move the data directory away, run `kith remove {name}` on another member unless the other copy runs, and start it with an empty data directory to join as a new member (under another `name` if the other copy runs)",
        told_life(by, *seen, *own)
    )]
    Outdated {
        /// The member's name.
        name: String,
        /// The member that says so.
        by: String,
        /// The highest incarnation that it had seen.
        seen: u64,
        /// The one of this data directory.
        own: u64,
    },
    /// The member can't leave as it is no full member.
    #[error(
        "this member is no active member yet ({0}); wait until `kith members` shows it active, or stop it and let another member `kith remove` it"
    )]
    NotActive(&'static str),
    /// Nobody would be left to take over.
    #[error(
        "no other active member would be left to take over what this one holds; add a member first, or just stop this one: nothing is lost"
    )]
    LastMember,
    /// There is no such member.
    #[error("there is no member `{name}`{}", nearest.as_ref().map_or_else(String::new, |nearest| format!("; the nearest name is `{nearest}`")))]
    UnknownMember {
        /// What was asked for.
        name: String,
        /// The member whose name is most like it.
        nearest: Option<String>,
    },
    /// A member can't remove itself.
    #[error("`{0}` is this member itself; `kith leave` hands over what it holds and lets it go")]
    Oneself(String),
    /// The member to be removed lives.
    #[error(
        "member `{0}` is alive; run `kith leave` on it, which loses nothing, or remove it all the same with `--force`"
    )]
    Alive(String),
    /// What only the member holds would be lost.
    #[error(
        "of {partitions} partitions no other live owner is known to hold everything, so what only `{name}` has would be lost; start it again, or remove it all the same with `--force`"
    )]
    LastCopy {
        /// The member to be removed.
        name: String,
        /// In how many partitions.
        partitions: usize,
    },
    /// Too few members can be heard.
    #[error(
        "only {live} of {members} members can be heard, and a member is removed by a majority: another one may remove this side meanwhile; repair the network, or remove it all the same with `--force` if the others are gone for good"
    )]
    NoMajority {
        /// Members that were heard, this one included.
        live: usize,
        /// Members in the roster.
        members: usize,
    },
    /// A change of settings that can't be.
    #[error("nothing was changed: {0}")]
    InvalidSettings(String),
    /// No such version of the settings is known.
    #[error(
        "nothing was changed: there is no version `{0}` of the settings; `kith settings history` lists them"
    )]
    UnknownVersion(String),
    /// A token that can't be. Nothing was changed.
    #[error("no token was made: {0}")]
    InvalidToken(String),
    /// The first token must be able to make others.
    #[error(
        "no token was made: the first one needs the role `admin` in all collections, for nobody could make further ones; make `kith token create admin --role admin` first"
    )]
    FirstToken,
    /// There is a token of this name.
    #[error("there is a token `{0}` already; revoke it first, or take another name")]
    TokenExists(String),
    /// There is no such token.
    #[error("there is no token `{name}`{}", nearest.as_ref().map_or_else(String::new, |nearest| format!("; the nearest name is `{nearest}`")))]
    UnknownToken {
        /// What was asked for.
        name: String,
        /// The token whose name is most like it.
        nearest: Option<String>,
    },
    /// Nobody could change tokens any more.
    #[error(
        "`{0}` is the last token with the role `admin` in all collections; revoke the others first, or make another admin"
    )]
    LastAdminToken(String),
    /// A secret that can't be.
    #[error("nothing was changed: {0}")]
    InvalidSecret(String),
    /// A step of changing the secret that can't be taken now.
    #[error("nothing was changed: {0}")]
    SecretStep(String),
    /// Who asks may not do that.
    #[error("{0}")]
    Forbidden(String),
    /// A change was made here, and too few others have confirmed it.
    #[error(
        "the change was made on this member, but not confirmed by enough others in time ({0}); it spreads when they can be reached, look before you repeat it"
    )]
    Unconfirmed(String),
    /// The member's storage failed meanwhile.
    #[error("this member's storage failed ({0}); see its log")]
    Storage(String),
}

/// What a member has seen of a data directory's lives, in words.
fn told_life(by: &str, seen: u64, own: u64) -> String {
    if seen == own {
        format!("`{by}` has seen its incarnation {seen} from another start of it")
    } else {
        format!("`{by}` has seen incarnation {seen} of it, and here it is {own}")
    }
}

impl ControlError {
    /// The error's name for programs, in snake case.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NoCluster => "no_cluster",
            Self::Starting => "starting",
            Self::Creating(_) => "creating",
            Self::RecordsLost { .. } => "records_lost",
            Self::Stopping => "stopping",
            Self::OtherCluster { .. } => "other_cluster",
            Self::OtherContent(_) => "other_content",
            Self::InvalidCluster(_) => "invalid_cluster",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { code, .. } => code,
            Self::Left(_) => "left",
            Self::Removed { .. } => "removed",
            Self::Outdated { .. } => "outdated",
            Self::NotActive(_) => "not_active",
            Self::LastMember => "last_member",
            Self::UnknownMember { .. } => "unknown_member",
            Self::Oneself(_) => "oneself",
            Self::Alive(_) => "alive",
            Self::LastCopy { .. } => "last_copy",
            Self::NoMajority { .. } => "no_majority",
            Self::InvalidSettings(_) => "invalid_settings",
            Self::UnknownVersion(_) => "unknown_version",
            Self::InvalidToken(_) => "invalid_token",
            Self::FirstToken => "first_token",
            Self::TokenExists(_) => "token_exists",
            Self::UnknownToken { .. } => "unknown_token",
            Self::LastAdminToken(_) => "last_admin_token",
            Self::InvalidSecret(_) => "invalid_secret",
            Self::SecretStep(_) => "secret_step",
            Self::Forbidden(_) => "forbidden",
            Self::Unconfirmed(_) => "unconfirmed",
            Self::Storage(_) => "storage",
        }
    }
}
