//! What is for people who look at a member: its page and what it noticed lately.

use super::operations::{CLUSTER, OF_MEMBER, parameter, query};
use super::{Api, Operation};
use crate::node::handle::events::Events;
use crate::terminal;
use serde_json::json;

const PAGE: &str = "The page";

pub(super) fn describe(api: &mut Api) {
    let text = || json!({ "type": "string" });
    let file = |id: &str, summary: &str| {
        Operation::new(id, PAGE, summary)
            .says("With an entity tag; `If-None-Match` with it is answered 304.")
            .answers_empty(304, "The client has it.")
            .fails(&[(504, &["timeout"])])
    };
    let operation = file("index", "The page for browsers, the routes for others")
        .says("Who takes `text/html` gets the page, which has an entity tag, everybody else the list of routes.")
        .answers(200, "The page, or the routes.", "text/html", text())
        .answers(200, "The page, or the routes.", "text/plain", text());
    api.add_open("get", "/", operation);
    let operation = file("style", "How the page looks").answers(200, "Style.", "text/css", text());
    api.add_open("get", "/terminal/style.css", operation);
    let operation = file("icon", "The page's icon").answers(200, "A drawing.", "image/svg+xml", text());
    api.add_open("get", "/terminal/icon.svg", operation);
    let names: Vec<_> = terminal::scripts().map(|asset| asset.name).collect();
    let name = json!({ "type": "string", "enum": names });
    let operation = file("script", "What the page does")
        .takes([parameter("path", "name", name, "A module of it.")])
        .answers(200, "A module.", "text/javascript", text())
        .fails(&[(404, &["no_route"])]);
    api.add_open("get", "/terminal/script/{name}", operation);

    let events = api.schema::<Events>();
    let number = json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX });
    let operation = Operation::new("events", CLUSTER, "What this member noticed lately")
        .says("Answered in every state. Members that came, went, lived or died, changed settings, trouble with disk or clock; the last few hundred. Numbers begin anew with each incarnation.")
        .takes([query("after", number, "Only what came behind the event of this number.")])
        .answers_json("As this member noticed it.", events)
        .fails(OF_MEMBER);
    api.add("get", "/v1/events", operation);
}
