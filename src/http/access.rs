//! Who may ask what over HTTP.
//!
//! Every request passes [`admit`]: it looks up what its route takes ([`need`]), judges what the client
//! shows (`Authorization: Bearer TOKEN`), and leaves the [`Caller`] with the request for handlers whose
//! bodies name further collections.
//!
//! Invariants: a route that the table does not know takes an admin of everything, so a forgotten one is
//! closed; only the health checks, the list of routes and the page's own files are open to everybody.
//!
//! A browser that may come here runs the pages of strangers, and these may send requests here. While no token
//! is needed, whatever a page of another origin sends is refused. Browsers tell it: the request has an `Origin` that is not
//! this member's, or `Sec-Fetch-Site` says so (an image or a script of that page has no `Origin`). A page whose owner made its
//! own name point here (DNS rebinding) looks like one of this member, so who shows no token must
//! name it by an address, by a name that nobody can make point here, or by the host that the member's file advertises. A token is
//! never sent by a browser of itself, so who shows one is asked nothing further.

use super::START_TIMEOUT;
use super::connection::Arrival;
use super::failure::Failure;
use super::names::collection_in;
use super::routes::Shared;
use crate::model::token::Role;
use crate::node::access::{Caller, Denied, Origin};
use axum::BoxError;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a browser says that a request comes from: `same-origin`, `none` (a person), `same-site`, `cross-site`.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a route takes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    /// Nothing: everybody is answered.
    Open,
    /// Any token; the handler asks further.
    Known,
    /// A role in a collection.
    Role(Role, String),
    /// A role in all collections.
    All(Role),
}

impl Need {
    fn check(&self, caller: &Caller) -> Result<(), Failure> {
        match self {
            Self::Open | Self::Known => Ok(()),
            Self::Role(role, collection) => check(caller, *role, collection),
            Self::All(role) => check_all(caller, *role),
        }
    }
}

/// What a request takes.
fn need(method: &Method, path: &str) -> Need {
    let reads = *method == Method::GET || *method == Method::HEAD;
    if let Some(names) = path.strip_prefix("/v1/kv/") {
        return Need::Role(if reads { Role::Read } else { Role::Write }, collection_in(names));
    }
    if let Some(names) = path.strip_prefix("/v1/watch/") {
        return Need::Role(Role::Read, collection_in(names));
    }
    match path {
        "/" | "/v1/openapi.json" | "/health/live" | "/health/ready" if reads => Need::Open,
        "/v1/batch" | "/v1/tokens" => Need::Known,
        "/v1/kv"
        | "/v1/status"
        | "/v1/events"
        | "/v1/cluster"
        | "/v1/cluster/physical"
        | "/v1/cluster/roster"
        | "/v1/cluster/placement"
        | "/v1/cluster/convergence"
        | "/v1/settings"
        | "/v1/settings/history"
        | "/v1/secret"
        | "/metrics"
            if reads =>
        {
            Need::Known
        }
        // It names keys of any collection.
        "/v1/cluster/superseded" if reads => Need::All(Role::Read),
        _ if path.starts_with("/v1/tokens/") => Need::Known,
        _ if path.starts_with("/terminal/") && reads => Need::Open,
        _ => Need::All(Role::Admin),
    }
}

/// Lets a request in, or answers why not.
pub(super) async fn admit(
    State(shared): State<Shared>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    mut request: Request,
    next: Next,
) -> Response {
    let need = need(request.method(), request.uri().path());
    if need == Need::Open {
        // Nobody is refused, but who would be let in is told more.
        if let Some(caller) = recognize(&shared, &arrival, &request) {
            request.extensions_mut().insert(caller);
        }
        return next.run(request).await;
    }
    _ = tokio::time::timeout(START_TIMEOUT, shared.access.known()).await;
    match judge(&shared, &arrival, &request, &need) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            let is_lost = Arc::new(AtomicBool::new(false));
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                let again = judge_again(&shared, arrival.origin, caller, need, &is_lost);
                request = request.map(|body| and_then(body, again));
            }
            let response = next.run(request).await;
            if is_lost.load(Ordering::Relaxed) {
                shared.access.count_forbidden();
                let message =
                    "the client lost its right to this while it was still sending it; nothing was changed";
                Failure::new(StatusCode::UNAUTHORIZED, "unauthenticated", message).into_response()
            } else {
                response
            }
        }
        Err(failure) => {
            let (head, body) = request.into_parts();
            shared.bodies.refuse(&head.headers, body, failure).into_response()
        }
    }
}

fn judge(shared: &Shared, arrival: &Arrival, request: &Request, need: &Need) -> Result<Caller, Failure> {
    let shown = shown(request.headers())?;
    let caller = shared.access.admit(arrival.origin, shown).map_err(|denied| refused(shared, denied))?;
    refuse_page_of(&caller, shared, request)?;
    need.check(&caller).inspect_err(|_| shared.access.count_forbidden())?;
    Ok(caller)
}

/// Who it is, if it would be let in where that is asked for.
fn recognize(shared: &Shared, arrival: &Arrival, request: &Request) -> Option<Caller> {
    let shown = shown(request.headers()).ok()?;
    let caller = shared.access.judge(arrival.origin, shown).ok()?;
    refuse_page_of(&caller, shared, request).is_ok().then_some(caller)
}

/// Refuses what a page of another origin sent, unless it shows what no such page has.
fn refuse_page_of(caller: &Caller, shared: &Shared, request: &Request) -> Result<(), Failure> {
    match caller {
        Caller::Anyone | Caller::Observer => {
            refuse_pages(request.headers(), request.uri(), &shared.advertised)
        }
        Caller::Operator(_) | Caller::Token(..) => Ok(()),
    }
}

/// Judges a client once more when its body is there: it may have taken its time, and lost its right meanwhile.
fn judge_again(
    shared: &Shared,
    origin: Origin,
    caller: Caller,
    need: Need,
    is_lost: &Arc<AtomicBool>,
) -> impl Future<Output = Option<Result<Bytes, BoxError>>> + Send + 'static {
    let (mut access, is_lost) = (shared.access.clone(), Arc::clone(is_lost));
    async move {
        let still = access.review(origin, Some(caller));
        if still.is_some_and(|caller| need.check(&caller).is_ok()) {
            return None;
        }
        is_lost.store(true, Ordering::Relaxed);
        Some(Err("the client may do this no more".into()))
    }
}

/// A body that ends with what `last` says, if it says something.
fn and_then(
    body: Body,
    last: impl Future<Output = Option<Result<Bytes, BoxError>>> + Send + 'static,
) -> Body {
    let parts = body.into_data_stream().map(|part| part.map_err(BoxError::from));
    Body::from_stream(parts.chain(stream::once(last).filter_map(std::future::ready)))
}

/// The token that a request shows.
fn shown(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let message = "`Authorization` is understood as `Bearer TOKEN`";
    token.map(Some).ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "unauthenticated", message))
}

fn refused(shared: &Shared, denied: Denied) -> Failure {
    let status = match denied {
        Denied::Starting => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNAUTHORIZED,
    };
    let message = match shared.access.step() {
        Some(step) if denied == Denied::Starting => format!("{denied} (its start is at the step `{step}`)"),
        _ => denied.to_string(),
    };
    Failure::new(status, denied.code(), message)
}

/// Refuses what takes `role` in a collection to who may not.
pub(super) fn check(caller: &Caller, role: Role, collection: &str) -> Result<(), Failure> {
    if caller.allows(role, collection) {
        return Ok(());
    }
    let shown: String = collection.chars().take(64).collect();
    Err(forbidden(caller, &format!("needs the role `{role}` in the collection `{shown}`")))
}

fn check_all(caller: &Caller, role: Role) -> Result<(), Failure> {
    let may = match role {
        Role::Admin => caller.is_admin_of_all(),
        _ => caller.allows_everywhere(role),
    };
    if may { Ok(()) } else { Err(forbidden(caller, &format!("needs the role `{role}` in all collections"))) }
}

fn forbidden(caller: &Caller, needs: &str) -> Failure {
    let who = match caller.name() {
        Some(name) => format!("which the token `{name}` has not"),
        None => "and this member has lost records and does not know its tokens yet; try again in a moment"
            .to_owned(),
    };
    Failure::new(StatusCode::FORBIDDEN, "forbidden", format!("this {needs}, {who}"))
}

/// Refuses what another origin's page sent through a client's browser, or what one may have sent to whose name somebody
/// made point here; `advertised` is the host that the member's file tells clients.
fn refuse_pages(headers: &HeaderMap, uri: &Uri, advertised: &str) -> Result<(), Failure> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host =
        uri.authority().map(|authority| authority.as_str()).or_else(|| text(header::HOST)).unwrap_or("");
    let of_origin = |origin: &str| origin.split_once("://").is_some_and(|(_, rest)| rest == host);
    let is_foreign = text(header::ORIGIN).is_some_and(|origin| !of_origin(origin))
        || text(FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none"));
    if is_foreign || !is_own_name(host, advertised) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "foreign_page",
            "while this cluster has no tokens, requests must name this member as `localhost`, by its address or as `advertise.http` in its file does, and not come from another site's page; make a token with `kith token create`",
        ));
    }
    Ok(())
}

/// Whether nobody else can have made a name point here: an address, a name without a domain, or the advertised one.
fn is_own_name(host: &str, advertised: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok()
        || !name.contains('.')
        || name.ends_with(".localhost")
        || name.eq_ignore_ascii_case(advertised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_route_that_nobody_thought_of_takes_an_admin() {
        for (method, path) in [
            (Method::GET, "/v1/secrets"),
            (Method::POST, "/v1/status"),
            (Method::PATCH, "/v1/settings"),
            (Method::POST, "/v1/secret/add"),
            (Method::POST, "/v1/secret/use"),
            (Method::POST, "/v1/secret/retire"),
            (Method::POST, "/v1/cluster/leave"),
            (Method::DELETE, "/v1/cluster/members/one"),
            (Method::GET, "/v1/statu%73"),
            (Method::POST, "/health/live"),
        ] {
            assert_eq!(need(&method, path), Need::All(Role::Admin), "{method} {path}");
        }
    }

    #[test]
    fn keys_take_the_role_of_what_is_done_in_their_collection() {
        let role = |role, collection: &str| Need::Role(role, collection.to_owned());
        assert_eq!(need(&Method::GET, "/v1/kv/a"), role(Role::Read, "a"));
        assert_eq!(need(&Method::HEAD, "/v1/kv/a/k"), role(Role::Read, "a"));
        assert_eq!(need(&Method::PUT, "/v1/kv/%61/k/l"), role(Role::Write, "a"));
        assert_eq!(need(&Method::POST, "/v1/kv/a/k"), role(Role::Write, "a"));
        let watched = role(Role::Read, "_system_tokens");
        assert_eq!(need(&Method::GET, "/v1/watch/%5fsystem_tokens"), watched);
    }

    #[test]
    fn pages_of_strangers_are_refused_while_everybody_is_served() {
        let refuses = |headers: &[(HeaderName, &str)]| {
            let headers =
                headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
            refuse_pages(&headers.collect(), &Uri::from_static("/v1/status"), "one.example").is_err()
        };
        let judge = |host: &str, origin: Option<&str>| {
            let mut headers = vec![(header::HOST, host)];
            headers.extend(origin.map(|origin| (header::ORIGIN, origin)));
            !refuses(&headers)
        };
        for host in [
            "localhost:7401",
            "127.0.0.1:7401",
            "192.0.2.7",
            "[::1]:7401",
            "member1:7401",
            "a",
            "x.localhost",
            "One.example:7401",
        ] {
            assert!(judge(host, None), "{host}");
        }
        for rebound in
            ["rebound.example:7401", "rebound.example", "two.one.example", "one.example.evil.example"]
        {
            assert!(!judge(rebound, None), "{rebound}");
        }
        assert!(judge("localhost:7401", Some("http://localhost:7401")));
        for origin in ["http://localhost:8080", "https://evil.example", "null"] {
            assert!(!judge("localhost:7401", Some(origin)), "{origin}");
        }
        for (site, is_foreign) in [
            ("same-origin", false),
            ("none", false),
            ("same-site", true),
            ("cross-site", true),
            ("new", true),
        ] {
            let headers = [(header::HOST, "localhost:7401"), (FETCH_SITE, site)];
            assert_eq!(refuses(&headers), is_foreign, "{site}");
        }
        assert!(!judge("one.example:7401", Some("https://evil.example")));
    }
}
