//! Listings: the keys of a collection in order, a page at a time.

use super::DEFAULT_LISTING_LIMIT;
use super::failure::Failure;
use super::names::{names_in, wall_ms};
use super::query::{Query, QueryError};
use super::routes::Shared;
use crate::model::KeyRange;
use crate::model::key::check_collection;
use crate::model::limits::MAX_KEY_BYTES;
use crate::model::token::Role;
use crate::node::access::Caller;
use crate::node::handle::Scan;
use crate::node::handle::documents::{Collections, Entry, Listing};
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use axum::{Extension, Json};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

/// What a cursor escapes so that it can stand in a query as it is.
const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>');

/// Parameters that hold a key, or a part of one.
const KEYS: [&str; 4] = ["prefix", "start", "end", "after"];

/// `GET /v1/kv/{collection}`
pub(super) async fn list(State(shared): State<Shared>, uri: Uri) -> Result<Response, Failure> {
    let scan = scan_in(&uri)?;
    let collection = scan.collection.clone();
    let page = shared.handle.scan(scan).await?;
    let wall_ms = wall_ms();
    let entries = page.rows.iter().map(|row| Entry::of_row(row, wall_ms)).collect();
    let next = page.resume.map(|key| percent_encode(&key, ESCAPED).to_string());
    shared.answers.json(&Listing { collection, entries, next })
}

/// `GET /v1/kv`: what collections this member holds records of, as far as who asks may read them.
pub(super) async fn collections(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<Collections>, Failure> {
    let query = Query::parse(&uri, &["after", "limit"])?;
    let (after, limit) = (query.text("after")?, query.limit()?);
    let page =
        shared.handle.collections(after.unwrap_or_default(), limit.unwrap_or(DEFAULT_LISTING_LIMIT)).await?;
    let may_read = |name: &String| caller.allows(Role::Read, name);
    Ok(Json(Collections {
        collections: page.names.into_iter().filter(may_read).collect(),
        next: page.next,
        is_cut_off: page.is_cut_off,
        may_read_all: caller.allows_everywhere(Role::Read),
    }))
}

fn scan_in(uri: &Uri) -> Result<Scan, Failure> {
    let query =
        Query::parse(uri, &["prefix", "start", "end", "after", "reverse", "limit", "values", "held"])?;
    let (collection, _) = names_in(uri)?;
    check_collection(&collection)?;
    for name in KEYS {
        if query.bytes(name).is_some_and(|bytes| bytes.len() > MAX_KEY_BYTES) {
            let problem = format!("this is longer than a key, {MAX_KEY_BYTES} bytes");
            return Err(QueryError::Invalid { name, problem }.into());
        }
    }
    let reverse = query.flag("reverse")?.unwrap_or(false);
    let mut keys = KeyRange::with_prefix(query.bytes("prefix").unwrap_or_default());
    if let Some(start) = query.bytes("start") {
        keys = keys.starting_at(start);
    }
    if let Some(end) = query.bytes("end") {
        keys = keys.ending_before(end);
    }
    match query.bytes("after") {
        None => {}
        Some([]) => {
            let problem = "this is empty; give the `next` of the page before, or leave it out".to_owned();
            return Err(QueryError::Invalid { name: "after", problem }.into());
        }
        Some(after) => keys = keys.beyond(after, reverse),
    }
    Ok(Scan {
        collection,
        keys,
        reverse,
        keys_only: !query.flag("values")?.unwrap_or(true),
        limit: query.limit()?.unwrap_or(DEFAULT_LISTING_LIMIT),
        held: query.flag("held")?.unwrap_or(false),
    })
}
