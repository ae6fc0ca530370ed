//! Values over HTTP: conditions, parts, increments, and listings in both directions.

use super::*;

/// What stands behind a header's name in an answer.
fn header(answer: &str, name: &str) -> String {
    let line = answer.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no `{name}` in:\n{answer}")).to_owned()
}

#[tokio::test]
async fn a_change_under_a_condition_is_made_only_if_the_condition_holds() {
    let served = serve(true).await;
    let put = async |headers: &[(&str, &str)], body: &str| {
        served.send_with("PUT", "/v1/kv/c/k?ttl=1h", headers, body).await
    };
    let absent = put(&[("If-Match", "*")], "0").await;
    assert_has(&absent, &["HTTP/1.1 412", "condition_failed", "nothing under this key"]);
    assert!(!absent.contains("kith-timestamp"), "{absent}");

    let created = put(&[("If-None-Match", "*")], "1").await;
    assert_has(&created, &["HTTP/1.1 200", r#""outcome":"stored""#]);
    let first = header(&created, "etag");
    assert_eq!(first, format!("\"{}\"", header(&created, "kith-timestamp")));
    let again = put(&[("If-None-Match", "*")], "2").await;
    assert_has(&again, &["HTTP/1.1 412", "condition_failed"]);
    assert_eq!(format!("\"{}\"", header(&again, "kith-timestamp")), first);

    let replaced = put(&[("If-Match", &first)], "3").await;
    let second = header(&replaced, "etag");
    assert_ne!(first, second);
    assert_has(&put(&[("If-Match", &first)], "4").await, &["HTTP/1.1 412"]);
    assert_has(&served.send("GET", "/v1/kv/c/k", "").await, &[&format!("etag: {second}"), "\r\n\r\n3"]);

    let delete = async |tag: &str| served.send_with("DELETE", "/v1/kv/c/k", &[("If-Match", tag)], "").await;
    assert_has(&delete(&first).await, &["HTTP/1.1 412"]);
    assert_has(&delete(&second).await, &["HTTP/1.1 200"]);
    assert_has(&delete("*").await, &["HTTP/1.1 412"]);

    let raced = served.send_with("PUT", "/v1/kv/c/raced", &[("If-None-Match", "*")], "mine").await;
    assert_has(&raced, &["HTTP/1.1 412", "condition_failed", "kith-timestamp: "]);

    for wrong in ["yesterday", "\"yesterday\"", "W/\"0000000000000001-0000000000000007\"", "\"a\", \"b\""] {
        assert_has(&put(&[("If-Match", wrong)], "5").await, &["HTTP/1.1 400", "bad_condition"]);
    }
    let wrong = served.send_with("DELETE", "/v1/kv/c/k", &[("If-None-Match", "*")], "").await;
    assert_has(&wrong, &["HTTP/1.1 400", "bad_condition"]);
}

#[tokio::test]
async fn operations_of_a_batch_have_conditions_of_their_own() {
    let served = serve(true).await;
    let when = |condition: &str, entry: Entry| Entry { condition: Some(condition.to_owned()), ..entry };
    let operations = [
        when("absent", Entry::put("c", b"k", b"1")),
        when("absent", Entry::put("c", b"k", b"2")),
        when("present", Entry::put("c", b"k", b"3")),
        when("0000000000000009-0000000000000007", Entry::put("c", b"k", b"4")),
        Entry::about(Verb::Get, "c", b"k"),
        when("present", Entry::about(Verb::Delete, "c", b"other")),
    ];
    let outcomes = served.client.batch(&operations, None).await.unwrap();
    let endings: Vec<_> = outcomes.iter().map(|outcome| outcome.outcome).collect();
    let (stored, failed) = (Ending::Stored, Ending::ConditionFailed);
    assert_eq!(endings, [stored, failed, stored, failed, Ending::Found, failed]);
    assert_eq!(outcomes[4].value.as_deref(), Some("3"));
    assert_eq!(outcomes[1].timestamp, outcomes[0].timestamp, "what is there is told");
    assert_eq!(outcomes[5].timestamp, None);
    assert!(outcomes.iter().all(|outcome| outcome.number.is_none()), "none is a counter: {outcomes:?}");
}

#[tokio::test]
async fn a_client_that_has_the_value_is_told_so() {
    let served = serve(true).await;
    let tag = header(&served.send("PUT", "/v1/kv/c/k", "value").await, "etag");
    let get = async |headers: &[(&str, &str)]| served.send_with("GET", "/v1/kv/c/k", headers, "").await;
    let unchanged = get(&[("If-None-Match", &tag)]).await;
    assert_has(&unchanged, &["HTTP/1.1 304", &format!("etag: {tag}")]);
    assert!(unchanged.ends_with("\r\n\r\n"), "{unchanged}");
    served.send("PUT", "/v1/kv/c/k", "other").await;
    assert_has(&get(&[("If-None-Match", &tag)]).await, &["HTTP/1.1 200", "\r\n\r\nother"]);
    assert_has(&get(&[("If-Match", &tag)]).await, &["HTTP/1.1 412", "condition_failed"]);
}

#[tokio::test]
async fn parts_of_a_value_can_be_read_and_joined() {
    let served = serve(true).await;
    let tag = header(&served.send("PUT", "/v1/kv/c/k", "0123456789").await, "etag");
    let part = async |headers: &[(&str, &str)]| served.send_with("GET", "/v1/kv/c/k", headers, "").await;
    let middle = part(&[("Range", "bytes=2-4")]).await;
    assert_has(&middle, &["HTTP/1.1 206", "content-range: bytes 2-4/10", "content-length: 3", "\r\n\r\n234"]);
    assert_has(&part(&[("Range", "bytes=-2")]).await, &["HTTP/1.1 206", "bytes 8-9/10", "\r\n\r\n89"]);
    assert_has(&part(&[("Range", "bytes=7-"), ("If-Range", &tag)]).await, &["HTTP/1.1 206", "\r\n\r\n789"]);
    let beyond = part(&[("Range", "bytes=10-")]).await;
    assert_has(&beyond, &["HTTP/1.1 416", "content-range: bytes */10", "bad_range"]);
    let no_range = part(&[("Range", "bytes=5-1")]).await;
    assert_has(&no_range, &["HTTP/1.1 200", "\r\n\r\n0123456789"]);
    served.send("PUT", "/v1/kv/c/k", "another one").await;
    let whole = part(&[("Range", "bytes=7-"), ("If-Range", &tag)]).await;
    assert_has(&whole, &["HTTP/1.1 200", "accept-ranges: bytes", "\r\n\r\nanother one"]);
    let head = served.send("HEAD", "/v1/kv/c/k", "").await;
    assert_has(&head, &["HTTP/1.1 200", "content-length: 11", "kith-timestamp: "]);
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_large_value_comes_whole() {
    let served = serve(true).await;
    let value: Vec<u8> = (0..MAX_VALUE_BYTES).map(|at| (at / 7) as u8).collect();
    let value = Bytes::from(value);
    served.client.put("c", b"k", value.clone(), &WriteOptions::default()).await.unwrap();
    assert_eq!(served.client.get("c", b"k", None).await.unwrap().unwrap().value, value);
}

#[tokio::test]
async fn increments_add_up_and_a_counter_has_no_entity_tag() {
    let served = serve(true).await;
    let add = async |by: &str| served.send("POST", &format!("/v1/kv/c/n?increment={by}"), "").await;
    assert_has(&add("5").await, &["HTTP/1.1 200", r#""number":5"#, "kith-copies: 2"]);
    assert_has(&add("-7").await, &["HTTP/1.1 200", r#""number":-2"#]);
    let counter = served.send("GET", "/v1/kv/c/n", "").await;
    assert_has(&counter, &["kith-timestamp: ", "\r\n\r\n-2"]);
    assert!(!counter.contains("etag"), "{counter}");
    let conditional = [("If-Match", "*")];
    let refused = served.send_with("POST", "/v1/kv/c/n?increment=1", &conditional, "").await;
    assert_has(&refused, &["HTTP/1.1 400", "bad_condition"]);
}

/// The keys of all pages, in their order.
async fn keys_of(served: &Served, query: &str) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/kv/c?values=false&limit=2{query}{after}");
        let answer = served.send("GET", &path, "").await;
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let listing: kith::node::handle::documents::Listing = serde_json::from_str(body).unwrap();
        assert!(listing.entries.iter().all(|entry| entry.value.is_none() && entry.timestamp.is_some()));
        keys.extend(listing.entries.into_iter().map(|entry| entry.key.unwrap()));
        let Some(next) = listing.next else { return keys };
        after = format!("&after={next}");
    }
}

#[tokio::test]
async fn a_listing_goes_both_ways_between_its_bounds() {
    let served = serve(true).await;
    for key in ["a", "b", "ba", "b&=", "bc", "c", "d"] {
        served.client.put("c", key.as_bytes(), Bytes::new(), &WriteOptions::default()).await.unwrap();
    }
    assert_eq!(keys_of(&served, "").await, ["a", "b", "b&=", "ba", "bc", "c", "d"]);
    assert_eq!(keys_of(&served, "&reverse=true").await, ["d", "c", "bc", "ba", "b&=", "b", "a"]);
    assert_eq!(keys_of(&served, "&prefix=b&reverse=true").await, ["bc", "ba", "b&=", "b"]);
    assert_eq!(keys_of(&served, "&start=b&end=bc").await, ["b", "b&=", "ba"]);
    assert_eq!(keys_of(&served, "&start=ba&end=d&reverse=true").await, ["c", "bc", "ba"]);
    assert_eq!(keys_of(&served, "&start=c&end=b").await, Vec::<String>::new());
}
