//! Settings: shown, changed, brought back.

use super::failover::Nature;
use super::{Client, ClientError};
use crate::node::handle::settings::{RollbackRequest, Settings, SettingsHistory, SettingsRequest};
use reqwest::Method;

impl Client {
    /// The settings in force, and which members have them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn settings(&self) -> Result<Settings, ClientError> {
        self.read(Nature::Read, "/v1/settings").await
    }

    /// All versions of the settings that are kept, the newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn settings_history(&self) -> Result<SettingsHistory, ClientError> {
        self.read(Nature::Read, "/v1/settings/history").await
    }

    /// Changes settings, all or none; with `dry_run` only tells what that would change.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn change_settings(
        &self,
        request: &SettingsRequest,
        dry_run: bool,
    ) -> Result<Settings, ClientError> {
        let path = format!("/v1/settings?dry_run={dry_run}");
        self.send(Nature::Govern, Method::PATCH, &path, request).await
    }

    /// Brings all settings back to what they were after a version; with `dry_run` only tells what that would change.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn roll_back_settings(
        &self,
        request: &RollbackRequest,
        dry_run: bool,
    ) -> Result<Settings, ClientError> {
        let path = format!("/v1/settings/rollback?dry_run={dry_run}");
        self.send(Nature::Govern, Method::POST, &path, request).await
    }
}
