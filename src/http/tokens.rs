//! The tokens of clients: made, listed and revoked.
//!
//! What who asks may do with which token is judged by the member, which knows what the tokens allow.

use super::MAX_CONTROL_BYTES;
use super::cluster::json;
use super::failure::Failure;
use super::names::name_in;
use super::query::Query;
use super::routes::Shared;
use crate::node::access::Caller;
use crate::node::handle::ControlError;
use crate::node::handle::tokens::{CreatedToken, TokenList, TokenRequest, TokenRow};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

/// `GET /v1/tokens`: those that who asks may make and revoke.
pub(super) async fn list(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<TokenList>, Failure> {
    Query::parse(&uri, &[])?;
    Ok(Json(shared.handle.tokens(caller).await?))
}

/// `POST /v1/tokens`
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    Query::parse(&uri, &[])?;
    let body = shared.bodies.read(&headers, body, "this request", MAX_CONTROL_BYTES).await?;
    let request: TokenRequest = json(&body.bytes)?;
    let created: CreatedToken = counted(&shared, shared.handle.create_token(request, caller).await)?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::CREATED, no_store, Json(created)).into_response())
}

/// `DELETE /v1/tokens/{name}`
pub(super) async fn revoke(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<TokenRow>, Failure> {
    let name = name_in(name)?;
    Query::parse(&uri, &[])?;
    Ok(Json(counted(&shared, shared.handle.revoke_token(name, caller).await)?))
}

fn counted<T>(shared: &Shared, answer: Result<T, ControlError>) -> Result<T, ControlError> {
    if let Err(ControlError::Forbidden(_)) = answer {
        shared.access.count_forbidden();
    }
    answer
}
