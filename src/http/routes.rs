//! The list of routes, and what every request goes through.

use super::body::BodyRoom;
use super::connection::Turns;
use super::failure::Failure;
use super::{MAX_BODY_BYTES_IN_MEMORY, MetricsText, REQUEST_TIMEOUT, cluster, kv};
use crate::node::handle::Handle;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::time::Instant;

/// What handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) handle: Handle,
    pub(super) metrics: MetricsText,
    pub(super) bodies: BodyRoom,
}

/// What a person finds at `/`.
const INDEX: &str = "\
kith: a key-value store for machines that must stay writable whatever fails.

GET, PUT, DELETE  /v1/kv/{collection}/{key}   raw bytes; the key is percent-encoded
                      ?consistency=one|available|quorum|all  &ttl=10s (PUT)
                      request header  kith-after: TIMESTAMP (follow what was seen)
                      answer headers  kith-timestamp, kith-copies, kith-superseded
GET   /v1/kv/{collection}                     ?prefix= &after= &limit= &values=true|false
POST  /v1/batch                               lines or an array of {\"op\", \"collection\", \"key\", \"value\", \"ttl\"}
GET   /v1/status                              this member
GET   /v1/cluster                             the cluster and its members
GET   /v1/cluster/physical                    the members that gossip sees
GET   /v1/cluster/roster                      the members that were admitted
GET   /v1/cluster/placement                   ?collection= &key=   who owns what
POST  /v1/cluster/init                        {\"partitions\": 256, \"settings\": {}}   (both may be left out)
POST  /v1/cluster/join                        {\"address\": \"host:7400\"}
GET   /v1/settings                            the cluster's settings
GET   /health/live  /health/ready             200, or 503 with the reason
GET   /metrics                                for Prometheus

Errors are {\"error\": \"code\", \"message\": \"what happened and what to do\"}.
";

/// All routes, over one handle.
pub(super) fn router(handle: Handle, metrics: MetricsText) -> Router {
    let shared = Shared { handle, metrics, bodies: BodyRoom::new(MAX_BODY_BYTES_IN_MEMORY) };
    Router::new()
        .route("/", get(async || INDEX))
        .route("/v1/kv/{collection}", get(kv::list))
        .route("/v1/kv/{collection}/{*key}", get(kv::get).put(kv::put).delete(kv::delete))
        .route("/v1/batch", post(kv::batch))
        .route("/v1/status", get(cluster::status))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/cluster/physical", get(cluster::physical))
        .route("/v1/cluster/roster", get(cluster::roster))
        .route("/v1/cluster/placement", get(cluster::placement))
        .route("/v1/cluster/init", post(cluster::init))
        .route("/v1/cluster/join", post(cluster::join))
        .route("/v1/settings", get(cluster::settings))
        .route("/health/live", get(cluster::live))
        .route("/health/ready", get(cluster::ready))
        .route("/metrics", get(cluster::metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        // Each handler states its own limit.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(HttpMetrics::register(), attend))
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

/// Looked up once, used for every request.
#[derive(Clone)]
struct HttpMetrics {
    /// Answers by the first digit of their status, from 1.
    answers: [metrics::Counter; 5],
    seconds: metrics::Histogram,
}

impl HttpMetrics {
    fn register() -> Self {
        metrics::describe_counter!("kith_http_requests_total", "HTTP requests that were answered");
        metrics::describe_histogram!(
            "kith_http_request_seconds",
            metrics::Unit::Seconds,
            "Time from a request's head to its answer"
        );
        let answers = ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .map(|class| metrics::counter!("kith_http_requests_total", "status" => class));
        Self { answers, seconds: metrics::histogram!("kith_http_request_seconds") }
    }

    fn count(&self, status: StatusCode, began: Instant) {
        let class = usize::from(status.as_u16() / 100);
        if let Some(answers) = class.checked_sub(1).and_then(|class| self.answers.get(class)) {
            answers.increment(1);
        }
        self.seconds.record(began.elapsed());
    }
}

/// Bounds a request's time and counts it.
async fn attend(
    State(metrics): State<HttpMetrics>,
    ConnectInfo(turns): ConnectInfo<Turns>,
    request: Request,
    next: Next,
) -> Response {
    turns.begin();
    let began = Instant::now();
    let response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "the request took too long and was given up; whether a change was made is unknown, so read before you repeat it",
        )
        .into_response(),
    };
    metrics.count(response.status(), began);
    turns.end();
    response
}
