//! Every operation of this interface: what it takes, what it answers, and how it may fail.

use super::{Api, Failures, Operation};
use crate::model::limits::{MAX_KEY_BYTES, MAX_SCAN_LIMIT, MAX_VALUE_BYTES};
use crate::model::settings::Level;
use crate::node::handle::convergence::{Convergence, Superseded};
use crate::node::handle::documents::{Collections, ErrorDocument, Listing, Outcome, Outcomes};
use crate::node::handle::status::{
    Cluster, InitRequest, JoinRequest, Physical, Placement, Removed, Roster, State, Status,
};
use crate::node::handle::tokens::{CreatedToken, TokenList, TokenRequest, TokenRow};
use serde_json::{Value, json};

pub(super) const ABOUT: &str = "\
A key-value store for machines that must stay writable whatever fails. Any member answers; each record has several \
owners, and `consistency` says how many of them an operation waits for.

Values are raw bytes, everything else is JSON. Every error is `{\"error\": \"code\", \"message\": \"what happened and \
what to do\"}`; nothing was changed, unless the code is `unknown`, `timeout` or `unconfirmed`. What is no HTTP at all is \
answered with a bare 400, 414 or 431. Unknown parameters are errors.

Writes are never refused for lack of a majority. So a condition (`If-Match`, `If-None-Match`, `if` in a batch) is \
judged by one owner of the key, its home: while members disagree about who that is, as in a cut network, two \
changes may both find their condition met. Then the later one wins, and the other is told that its condition did not hold, if that is known in time. Use increments where all changes must count.";

const KEYS: &str = "Keys and values";
pub(super) const CLUSTER: &str = "Cluster";
const TOKENS: &str = "Tokens";
const HEALTH: &str = "Health";

/// Of whatever is asked of the cluster's data.
const OF_DATA: Failures = &[
    (400, &["bad_parameter"]),
    (409, &["no_cluster", "left", "removed", "outdated"]),
    (503, &["starting", "stopping", "overloaded"]),
    (504, &["timeout", "unreachable"]),
];
/// Of what takes a token where the cluster has any.
pub(super) const OF_TOKENS: Failures =
    &[(401, &["unauthenticated", "no_tokens"]), (403, &["forbidden", "foreign_page"]), (503, &["starting"])];
/// Of what names a key.
const OF_NAMES: Failures = &[(400, &["bad_key"]), (414, &["bad_key"])];
/// Of changes.
const OF_CHANGES: Failures = &[
    (400, &["bad_timestamp"]),
    (403, &["system_collection"]),
    (503, &["no_room_for_hint", "not_enough_owners"]),
    (504, &["unknown"]),
    (507, &["storage"]),
];
/// Of what is under conditions.
const OF_CONDITIONS: Failures = &[(400, &["bad_condition"]), (412, &["condition_failed"])];
/// Of questions about the cluster.
pub(super) const OF_CLUSTER: Failures = &[
    (400, &["bad_parameter"]),
    (409, &["no_cluster", "creating", "records_lost", "left", "removed", "outdated"]),
    (503, &["starting", "stopping"]),
    (504, &["timeout"]),
];
/// Of questions about the member itself.
pub(super) const OF_MEMBER: Failures =
    &[(400, &["bad_parameter"]), (503, &["stopping"]), (504, &["timeout"])];
/// Of changes of the cluster.
pub(super) const OF_CONTROL: Failures = &[(504, &["unconfirmed"]), (507, &["storage"])];
/// Of bodies that are documents.
pub(super) const OF_BODIES: Failures = &[(400, &["bad_document", "cut_off"]), (413, &["too_large"])];

/// Of reads and changes: the record's stamp.
const RECORD_HEADERS: [(&str, &str); 3] = [
    ("kith-timestamp", "The record's timestamp; a write with it in `kith-after` follows it."),
    ("kith-ttl", "How long the record lives still, such as `9500ms`; absent: for ever."),
    ("ETag", "The timestamp in quotes; a counter has none, for increments leave its timestamp as it is."),
];
const CHANGE_HEADERS: [(&str, &str); 4] = [
    ("kith-timestamp", "The change's timestamp, or the one that won."),
    ("kith-copies", "Owners that are known to have it durably."),
    ("kith-superseded", "`true` if it met a newer record, which stays."),
    ("ETag", "Of a value that was stored its timestamp in quotes."),
];

const TIMESTAMP: &str = "[0-9a-fA-F]{16}-[0-9a-fA-F]{16}";
/// Base64 in its one canonical form.
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

pub(super) fn parameter(place: &str, name: &str, schema: Value, description: &str) -> Value {
    json!({ "in": place, "name": name, "required": place == "path", "schema": schema, "description": description })
}

pub(super) fn query(name: &str, schema: Value, description: &str) -> Value {
    parameter("query", name, schema, description)
}

/// Text of a form, the lengths of which it implies; told for those who don't read patterns.
fn text_schema(pattern: &str, shortest: usize, longest: usize) -> Value {
    json!({ "type": "string", "pattern": pattern, "minLength": shortest, "maxLength": longest })
}

pub(super) fn flag(name: &str, description: &str) -> Value {
    query(name, json!({ "type": "boolean" }), description)
}

fn name_schema() -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$", "not": { "enum": [".", ".."] } })
}

fn collection() -> Value {
    parameter("path", "collection", name_schema(), "`default` is the one that clients use who name none.")
}

fn key() -> Value {
    let schema = json!({ "type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES });
    let text = "Any bytes, percent-encoded, slashes too or not; 4096 at most. Clients that take `.` and `..` for steps \
        in a path can't name these keys here, but in a batch.";
    parameter("path", "key", schema, text)
}

fn key_text(name: &str, least: usize, description: &str) -> Value {
    let schema = json!({ "type": "string", "minLength": least, "maxLength": MAX_KEY_BYTES });
    query(name, schema, description)
}

fn level(default: &str) -> Value {
    let schema = json!({ "type": "string", "enum": Level::ALL.map(|level| level.to_string()) });
    let text = format!("How many owners must have it or answer; without it as the setting `{default}` says.");
    query("consistency", schema, &text)
}

fn ttl_schema() -> Value {
    json!({ "type": "string", "pattern": "^([1-9][0-9]{0,8}(ms|s)?|[1-9][0-9]{0,5}[mh]|[1-9][0-9]{0,3}d|none)$" })
}

fn after() -> Value {
    parameter(
        "header",
        "kith-after",
        text_schema(&format!("^{TIMESTAMP}$"), 33, 33),
        "A timestamp that was seen; the change follows it.",
    )
}

fn if_match(change: bool) -> Value {
    let schema = text_schema(&format!(r#"^(\*|"{TIMESTAMP}")$"#), 1, 35);
    let text = if change {
        "The change is made only if the record has this entity tag, or, with `*`, if there is one."
    } else {
        "The value is shown only if it has this entity tag."
    };
    parameter("header", "If-Match", schema, text)
}

fn if_none_match(change: bool) -> Value {
    let schema = if change {
        json!({ "const": "*" })
    } else {
        text_schema(&format!(r#"^(\*|(W/)?"{TIMESTAMP}")$"#), 1, 37)
    };
    let text = if change {
        "The change is made only if there is no record."
    } else {
        "The value is shown only if it has another entity tag."
    };
    parameter("header", "If-None-Match", schema, text)
}

/// What a batch consists of: each kind of operation has the fields that go with it and no others.
fn batch_schema() -> Value {
    let bytes = |name: &str, least: usize| {
        let base64 = format!("{name}_base64");
        let text = json!({ "type": "string", "minLength": least });
        (
            json!({ (name): text, (&base64): { "type": "string", "minLength": 4 * least, "pattern": BASE64 } }),
            json!({ "oneOf": [{ "required": [name] }, { "required": [base64] }] }),
        )
    };
    let operation = |verb: &str, has_value: bool, fields: Value, required: &[&str]| {
        let (mut properties, one_key) = bytes("key", 1);
        let mut all = vec![one_key];
        let mut add = |more: Value| {
            if let (Some(properties), Value::Object(more)) = (properties.as_object_mut(), more) {
                properties.extend(more);
            }
        };
        add(json!({ "op": { "const": verb }, "collection": name_schema() }));
        add(
            json!({ "timestamp": { "type": "string", "description": "Ignored, so that listings are batches." } }),
        );
        add(fields);
        if has_value {
            let (value, one_value) = bytes("value", 0);
            add(value);
            all.push(one_value);
        }
        json!({
            "type": "object", "title": verb, "properties": properties, "required": required, "allOf": all,
            "additionalProperties": false,
        })
    };
    let stamp = text_schema(&format!("^{TIMESTAMP}$"), 33, 33);
    let ttl =
        json!({ "oneOf": [{ "type": "integer", "minimum": 1, "maximum": 3_000_000_000_u32 }, ttl_schema()] });
    let put_if = json!({ "anyOf": [{ "enum": ["absent", "present"] }, stamp] });
    let delete_if = json!({ "anyOf": [{ "const": "present" }, stamp] });
    let delta = json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX });
    let kinds = [
        operation("put", true, json!({ "ttl": ttl, "if": put_if }), &[]),
        operation("get", false, json!({}), &["op"]),
        operation("delete", false, json!({ "if": delete_if }), &["op"]),
        operation("increment", false, json!({ "delta": delta }), &["op", "delta"]),
    ];
    json!({ "type": "array", "maxItems": super::super::MAX_HTTP_BATCH_OPERATIONS, "items": { "oneOf": kinds } })
}

pub(super) fn describe(api: &mut Api) {
    // It is referred to by every error.
    api.schema::<ErrorDocument>();
    reads(api);
    changes(api);
    batch(api);
    watch(api);
    cluster(api);
    cluster_changes(api);
    super::settings::describe(api);
    super::secrets::describe(api);
    tokens(api);
    health(api);
}

fn reads(api: &mut Api) {
    let listing = api.schema::<Listing>();
    let list = Operation::new("list", KEYS, "Keys of a collection in order, a page at a time")
        .says("A page ends at `limit` keys or at some megabytes. It has `next` if more may follow, and it may be empty even so.")
        .takes([
            collection(),
            key_text("prefix", 0, "Only keys that begin with this."),
            key_text("start", 0, "Only this key and those above it."),
            key_text("end", 0, "Only keys below this one."),
            key_text("after", 1, "The `next` of the page before: what lies beyond it in the listing's direction."),
            flag("reverse", "From the last key to the first."),
            query("limit", json!({ "type": "integer", "minimum": 1, "maximum": MAX_SCAN_LIMIT }), "Keys at most; 1000 if it is not given."),
            flag("values", "`false`: keys without values, which is cheaper."),
            flag("held", "`true`: only what this member itself holds, also when it left its cluster or was removed."),
        ])
        .answers_json("A page.", listing)
        .fails(OF_DATA)
        .fails(OF_NAMES);
    api.add("get", "/v1/kv/{collection}", list);

    let collections = api.schema::<Collections>();
    let names = Operation::new("collections", KEYS, "Collections that the asked member holds records of")
        .says("Those that the client may read. Records are spread over members, so a member may have none of a small collection.")
        .takes([
            query("after", json!({ "type": "string" }), "The `next` of the page before."),
            query("limit", json!({ "type": "integer", "minimum": 1, "maximum": MAX_SCAN_LIMIT }), "Names at most; 1000 if it is not given."),
        ])
        .answers_json("A page.", collections)
        .fails(OF_CLUSTER);
    api.add("get", "/v1/kv", names);

    let bytes = json!({ "type": "string", "format": "binary" });
    let range = json!({ "type": "string", "examples": ["bytes=0-1023"] });
    let get = Operation::new("get", KEYS, "A value")
        .says("Its bytes; of a counter its number as text. A read at `one` may be behind what another member acknowledged.")
        .takes([
            collection(),
            key(),
            level("read_level"),
            if_match(false),
            if_none_match(false),
            parameter("header", "Range", range.clone(), "A part of the value: `bytes=0-1023`, `bytes=1024-`, `bytes=-10`. Several at once, and what is no range (`bytes=5-1`), are answered with all of it."),
            parameter("header", "If-Range", json!({ "type": "string" }), "The part only if the value has this entity tag, else all of it."),
        ])
        .answers(200, "The value.", "application/octet-stream", bytes.clone())
        .with_headers(200, &RECORD_HEADERS)
        .answers(206, "The part of it that was asked for.", "application/octet-stream", bytes)
        .with_headers(206, &RECORD_HEADERS)
        .with_headers(206, &[("Content-Range", "Which part, and of how many bytes.")])
        .answers_empty(304, "The client has it.")
        .with_headers(304, &RECORD_HEADERS)
        .fails(&[(404, &["not_found"]), (416, &["bad_range"]), (503, &["not_enough_owners"])])
        .fails(OF_DATA)
        .fails(OF_NAMES)
        .fails(OF_CONDITIONS);
    api.add("get", "/v1/kv/{collection}/{key}", get);
}

fn changes(api: &mut Api) {
    const PATH: &str = "/v1/kv/{collection}/{key}";
    let outcome = api.schema::<Outcome>();
    let bytes = json!({ "type": "string", "format": "binary", "maxLength": MAX_VALUE_BYTES });
    let ttl = query(
        "ttl",
        ttl_schema(),
        "How long it lives: seconds, or a number with ms, s, m, h or d, 100 years at most; `none`: for ever, also where the collection has a `default_ttl`.",
    );
    let change = |operation: Operation| {
        operation
            .answers_json("What it came to.", outcome.clone())
            .with_headers(200, &CHANGE_HEADERS)
            .fails(OF_DATA)
            .fails(OF_NAMES)
            .fails(OF_CHANGES)
    };
    let put = Operation::new("put", KEYS, "Store a value")
        .says("Under a condition it is judged and made by the key's home; while members disagree about who that is, two may succeed and the later one wins.")
        .takes([collection(), key(), level("write_level"), ttl, after(), if_match(true), if_none_match(true)])
        .body("application/octet-stream", bytes, false)
        .fails(&[(400, &["cut_off"]), (413, &["value_too_large", "too_large"])])
        .fails(OF_CONDITIONS);
    api.add("put", PATH, change(put));

    let delete = Operation::new("delete", KEYS, "Delete a key")
        .says("Deleting what is not there succeeds, unless it is under a condition.")
        .takes([collection(), key(), level("write_level"), after(), if_match(true)])
        .fails(OF_CONDITIONS);
    api.add("delete", PATH, change(delete));

    let delta = json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX });
    let delta = json!({
        "in": "query", "name": "increment", "required": true, "schema": delta,
        "description": "What is added; may be negative.",
    });
    let increment = Operation::new("increment", KEYS, "Add to a counter")
        .says("Increments at several members at once, also while these can't talk, are all counted in the end. `number` is what the answering owner knows.")
        .takes([collection(), key(), delta, level("write_level"), after()])
        .fails(&[(400, &["bad_condition"]), (409, &["not_a_number", "overflow", "too_many_pairs"])]);
    api.add("post", PATH, change(increment));
}

fn batch(api: &mut Api) {
    let outcomes = api.schema::<Outcomes>();
    let batch = Operation::new("batch", KEYS, "Many operations in one request")
        .says("All must be well-formed before the first is carried out; then each succeeds or fails by itself, and none waits for another: one that the token does not allow has the outcome `failed` with the error `forbidden`. The body may also be lines of JSON, one operation each. A batch without `op`s is a list of records to be stored.")
        .takes([level("write_level` or `read_level"), after()])
        .body("application/json", batch_schema(), true)
        .answers_json("What each of them came to, in their order.", outcomes)
        .fails(&[(400, &["bad_parameter", "bad_timestamp", "bad_key"]), (503, &["stopping"]), (504, &["timeout"])])
        .fails(OF_BODIES);
    api.add("post", "/v1/batch", batch);
}

fn watch(api: &mut Api) {
    let cursor = json!({ "type": "string" });
    let operation = Operation::new("watch", KEYS, "Changes of a collection as they happen")
        .says(
            "Server-sent events without an end. `reset` with `{\"reason\"}`: what is known counts no more, and all that \
             there is follows. `put` with a record as listings show it. `delete` with `{\"key\" or \"key_base64\", \
             \"timestamp\", \"expired\"}`. `error` with the document of errors, and the end. `synced`: what was not shown since the `reset` is not there. Of each key its \
             latest state is shown, never an older after a newer one; in between may be left out. The `id` of an \
             event is a cursor: with it a watch goes on behind that event, or begins with `reset` if it can't.",
        )
        .takes([
            collection(),
            key_text("prefix", 0, "Only keys that begin with this."),
            query("cursor", cursor.clone(), "The `id` of the last event that was seen."),
            flag("values", "`false`: without values."),
            parameter("header", "Last-Event-ID", cursor, "As `cursor`; browsers send it by themselves."),
        ])
        .answers(200, "Events.", "text/event-stream", json!({ "type": "string" }))
        .fails(&[(400, &["bad_cursor"]), (503, &["too_many_watches"])])
        .fails(OF_DATA)
        .fails(OF_NAMES);
    api.add("get", "/v1/watch/{collection}", operation);
}

fn cluster(api: &mut Api) {
    let about = |id: &str, summary: &str, schema: Value| {
        Operation::new(id, CLUSTER, summary).answers_json("As this member knows it.", schema)
    };
    let status = api.schema::<Status>();
    api.add(
        "get",
        "/v1/status",
        about("status", "This member", status).says("Answered in every state.").fails(OF_MEMBER),
    );
    let physical = api.schema::<Physical>();
    let operation = about("physical", "The members that gossip sees", physical);
    api.add("get", "/v1/cluster/physical", operation.says("Answered in every state.").fails(OF_MEMBER));
    let cluster = api.schema::<Cluster>();
    api.add("get", "/v1/cluster", about("cluster", "The cluster and its members", cluster).fails(OF_CLUSTER));
    let roster = api.schema::<Roster>();
    api.add(
        "get",
        "/v1/cluster/roster",
        about("roster", "The members that were admitted", roster).fails(OF_CLUSTER),
    );
    let placement = api.schema::<Placement>();
    let operation = about("placement", "Who owns what", placement)
        .takes([
            query("collection", name_schema(), "The key's collection; goes with `key`."),
            key_text("key", 1, "Only the partition of this key."),
        ])
        .fails(&[(400, &["bad_key"])])
        .fails(OF_CLUSTER);
    api.add("get", "/v1/cluster/placement", operation);
    let convergence = api.schema::<Convergence>();
    let operation = about("convergence", "Whether this member and the others hold the same", convergence)
        .takes([flag("roots", "With a digest of each partition that it owns.")])
        .fails(OF_CLUSTER);
    api.add("get", "/v1/cluster/convergence", operation);
    let superseded = api.schema::<Superseded>();
    let operation = about("superseded", "Writes that lost to concurrent ones", superseded);
    api.add("get", "/v1/cluster/superseded", operation.fails(OF_CLUSTER));
}

fn cluster_changes(api: &mut Api) {
    let (cluster, init, join) =
        (api.schema::<Cluster>(), api.schema::<InitRequest>(), api.schema::<JoinRequest>());
    let operation = Operation::new("init", CLUSTER, "Create a cluster with this member as its first")
        .says("Repeating it with the same content changes nothing.")
        .body("application/json", init, false)
        .answers_json("The cluster.", cluster.clone())
        .fails(&[(400, &["invalid_cluster", "invalid_settings"]), (409, &["other_cluster", "other_content"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL)
        .fails(OF_BODIES);
    api.add("post", "/v1/cluster/init", operation);

    let refused =
        "The member that was asked refuses this one; `error` says why, as `wrong_cluster` or `name_taken`.";
    let error = api.schema::<ErrorDocument>();
    let operation = Operation::new("join", CLUSTER, "Join the cluster of the member at an address")
        .body("application/json", join, true)
        .answers_json("The cluster.", cluster)
        .answers(403, refused, "application/json", error)
        .fails(&[(409, &["other_cluster"]), (502, &["unreachable"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL)
        .fails(OF_BODIES);
    api.add("post", "/v1/cluster/join", operation);

    let status = api.schema::<Status>();
    let operation = Operation::new("leave", CLUSTER, "Hand over what this member holds, and go")
        .says("Begins it; the status shows how far it is.")
        .answers_json("This member.", status)
        .fails(&[(409, &["not_active", "last_member"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL);
    api.add("post", "/v1/cluster/leave", operation);

    let removed = api.schema::<Removed>();
    let name = json!({ "type": "string", "minLength": 1 });
    let operation = Operation::new("remove", CLUSTER, "Fence a dead member for good")
        .takes([
            parameter("path", "name", name, "The member's name, or its id."),
            flag("force", "Also where something may be lost."),
        ])
        .answers_json("What came of it.", removed)
        .fails(&[(404, &["unknown_member"]), (409, &["oneself", "alive", "last_copy", "no_majority"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL);
    api.add("delete", "/v1/cluster/members/{name}", operation);
}

fn tokens(api: &mut Api) {
    let (list, row) = (api.schema::<TokenList>(), api.schema::<TokenRow>());
    let operation = Operation::new("tokens", TOKENS, "The tokens that who asks may make and revoke")
        .answers_json("By name.", list)
        .fails(OF_CLUSTER);
    api.add("get", "/v1/tokens", operation);
    let (request, created) = (api.schema::<TokenRequest>(), api.schema::<CreatedToken>());
    let operation = Operation::new("createToken", TOKENS, "Make a token")
        .says("Its text is told this once.")
        .body("application/json", request, true)
        .answers(201, "The token.", "application/json", created)
        .fails(&[(400, &["invalid_token"]), (409, &["first_token", "token_exists"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL)
        .fails(OF_BODIES);
    api.add("post", "/v1/tokens", operation);
    let operation = Operation::new("revokeToken", TOKENS, "Revoke a token")
        .takes([parameter("path", "name", json!({ "type": "string", "minLength": 1 }), "The token's name.")])
        .answers_json("What it was.", row)
        .fails(&[(404, &["unknown_token"]), (409, &["last_admin_token"])])
        .fails(OF_CLUSTER)
        .fails(OF_CONTROL);
    api.add("delete", "/v1/tokens/{name}", operation);
}

fn health(api: &mut Api) {
    let state = api.schema::<State>();
    let step =
        json!({ "type": "string", "description": "The step of its start, while it answers nothing else." });
    let healthy =
        json!({ "type": "object", "properties": { "state": state, "step": step }, "required": ["state"] });
    let text = |id: &str, summary: &str| {
        let schema = json!({ "type": "string" });
        Operation::new(id, HEALTH, summary)
            .answers(200, "Text.", "text/plain", schema)
            .fails(&[(504, &["timeout"])])
    };
    let operation =
        Operation::new("live", HEALTH, "Whether the process does its work, whatever its cluster does")
            .answers_json("It does.", healthy.clone())
            .fails(&[(503, &["stuck", "stopping"]), (504, &["timeout"])]);
    api.add_open("get", "/health/live", operation);
    let operation = Operation::new("ready", HEALTH, "Whether clients should be sent here")
        .answers_json("They should.", healthy)
        .fails(&[(503, &["not_ready", "stuck", "stopping"]), (504, &["timeout"])]);
    api.add_open("get", "/health/ready", operation);
    api.add("get", "/metrics", text("metrics", "For Prometheus"));
    let operation = Operation::new("openapi", HEALTH, "This description")
        .answers_json("OpenAPI 3.1.", json!({ "type": "object" }))
        .fails(&[(504, &["timeout"])]);
    api.add_open("get", "/v1/openapi.json", operation);
}
