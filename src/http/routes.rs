//! The list of routes, and what every request goes through.

use super::answers::AnswerRoom;
use super::body::BodyRoom;
use super::connection::Arrival;
use super::failure::Failure;
use super::{
    MAX_ANSWER_BYTES_IN_MEMORY, MAX_BODY_BYTES_IN_MEMORY, REQUEST_TIMEOUT, access, batch, cluster, kv,
    listing, openapi, page, secrets, settings, tokens, watch,
};
use crate::node::access::{Access, Guard};
use crate::node::handle::Handle;
use crate::telemetry::Telemetry;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use std::sync::Arc;
use std::time::Instant;

/// What handlers share. Every request clones it more than once on its way.
pub(super) type Shared = Arc<Parts>;

/// See [`Shared`].
pub(super) struct Parts {
    pub(super) handle: Handle,
    pub(super) access: Access,
    /// The host by which clients are told to reach this member.
    pub(super) advertised: Arc<str>,
    pub(super) telemetry: Telemetry,
    pub(super) bodies: BodyRoom,
    pub(super) answers: AnswerRoom,
}

/// What a person finds at `/` who uses no browser.
pub(super) const INDEX: &str = "\
kith: a key-value store for machines that must stay writable whatever fails.

GET, PUT, DELETE  /v1/kv/{collection}/{key}   raw bytes; the key is percent-encoded
                      ?consistency=one|available|quorum|all  &ttl=10s|none (PUT)
                      request headers  kith-after: TIMESTAMP (follow what was seen), Range: bytes=0-99,
                        If-Match: \"TIMESTAMP\" or *, If-None-Match: * (else 412)
                      answer headers  kith-timestamp, kith-ttl, ETag, kith-copies, kith-superseded
POST  /v1/kv/{collection}/{key}               ?increment=N   add to a counter
GET   /v1/kv/{collection}                     ?prefix= &start= &end= &reverse=true &limit= &values=false
                      &after=NEXT: the page behind the one that said so
                      &held=true: only what this member itself holds, also when it left or was removed
GET   /v1/kv                                  ?limit= &after=NEXT: collections that this member holds records of
GET   /v1/watch/{collection}                  ?prefix= &cursor= &values=true|false   server-sent events: reset, put,
                      delete, synced; the `id` of the last one is a cursor (or header  last-event-id)
POST  /v1/batch                               lines or an array of {\"op\": \"get|put|delete|increment\", \"collection\",
                      \"key\", \"value\", \"ttl\", \"delta\", \"if\": \"absent|present|TIMESTAMP\"}; in order on each key
GET   /v1/status                              this member
GET   /v1/events                              ?after=NUMBER   what this member noticed lately, the last at the end
GET   /v1/cluster                             the cluster and its members
GET   /v1/cluster/physical                    the members that gossip sees
GET   /v1/cluster/roster                      the members that were admitted
GET   /v1/cluster/placement                   ?collection= &key=   who owns what
GET   /v1/cluster/convergence                 ?roots=true   whether this member and the others hold the same
GET   /v1/cluster/superseded                  writes that lost to concurrent ones, as this member knows
POST  /v1/cluster/init                        {\"partitions\": 256, \"settings\": {}}   (both may be left out)
POST  /v1/cluster/join                        {\"address\": \"host:7400\"}
POST  /v1/cluster/leave                       hand over what the member holds, and go; /v1/status shows how far it is
DELETE  /v1/cluster/members/{name}            ?force=true   fence a dead member for good
GET, PATCH  /v1/settings                      ?dry_run=true   {\"settings\": {\"replication_factor\": \"3\"},
                      \"collections\": {\"shop\": {\"default_ttl\": \"1h\"}}}; null takes a value back
GET   /v1/settings/history                    every change that is kept
POST  /v1/settings/rollback                   ?dry_run=true   {\"version\": \"7f3a9c21d0\"}
GET   /v1/secret                              how far a change of the cluster secret is on each member
POST  /v1/secret/add                          {\"secret\": \"...\"}   over TLS or from the member's machine only
POST  /v1/secret/use  /v1/secret/retire       ?force=true   the further steps, without members that are down
GET, POST  /v1/tokens                         {\"name\", \"grants\": [{\"role\", \"collections\": \"shop.*\"}]}
DELETE  /v1/tokens/{name}
GET   /health/live  /health/ready             200, or 503 with the state; why, for who is let in
GET   /metrics                                for Prometheus
GET   /v1/openapi.json                        all of this for programs, with every error

A browser finds a page at / from which people look at the cluster and change it.
With tokens set, requests show one: Authorization: Bearer TOKEN. /, /health and /v1/openapi.json are open.
Errors are {\"error\": \"code\", \"message\": \"what happened and what to do\"}.
";

/// All routes, over one handle.
pub(super) fn router(handle: Handle, guard: &Guard, telemetry: Telemetry) -> Router {
    let bodies = BodyRoom::new(MAX_BODY_BYTES_IN_MEMORY);
    let answers = AnswerRoom::new(MAX_ANSWER_BYTES_IN_MEMORY);
    let (access, advertised) = (guard.access.clone(), Arc::clone(&guard.advertised));
    let shared = Arc::new(Parts { handle, access, advertised, telemetry, bodies, answers });
    Router::new()
        .route("/", get(page::index))
        .route("/terminal/style.css", get(page::style))
        .route("/terminal/icon.svg", get(page::icon))
        .route("/terminal/script/{name}", get(page::script))
        .route("/v1/kv", get(listing::collections))
        .route("/v1/kv/{collection}", get(listing::list))
        .route("/v1/kv/{collection}/{*key}", get(kv::get).put(kv::put).post(kv::increment).delete(kv::delete))
        .route("/v1/watch/{collection}", get(watch::watch))
        .route("/v1/batch", post(batch::batch))
        .route("/v1/status", get(cluster::status))
        .route("/v1/events", get(cluster::events))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/cluster/physical", get(cluster::physical))
        .route("/v1/cluster/roster", get(cluster::roster))
        .route("/v1/cluster/placement", get(cluster::placement))
        .route("/v1/cluster/convergence", get(cluster::convergence))
        .route("/v1/cluster/superseded", get(cluster::superseded))
        .route("/v1/cluster/init", post(cluster::init))
        .route("/v1/cluster/join", post(cluster::join))
        .route("/v1/cluster/leave", post(cluster::leave))
        .route("/v1/cluster/members/{name}", delete(cluster::remove))
        .route("/v1/settings", get(settings::show).patch(settings::change))
        .route("/v1/settings/history", get(settings::history))
        .route("/v1/settings/rollback", post(settings::roll_back))
        .route("/v1/secret", get(secrets::show))
        .route("/v1/secret/add", post(secrets::add))
        .route("/v1/secret/use", post(secrets::use_new))
        .route("/v1/secret/retire", post(secrets::retire))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{name}", delete(tokens::revoke))
        .route("/v1/openapi.json", get(openapi::serve))
        .route("/health/live", get(cluster::live))
        .route("/health/ready", get(cluster::ready))
        .route("/metrics", get(cluster::metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        // Each handler states its own limit.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), access::admit))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), attend))
        .with_state(shared)
}

async fn no_route(uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(100).collect();
    Failure::new(
        StatusCode::NOT_FOUND,
        "no_route",
        format!("there is nothing at {path}; GET / lists what there is"),
    )
}

async fn no_method(method: Method, uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(100).collect();
    let message = format!("{method} is not offered at {path}; GET / lists what is");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "no_method", message)
}

/// The pattern of the route that a path takes, as metrics name it; never what a client sent.
fn route_of(path: &str) -> &'static str {
    const EXACT: [&str; 28] = [
        "/",
        "/terminal/style.css",
        "/terminal/icon.svg",
        "/v1/kv",
        "/v1/batch",
        "/v1/status",
        "/v1/events",
        "/v1/cluster",
        "/v1/cluster/physical",
        "/v1/cluster/roster",
        "/v1/cluster/placement",
        "/v1/cluster/convergence",
        "/v1/cluster/superseded",
        "/v1/cluster/init",
        "/v1/cluster/join",
        "/v1/cluster/leave",
        "/v1/settings",
        "/v1/settings/history",
        "/v1/settings/rollback",
        "/v1/secret",
        "/v1/secret/add",
        "/v1/secret/use",
        "/v1/secret/retire",
        "/v1/tokens",
        "/v1/openapi.json",
        "/health/live",
        "/health/ready",
        "/metrics",
    ];
    match path.strip_prefix("/v1/kv/") {
        Some(names) if names.contains('/') => "/v1/kv/{collection}/{key}",
        Some(_) => "/v1/kv/{collection}",
        None if path.starts_with("/v1/tokens/") => "/v1/tokens/{name}",
        None if path.starts_with("/terminal/script/") => "/terminal/script/{name}",
        None if path.starts_with("/v1/watch/") => "/v1/watch/{collection}",
        None if path.starts_with("/v1/cluster/members/") => "/v1/cluster/members/{name}",
        None => EXACT.into_iter().find(|exact| *exact == path).unwrap_or("other"),
    }
}

/// Bounds a request's time and counts it.
async fn attend(
    State(shared): State<Shared>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    request: Request,
    next: Next,
) -> Response {
    arrival.turns.begin();
    let (began, route) = (Instant::now(), route_of(request.uri().path()));
    let response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "the request took too long and was given up; whether a change was made is unknown, so read before you repeat it",
        )
        .into_response(),
    };
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    shared.telemetry.metrics().http.record(route, response.status().as_u16(), micros);
    arrival.turns.end();
    response
}
