//! The page for people: who gets it, what comes with it, and that pages of strangers get nothing.

use super::described::body_of;
use super::*;

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let line = answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{answer}"));
    line.trim_start_matches(": ")
}

#[tokio::test]
async fn browsers_get_the_page_and_everybody_else_the_list_of_routes() {
    let served = serve(true).await;
    let page = served.send_with("GET", "/", &[BROWSER], "").await;
    assert_has(
        &page,
        &["200 OK", "content-type: text/html; charset=utf-8", "vary: accept", "<!doctype html>"],
    );
    assert_has(&page, &["x-content-type-options: nosniff", "referrer-policy: no-referrer"]);
    let policy = header(&page, "content-security-policy");
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains(':'), "{policy}");
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let index = served.send("GET", "/", "").await;
    assert_has(&index, &["200 OK", "content-type: text/plain", "vary: accept", "GET   /v1/events"]);
    let tag = header(&page, "etag");
    let again = served.send_with("GET", "/", &[BROWSER, ("if-none-match", tag)], "").await;
    assert_has(&again, &["HTTP/1.1 304", tag]);
    assert_eq!(body_of(&again), "");
}

#[tokio::test]
async fn whatever_the_page_refers_to_is_there_and_needs_no_token() {
    let served = serve(true).await;
    let (known, [_]) = tokens([("app", Role::Read, "app.*")]);
    served.tokens.publish(&known);
    let mut wanted = vec!["/".to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = wanted.pop() {
        if seen.contains(&path) {
            continue;
        }
        let answer = served.send_with("GET", &path, &[BROWSER], "").await;
        assert_has(&answer, &["200 OK", "content-security-policy: ", "cache-control: no-cache"]);
        let text = body_of(&answer);
        let quoted = text.split(['"', '\'']);
        wanted.extend(quoted.clone().filter(|part| part.starts_with("/terminal/")).map(str::to_owned));
        let modules = quoted.filter_map(|part| part.strip_prefix("./")).filter(|part| part.ends_with(".js"));
        wanted.extend(modules.map(|name| format!("/terminal/script/{name}")));
        seen.push(path);
    }
    assert_eq!(seen.len(), 3 + kith::terminal::scripts().count(), "{seen:?}");
    for (path, media_type) in [
        ("/terminal/style.css", "text/css; charset=utf-8"),
        ("/terminal/icon.svg", "image/svg+xml; charset=utf-8"),
        ("/terminal/script/main.js", "text/javascript; charset=utf-8"),
    ] {
        assert_eq!(header(&served.send("GET", path, "").await, "content-type"), media_type);
    }
    for path in ["/terminal/script/none.js", "/terminal/script/..%2fmod.rs", "/terminal/script/%ff"] {
        assert_has(&served.send("GET", path, "").await, &["HTTP/1.1 404", "no_route"]);
    }
    assert_has(&served.send("GET", "/terminal/mod.rs", "").await, &["HTTP/1.1 404", "no_route"]);
}

#[tokio::test]
async fn pages_of_strangers_change_and_read_nothing() {
    let served = serve(true).await;
    let requests = [
        ("PUT", "/v1/kv/c/k", "x"),
        ("POST", "/v1/kv/c/k?increment=1", ""),
        ("POST", "/v1/batch", r#"{"key":"k","value":"x"}"#),
        ("PATCH", "/v1/settings", r#"{"settings":{"replication_factor":"1"}}"#),
        ("POST", "/v1/cluster/leave", ""),
        ("DELETE", "/v1/cluster/members/one?force=true", ""),
        ("POST", "/v1/tokens", r#"{"name":"a","grants":[{"role":"admin","collections":"*"}]}"#),
        ("GET", "/v1/kv/c/k", ""),
        ("GET", "/v1/status", ""),
        ("GET", "/v1/events", ""),
    ];
    for (method, path, body) in requests {
        for strange in [
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let answer = served.send_with(method, path, &[strange], body).await;
            assert_has(&answer, &["HTTP/1.1 403", "foreign_page", "kith token create"]);
        }
    }
    assert_has(&served.send("GET", "/v1/kv/c/k", "").await, &["404", "not_found"]);
    // A person follows a link to the page from anywhere, and the page itself goes on from there.
    let linked = [BROWSER, ("sec-fetch-site", "cross-site")];
    assert_has(&served.send_with("GET", "/", &linked, "").await, &["200 OK", "<!doctype html>"]);
    let own = [("origin", "http://a"), ("sec-fetch-site", "same-origin")];
    assert_has(&served.send_with("PUT", "/v1/kv/c/k", &own, "x").await, &["200 OK", "stored"]);

    // A name that its owner may have made point here, and those that nobody else can.
    for (host, status) in
        [("rebound.example", "403"), ("a.kith.example", "403"), ("kith.example", "200"), ("b", "200")]
    {
        let request = format!("GET /v1/status HTTP/1.1\r\nhost: {host}:7401\r\nconnection: close\r\n\r\n");
        assert_has(&served.raw(&request).await, &[&format!("HTTP/1.1 {status}")]);
    }

    // A token is nothing that a browser sends by itself.
    let (known, [app]) = tokens([("app", Role::Write, "c")]);
    served.tokens.publish(&known);
    let shown = format!("Bearer {app}");
    let foreign = ("origin", "https://proxy.example");
    let answer = served.send_with("PUT", "/v1/kv/c/k", &[foreign, ("authorization", &shown)], "y").await;
    assert_has(&answer, &["200 OK", "stored"]);
    assert_has(&served.send_with("PUT", "/v1/kv/c/k", &[foreign], "z").await, &["401", "unauthenticated"]);
}

#[tokio::test]
async fn events_are_asked_for_behind_a_number() {
    let served = serve(false).await;
    assert_has(
        &served.send("GET", "/v1/events", "").await,
        &["200 OK", r#"{"incarnation":0,"life":"a","events":[]}"#],
    );
    assert_has(&served.send("GET", "/v1/events?after=7", "").await, &["200 OK", r#""incarnation":7"#]);
    for wrong in ["after=-1", "after=x", "after=9999999999999999999", "since=1"] {
        assert_has(&served.send("GET", &format!("/v1/events?{wrong}"), "").await, &["400", "bad_parameter"]);
    }
}
