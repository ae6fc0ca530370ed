//! The member and its cluster: status, membership, placement, health and metrics.
//!
//! Before the member belongs to a cluster the node answers `no_cluster` to whatever needs one;
//! what is answered in every state says so below.

use super::failure::Failure;
use super::names::name_in;
use super::query::{Query, QueryError};
use super::routes::Shared;
use super::{HEALTH_TIMEOUT, MAX_CONTROL_BYTES};
use crate::model::key::DEFAULT;
use crate::node::access::Caller;
use crate::node::handle::Key;
use crate::node::handle::convergence::{Convergence, Superseded};
use crate::node::handle::events::Events;
use crate::node::handle::read::Object;
use crate::node::handle::status::{
    Cluster, InitRequest, JoinRequest, Physical, Placement, Removed, Roster, State as MemberState, Status,
};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `GET /v1/status`, in every state.
pub(super) async fn status(State(shared): State<Shared>, uri: Uri) -> Result<Json<Status>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.status().await?))
}

/// `GET /v1/events`, in every state.
pub(super) async fn events(State(shared): State<Shared>, uri: Uri) -> Result<Json<Events>, Failure> {
    let after = Query::parse(&uri, &["after"])?.whole_number("after")?.unwrap_or(0);
    let after = u64::try_from(after).map_err(|_| {
        let problem = "the `number` of the last event that was seen, or 0 for all".to_owned();
        QueryError::Invalid { name: "after", problem }
    })?;
    Ok(Json(shared.handle.events(after).await?))
}

/// `GET /v1/cluster`
pub(super) async fn cluster(State(shared): State<Shared>, uri: Uri) -> Result<Json<Cluster>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.cluster().await?))
}

/// `GET /v1/cluster/physical`, in every state.
pub(super) async fn physical(State(shared): State<Shared>, uri: Uri) -> Result<Json<Physical>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.physical().await?))
}

/// `GET /v1/cluster/roster`
pub(super) async fn roster(State(shared): State<Shared>, uri: Uri) -> Result<Json<Roster>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.roster().await?))
}

/// `GET /v1/cluster/placement`: of one key, or of every partition.
pub(super) async fn placement(State(shared): State<Shared>, uri: Uri) -> Result<Json<Placement>, Failure> {
    let query = Query::parse(&uri, &["collection", "key"])?;
    let collection = query.text("collection")?;
    let key = match query.bytes("key") {
        Some(key) => Some(Key::new(collection.as_deref().unwrap_or(DEFAULT), key.to_vec())?),
        None if collection.is_some() => {
            let problem = "it goes with a `key`; partitions hold all collections".to_owned();
            return Err(QueryError::Invalid { name: "collection", problem }.into());
        }
        None => None,
    };
    Ok(Json(shared.handle.placement(key).await?))
}

/// `GET /v1/cluster/convergence`
pub(super) async fn convergence(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Convergence>, Failure> {
    let roots = Query::parse(&uri, &["roots"])?.flag("roots")?.unwrap_or(false);
    Ok(Json(shared.handle.convergence(roots).await?))
}

/// `GET /v1/cluster/superseded`
pub(super) async fn superseded(State(shared): State<Shared>, uri: Uri) -> Result<Json<Superseded>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.superseded().await?))
}

/// `POST /v1/cluster/init`
pub(super) async fn init(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Cluster>, Failure> {
    Query::parse(&uri, &[])?;
    let body = shared.bodies.read(&headers, body, "this request", MAX_CONTROL_BYTES).await?;
    // Nothing to say is the usual case.
    let request: InitRequest =
        if body.bytes.trim_ascii().is_empty() { InitRequest::default() } else { json(&body.bytes)? };
    Ok(Json(shared.handle.init(request).await?))
}

/// `POST /v1/cluster/join`
pub(super) async fn join(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Cluster>, Failure> {
    Query::parse(&uri, &[])?;
    let body = shared.bodies.read(&headers, body, "this request", MAX_CONTROL_BYTES).await?;
    let request: JoinRequest = json(&body.bytes)?;
    Ok(Json(shared.handle.join(request.address).await?))
}

/// `POST /v1/cluster/leave`: begins it; the status shows how far it is.
pub(super) async fn leave(State(shared): State<Shared>, uri: Uri) -> Result<Json<Status>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.leave().await?))
}

/// `DELETE /v1/cluster/members/{name}`
pub(super) async fn remove(
    State(shared): State<Shared>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Removed>, Failure> {
    let name = name_in(name)?;
    let force = Query::parse(&uri, &["force"])?.flag("force")?.unwrap_or(false);
    Ok(Json(shared.handle.remove(name, force).await?))
}

pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map(|Object(document)| document)
        .map_err(|error| Failure::bad_document(format!("the body is not what it should be: {error}")))
}

/// What a health check that passed is told.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    state: MemberState,
    /// The step of its start that it is at, while it answers nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'static str>,
}

fn unhealthy(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
}

/// What the member says of itself, if it says anything in time.
async fn ask(shared: &Shared) -> Result<Status, Failure> {
    match tokio::time::timeout(HEALTH_TIMEOUT, shared.handle.status()).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(stopped)) => Err(stopped.into()),
        Err(_) => Err(unhealthy("stuck", "the member does not answer; see its log")),
    }
}

/// `GET /health/live`: whether the process does its work, whatever its cluster does. While it opens its storage, which may
/// take minutes, it can't be asked, and lives.
pub(super) async fn live(State(shared): State<Shared>) -> Result<Json<Health>, Failure> {
    let step = shared.access.step();
    let state = if step.is_some() { MemberState::Starting } else { ask(&shared).await?.state };
    Ok(Json(Health { state, step }))
}

/// `GET /health/ready`: whether clients should be sent here. Why not is for who may ask for the status.
pub(super) async fn ready(
    State(shared): State<Shared>,
    caller: Option<Extension<Caller>>,
) -> Result<Json<Health>, Failure> {
    if let Some(step) = shared.access.step() {
        let message = format!("the member is not ready (starting): its start is at the step `{step}`");
        return Err(unhealthy("not_ready", message));
    }
    let Status { state, warnings, .. } = ask(&shared).await?;
    if state == MemberState::Ready {
        return Ok(Json(Health { state, step: None }));
    }
    let why = match caller {
        None => "`kith status` shows why to who is let in".to_owned(),
        Some(_) if warnings.is_empty() => "`kith status` shows more".to_owned(),
        Some(_) => warnings.join("; "),
    };
    Err(unhealthy("not_ready", format!("the member is not ready ({state}): {why}")))
}

/// `GET /metrics`
pub(super) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.telemetry.render())
}
