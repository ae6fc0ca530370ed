//! Settings as data that is also JSON, and what can be asked about them.

use super::{ControlError, Handle, Request};
use crate::node::access::Caller;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Equal on members that know the same changes of settings.
    pub digest: String,
    /// The last change that has effect on this member; `created` before the first.
    pub version: String,
    /// Every setting of the cluster, by name.
    pub entries: Vec<SettingRow>,
    /// Collections that have settings of their own, or a replication factor in force of their own.
    #[serde(default)]
    pub collections: Vec<CollectionRow>,
    /// Collections that may have a replication factor of their own, those counted that once had one; 0 where a member of
    /// an older version does not tell.
    #[serde(default)]
    pub most_own_factors: u32,
    /// What each member has in force, as far as this one knows.
    #[serde(default)]
    pub members: Vec<AppliedRow>,
    /// Changes that have no effect on this member, because another version of kith made them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedRow>,
    /// In the answer to a change: what it changed, or would change. Empty: all was so already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<Vec<DifferenceRow>>,
}

/// One cluster-wide setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingRow {
    /// Its name.
    pub name: String,
    /// The value in force, as it is written in `kith init NAME=VALUE`.
    pub value: String,
    /// The value that a cluster has when nobody set another.
    pub default: String,
    /// When it was set: a timestamp as text; absent for a default.
    pub timestamp: Option<String>,
    /// What it does, in a sentence.
    pub description: String,
    /// Whether it follows from other settings by itself, and nobody sets it.
    #[serde(default)]
    pub managed: bool,
}

/// A collection with settings of its own, or a replication factor in force of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectionRow {
    /// The collection.
    pub collection: String,
    /// Every setting that collections may have, by name.
    pub entries: Vec<CollectionSettingRow>,
    /// How many members hold each record until a change is carried out; absent for a collection that never had a
    /// replication factor of its own. It stays when that is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor_in_force: Option<u8>,
}

/// One setting of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectionSettingRow {
    /// Its name.
    pub name: String,
    /// The collection's own value; absent where it has the cluster's.
    pub value: Option<String>,
    /// What the cluster has; absent where it has none.
    pub inherited: Option<String>,
    /// What it does, in a sentence.
    pub description: String,
}

/// What a member has in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppliedRow {
    /// The member's name.
    pub name: String,
    /// Whether it has the same in force as this member; absent while it can't be heard.
    pub applied: Option<bool>,
    /// The last change that has effect there; absent while it can't be heard.
    pub version: Option<String>,
    /// Changes that have no effect there.
    pub refused: u32,
}

/// A change without effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedRow {
    /// Its version.
    pub version: String,
    /// Why, and what to do.
    pub reason: String,
}

/// What one setting was and is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DifferenceRow {
    /// The collection that it is about; absent for the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// The setting.
    pub name: String,
    /// What it was; absent where a collection had no value of its own.
    pub from: Option<String>,
    /// What it is.
    pub to: Option<String>,
}

/// All versions of the settings that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingsHistory {
    /// The newest first; the last one is how the cluster was created.
    pub versions: Vec<VersionRow>,
}

/// One version of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionRow {
    /// Its name, which `kith settings rollback` takes.
    pub version: String,
    /// When it was made, by the clock of the member that was asked: milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its timestamp; later ones win.
    pub timestamp: String,
    /// The token with which it was asked for; absent where none was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The member that was asked; absent for the cluster's creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The version that it brought back, if it did that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<String>,
    /// What it changed.
    pub differences: Vec<DifferenceRow>,
    /// Why it has no effect on this member, if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Settings to be changed, all or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettingsRequest {
    /// Values by name, as they are written in `kith settings set NAME=VALUE`; `null` for the default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Option<String>>,
    /// The same for collections, by their names; `null` for what the cluster has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub collections: BTreeMap<String, BTreeMap<String, Option<String>>>,
}

/// A version that is to be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Its name, as the history tells it; `created` for what the cluster began with.
    pub version: String,
}

/// A question about the settings, or a change of them.
#[derive(Debug)]
pub enum Control {
    /// What is in force.
    Show {
        /// Where it goes.
        reply: oneshot::Sender<Result<Settings, ControlError>>,
    },
    /// All versions that are kept.
    History {
        /// Where they go.
        reply: oneshot::Sender<Result<SettingsHistory, ControlError>>,
    },
    /// Changes settings, all or none.
    Change {
        /// Which.
        request: SettingsRequest,
        /// Who asks.
        by: Caller,
        /// Only tell what it would change.
        dry_run: bool,
        /// Where the settings go once the change is durable.
        reply: oneshot::Sender<Result<Settings, ControlError>>,
    },
    /// Brings all settings back to what they were.
    Rollback {
        /// To which version.
        request: RollbackRequest,
        /// Who asks.
        by: Caller,
        /// Only tell what it would change.
        dry_run: bool,
        /// Where the settings go once the change is durable.
        reply: oneshot::Sender<Result<Settings, ControlError>>,
    },
}

impl Handle {
    /// The settings in force.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn settings(&self) -> Result<Settings, ControlError> {
        self.ask(|reply| control(Control::Show { reply })).await?
    }

    /// All versions of the settings that are kept.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn settings_history(&self) -> Result<SettingsHistory, ControlError> {
        self.ask(|reply| control(Control::History { reply })).await?
    }

    /// Changes settings, all or none; with `dry_run` only tells what that would change.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::InvalidSettings`] names all that is wrong.
    pub async fn change_settings(
        &self,
        request: SettingsRequest,
        by: Caller,
        dry_run: bool,
    ) -> Result<Settings, ControlError> {
        self.ask(|reply| control(Control::Change { request, by, dry_run, reply })).await?
    }

    /// Brings all settings back to what they were after a version; with `dry_run` only tells what that would change.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::UnknownVersion`].
    pub async fn roll_back_settings(
        &self,
        request: RollbackRequest,
        by: Caller,
        dry_run: bool,
    ) -> Result<Settings, ControlError> {
        self.ask(|reply| control(Control::Rollback { request, by, dry_run, reply })).await?
    }
}

const fn control(control: Control) -> Request {
    Request::Control(super::Control::Settings(control))
}
