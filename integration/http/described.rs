//! Whether what is served is what the served description says.

use super::*;
use serde_json::Value;
use std::collections::BTreeSet;

pub fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn fits(pattern: &str, path: &str) -> bool {
    let is_greedy = pattern.ends_with("/{key}");
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    let same_length = pattern.len() == path.len() || is_greedy && path.len() > pattern.len();
    let fits = |(part, name): (&&str, &&str)| part.starts_with('{') && !name.is_empty() || part == name;
    same_length && pattern.iter().zip(&path).all(fits)
}

/// The answer's status is described for the operation, and so is the code of an error.
pub fn assert_described(description: &Value, method: &str, path: &str, answer: &str) {
    let path = path.split('?').next().unwrap();
    let paths = description["paths"].as_object().unwrap();
    let found = paths.iter().find(|(pattern, _)| fits(pattern, path));
    let method = method.to_lowercase().replace("head", "get");
    let Some(operation) = found.and_then(|(_, methods)| methods.get(&method)) else {
        return assert_has(answer, &["HTTP/1.1 40", "\"no_"]);
    };
    let described = &operation["responses"][&answer[9..12]];
    assert!(described.is_object(), "not described for {method} {path}:\n{answer}");
    let schema = &described["content"]["application/json"]["schema"];
    let Some(codes) = schema["properties"]["error"]["enum"].as_array() else { return };
    let error: Value = serde_json::from_str(body_of(answer)).unwrap();
    assert!(codes.contains(&error["error"]), "not described for {method} {path}: {error}");
}

#[tokio::test]
async fn what_is_described_is_offered_and_nothing_besides() {
    let served = serve(true).await;
    let description = served.description().await;
    for (pattern, methods) in description["paths"].as_object().unwrap() {
        let path = pattern.replace(['{', '}'], "");
        let request = format!("TRACE {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = served.raw(&request).await;
        assert_has(&answer, &["HTTP/1.1 405", "no_method"]);
        let allowed = answer.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap();
        let allowed: BTreeSet<_> =
            allowed.split(',').filter(|method| *method != "HEAD").map(str::to_lowercase).collect();
        let described: BTreeSet<_> = methods.as_object().unwrap().keys().cloned().collect();
        assert_eq!(allowed, described, "{pattern}");
    }
}
