//! Settings: shown, changed, brought back.

use super::MAX_CONTROL_BYTES;
use super::cluster::json;
use super::failure::Failure;
use super::query::Query;
use super::routes::Shared;
use crate::node::access::Caller;
use crate::node::handle::settings::{RollbackRequest, Settings, SettingsHistory, SettingsRequest};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::{Extension, Json};
use serde::de::DeserializeOwned;

/// `GET /v1/settings`
pub(super) async fn show(State(shared): State<Shared>, uri: Uri) -> Result<Json<Settings>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.settings().await?))
}

/// `GET /v1/settings/history`
pub(super) async fn history(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<SettingsHistory>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.settings_history().await?))
}

/// `PATCH /v1/settings`
pub(super) async fn change(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Settings>, Failure> {
    let (request, dry_run): (SettingsRequest, _) = asked(&shared, &uri, &headers, body).await?;
    Ok(Json(shared.handle.change_settings(request, caller, dry_run).await?))
}

/// `POST /v1/settings/rollback`
pub(super) async fn roll_back(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Settings>, Failure> {
    let (request, dry_run): (RollbackRequest, _) = asked(&shared, &uri, &headers, body).await?;
    Ok(Json(shared.handle.roll_back_settings(request, caller, dry_run).await?))
}

/// What is to be changed, and whether it is only to be told what that would change.
async fn asked<T: DeserializeOwned>(
    shared: &Shared,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<(T, bool), Failure> {
    let dry_run = Query::parse(uri, &["dry_run"])?.flag("dry_run")?.unwrap_or(false);
    let body = shared.bodies.read(headers, body, "this request", MAX_CONTROL_BYTES).await?;
    Ok((json(&body.bytes)?, dry_run))
}
