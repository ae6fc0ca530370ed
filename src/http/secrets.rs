//! Changing the cluster secret: how far it is, and its steps.

use super::MAX_CONTROL_BYTES;
use super::cluster::json;
use super::connection::Arrival;
use super::failure::Failure;
use super::query::Query;
use super::routes::Shared;
use crate::node::access::Caller;
use crate::node::handle::secrets::{AddRequest, SecretState};
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::{Extension, Json};

/// `GET /v1/secret`
pub(super) async fn show(State(shared): State<Shared>, uri: Uri) -> Result<Json<SecretState>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.secret().await?))
}

/// `POST /v1/secret/add`: only where nobody reads along.
pub(super) async fn add(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SecretState>, Failure> {
    Query::parse(&uri, &[])?;
    if !arrival.origin.local && !arrival.origin.encrypted {
        let message = "a secret is taken only over TLS or from the member's own machine, and others may have read this one on its way: make another one and add that";
        let failure = Failure::new(StatusCode::FORBIDDEN, "not_private", message);
        return Err(shared.bodies.refuse(&headers, body, failure));
    }
    let body = shared.bodies.read(&headers, body, "this request", MAX_CONTROL_BYTES).await?;
    // What is wrong with it is not repeated: it may be the secret itself.
    let wrong = |_| Failure::bad_document("the body is not {\"secret\": \"TEXT\"}");
    let request: AddRequest = json(&body.bytes).map_err(wrong)?;
    Ok(Json(shared.handle.add_secret(request, caller).await?))
}

/// `POST /v1/secret/use`
pub(super) async fn use_new(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<SecretState>, Failure> {
    let force = Query::parse(&uri, &["force"])?.flag("force")?.unwrap_or(false);
    Ok(Json(shared.handle.use_secret(force, caller).await?))
}

/// `POST /v1/secret/retire`
pub(super) async fn retire(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<SecretState>, Failure> {
    let force = Query::parse(&uri, &["force"])?.flag("force")?.unwrap_or(false);
    Ok(Json(shared.handle.retire_secret(force, caller).await?))
}
