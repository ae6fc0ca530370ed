//! The page for people ([`crate::terminal`]) over HTTP.
//!
//! Invariants: what a browser is given may load nothing from anywhere else, run no text of a value or name, and stand in no
//! frame; it is asked for again at each use, so that a member of a newer version shows its own page at once.

use super::failure::Failure;
use super::routes::INDEX;
use crate::terminal::{self, Asset};
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What the page may load and do. No inline script or style, nothing of others, no frame around it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
);
/// Windows of other origins get no hold of the page's window.
const OPENER_POLICY: (HeaderName, HeaderValue) =
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
/// Nor may their pages load its files.
const RESOURCE_POLICY: (HeaderName, HeaderValue) =
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));

/// `GET /`: the page for browsers, the list of routes for everybody else.
pub(super) async fn index(headers: HeaderMap) -> Response {
    let mut answer =
        if takes_html(&headers) { show(terminal::page(), &headers) } else { INDEX.into_response() };
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    answer
}

/// `GET /terminal/style.css`
pub(super) async fn style(headers: HeaderMap) -> Response {
    show(terminal::style(), &headers)
}

/// `GET /terminal/icon.svg`
pub(super) async fn icon(headers: HeaderMap) -> Response {
    show(terminal::icon(), &headers)
}

/// `GET /terminal/script/{name}`
pub(super) async fn script(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let named = |asset: &&Asset| name.as_ref().is_ok_and(|Path(name)| asset.name == name);
    let message = "the page has no such script; load it anew, if this member's version has changed";
    let asset = terminal::scripts().find(named);
    let asset = asset.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "no_route", message))?;
    Ok(show(asset, &headers))
}

/// Whether a client is one that shows pages; others say that they take anything, or nothing of it.
fn takes_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|part| part.split(';').next());
    types.any(|media_type| media_type.trim().eq_ignore_ascii_case("text/html"))
}

fn show(asset: &Asset, headers: &HeaderMap) -> Response {
    let tag = asset.tag();
    let known = headers.get_all(header::IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(|one| one.trim().trim_start_matches("W/"));
    let is_known = known.any(|one| one == "*" || one == tag);
    let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let tag = HeaderValue::from_str(tag).unwrap_or(HeaderValue::from_static("\"\""));
    let told = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        OPENER_POLICY,
        RESOURCE_POLICY,
    ];
    if is_known { (status, told).into_response() } else { (status, told, asset.text).into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn browsers_are_told_from_other_clients_by_what_they_take() {
        let takes = |accepted: &str| takes_html(&with(header::ACCEPT, accepted));
        assert!(takes("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(takes("application/json, Text/HTML;q=0.5"));
        assert!(!takes("*/*") && !takes("text/plain") && !takes("text/htmlx") && !takes(""));
        assert!(!takes_html(&HeaderMap::new()));
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let whole = show(terminal::page(), &HeaderMap::new());
        assert_eq!(whole.status(), StatusCode::OK);
        let tag = whole.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 20, "{tag}");
        for known in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
            let answer = show(terminal::page(), &with(header::IF_NONE_MATCH, &known));
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(answer.headers()[header::ETAG], tag.as_str());
        }
        let other = show(terminal::style(), &with(header::IF_NONE_MATCH, &tag));
        assert_eq!(other.status(), StatusCode::OK);
    }
}
