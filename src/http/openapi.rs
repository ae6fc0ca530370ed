//! The description of this interface for programs, at `/v1/openapi.json`.
//!
//! Documents are described by the types that are written and read ([`schemars`]), operations by the list in
//! [`operations`]. A test holds that list against the routes; `integration/openapi.sh` tries a running member by
//! what is served here, and every other test of HTTP checks that the errors it meets are in it.

mod operations;
mod people;
mod secrets;
mod settings;

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// For each status the codes that an error may have with it.
type Failures = &'static [(u16, &'static [&'static str])];

/// Where the types of documents are described.
const SCHEMAS: &str = "#/components/schemas/";

/// `GET /v1/openapi.json`
pub(super) async fn serve() -> impl IntoResponse {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| Bytes::from(document().to_string()));
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], document.clone())
}

/// The whole description.
fn document() -> Value {
    let mut api = Api {
        generator: SchemaSettings::draft2020_12()
            .with(|settings| {
                settings.definitions_path = SCHEMAS.trim_start_matches('#').into();
                settings.meta_schema = None;
            })
            .into_generator(),
        paths: BTreeMap::new(),
    };
    operations::describe(&mut api);
    people::describe(&mut api);
    let schemas = api.generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kith",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
            "description": operations::ABOUT,
        },
        "servers": [{ "url": "/", "description": "any member" }],
        "paths": api.paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{ "token": [] }, {}],
    })
}

/// What is described so far.
struct Api {
    generator: SchemaGenerator,
    paths: BTreeMap<String, Map<String, Value>>,
}

impl Api {
    /// A reference to the description of a type.
    fn schema<T: JsonSchema>(&mut self) -> Value {
        self.generator.subschema_for::<T>().to_value()
    }

    /// Adds an operation that takes a token where the cluster has any.
    fn add(&mut self, method: &str, path: &str, operation: Operation) {
        self.add_open(method, path, operation.fails(operations::OF_TOKENS));
    }

    /// Adds an operation that is open to everybody.
    fn add_open(&mut self, method: &str, path: &str, operation: Operation) {
        self.paths.entry(path.to_owned()).or_default().insert(method.to_owned(), operation.describe());
    }
}

/// One operation while it is described.
struct Operation {
    about: Map<String, Value>,
    answers: BTreeMap<u16, Answer>,
}

/// What an operation answers with one status.
#[derive(Default)]
struct Answer {
    description: String,
    /// By media type what it is; nothing of one without a body.
    content: BTreeMap<&'static str, Value>,
    headers: Map<String, Value>,
    /// Of an error all codes that it may have.
    codes: BTreeSet<&'static str>,
}

impl Operation {
    fn new(id: &str, tag: &str, summary: &str) -> Self {
        let about = [("operationId", json!(id)), ("tags", json!([tag])), ("summary", json!(summary))];
        let about = about.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { about, answers: BTreeMap::new() }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.about.insert(name.to_owned(), value);
        self
    }

    /// What there is to know beyond the summary.
    fn says(self, description: &str) -> Self {
        self.with("description", json!(description))
    }

    fn takes<const N: usize>(self, parameters: [Value; N]) -> Self {
        self.with("parameters", Value::Array(parameters.into()))
    }

    fn body(self, media_type: &str, schema: Value, required: bool) -> Self {
        let body = json!({ "required": required, "content": { (media_type): { "schema": schema } } });
        self.with("requestBody", body)
    }

    fn answers(mut self, status: u16, description: &str, media_type: &'static str, schema: Value) -> Self {
        let answer = self.answers.entry(status).or_default();
        answer.description = description.to_owned();
        answer.content.insert(media_type, schema);
        self
    }

    fn answers_json(self, description: &str, schema: Value) -> Self {
        self.answers(200, description, "application/json", schema)
    }

    fn answers_empty(mut self, status: u16, description: &str) -> Self {
        self.answers.entry(status).or_default().description = description.to_owned();
        self
    }

    /// Headers of an answer.
    fn with_headers(mut self, status: u16, headers: &[(&str, &str)]) -> Self {
        let answer = self.answers.entry(status).or_default();
        for (name, description) in headers {
            let header = json!({ "description": description, "schema": { "type": "string" } });
            answer.headers.insert((*name).to_owned(), header);
        }
        self
    }

    /// Errors: for each status the codes that it may come with.
    fn fails(mut self, failures: Failures) -> Self {
        for (status, codes) in failures {
            self.answers.entry(*status).or_default().codes.extend(*codes);
        }
        self
    }

    fn describe(mut self) -> Value {
        let answers = std::mem::take(&mut self.answers).into_iter();
        let answers = answers.map(|(status, answer)| (status.to_string(), answer.describe()));
        let answers = Value::Object(answers.collect());
        Value::Object(self.with("responses", answers).about)
    }
}

impl Answer {
    fn describe(self) -> Value {
        let codes = || self.codes.iter().copied().collect::<Vec<_>>();
        let (description, content) = match self.content {
            // Some of its codes are not known here, so it is described in words.
            content if self.codes.is_empty() || !content.is_empty() => (self.description, content),
            _ => {
                let error = json!({
                    "allOf": [{ "$ref": format!("{SCHEMAS}ErrorDocument") }],
                    "properties": { "error": { "enum": codes() } },
                });
                (format!("`{}`", codes().join("`, `")), BTreeMap::from([("application/json", error)]))
            }
        };
        let mut answer = json!({ "description": description });
        if let Value::Object(answer) = &mut answer {
            if !content.is_empty() {
                let of_type = |(media_type, schema)| (str::to_owned(media_type), json!({ "schema": schema }));
                answer.insert("content".to_owned(), content.into_iter().map(of_type).collect());
            }
            if !self.headers.is_empty() {
                answer.insert("headers".to_owned(), Value::Object(self.headers));
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The routes as their list in the source has them: `("get", "/v1/status")` and so on.
    fn routes() -> BTreeSet<(String, String)> {
        let source = include_str!("routes.rs");
        let mut routes = BTreeSet::new();
        for route in source.split(".route(").skip(1) {
            let (_, rest) = route.split_once('"').unwrap();
            let (path, handlers) = rest.split_once('"').unwrap();
            let handlers = handlers.split(".fallback").next().unwrap();
            for method in ["get", "put", "post", "patch", "delete"] {
                if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                    routes.insert((method.to_owned(), path.replace("{*", "{")));
                }
            }
        }
        routes
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let described = paths.iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()))
        });
        let described: BTreeSet<_> = described.collect();
        assert!(described.len() > 20, "{described:?}");
        assert_eq!(routes(), described);
    }

    #[test]
    fn whatever_is_referred_to_is_there_and_operations_have_names_of_their_own() {
        let document = document();
        let mut names = BTreeSet::new();
        for (_, methods) in document["paths"].as_object().unwrap() {
            for (_, operation) in methods.as_object().unwrap() {
                assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
            }
        }
        let text = document.to_string();
        let references = text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        for reference in references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}
