//! Query strings: parameters by name, their values as bytes.
//!
//! Keys are bytes, so values are percent-decoded to bytes and not to text (`+` means a space, as
//! forms have it). What a route does not know is an error that names what it does know: a
//! misspelt `limit` that is ignored costs more than one that is refused.

use crate::model::limits::MAX_SCAN_LIMIT;
use crate::model::settings::Level;
use crate::model::spelling::nearest;
use crate::node::handle::documents::parse_life;
use axum::http::Uri;
use percent_encoding::percent_decode;

/// Characters of a client's text that an error repeats.
const SHOWN: usize = 40;

/// What is wrong with a query string. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("`{name}` is no parameter of this route; {hint}")]
    Unknown { name: String, hint: String },
    #[error("`{0}` is given more than once")]
    Repeated(&'static str),
    #[error("`{name}`: {problem}")]
    Invalid { name: &'static str, problem: String },
}

/// The parameters of one request.
#[derive(Debug)]
pub(super) struct Query {
    values: Vec<(&'static str, Vec<u8>)>,
}

impl Query {
    /// Reads the query of `uri`, in which only the `known` names may appear, each once.
    pub(super) fn parse(uri: &Uri, known: &[&'static str]) -> Result<Self, QueryError> {
        let mut values: Vec<(&'static str, Vec<u8>)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name);
            let Some(name) = known.iter().find(|known| known.as_bytes() == name) else {
                return Err(unknown(&name, known));
            };
            if values.iter().any(|(seen, _)| seen == name) {
                return Err(QueryError::Repeated(name));
            }
            values.push((name, decode(value)));
        }
        Ok(Self { values })
    }

    /// A parameter's bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_slice())
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, QueryError> {
        let Some(bytes) = self.bytes(name) else { return Ok(None) };
        let value = std::str::from_utf8(bytes).map_err(|_| "this is not UTF-8".to_owned()).and_then(parse);
        value.map(Some).map_err(|problem| QueryError::Invalid { name, problem })
    }

    /// `consistency`: how many owners must have a change or answer a read.
    pub(super) fn level(&self) -> Result<Option<Level>, QueryError> {
        self.parsed("consistency", |text| text.parse::<Level>().map_err(|error| error.to_string()))
    }

    /// `ttl`, in milliseconds; `none` as [`parse_life`] has it.
    pub(super) fn ttl_ms(&self) -> Result<Option<u64>, QueryError> {
        self.parsed("ttl", |text| parse_life(text).map_err(|error| error.to_string()))
    }

    /// `limit`: keys in a page.
    pub(super) fn limit(&self) -> Result<Option<usize>, QueryError> {
        self.parsed("limit", |text| {
            let limit = text.parse::<usize>().ok().filter(|limit| (1..=MAX_SCAN_LIMIT).contains(limit));
            limit.ok_or_else(|| {
                format!("`{}` is not a whole number from 1 to {MAX_SCAN_LIMIT}", shorten(text))
            })
        })
    }

    /// A parameter that is a whole number, also below zero.
    pub(super) fn whole_number(&self, name: &'static str) -> Result<Option<i64>, QueryError> {
        self.parsed(name, |text| {
            text.parse().map_err(|_| format!("`{}` is not a whole number of 64 bits", shorten(text)))
        })
    }

    /// A parameter that is `true` or `false`.
    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, QueryError> {
        self.parsed(name, |text| {
            text.parse().map_err(|_| format!("`{}` is neither `true` nor `false`", shorten(text)))
        })
    }

    /// A parameter that is text.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, QueryError> {
        self.parsed(name, |text| Ok(text.to_owned()))
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

fn decode(text: &str) -> Vec<u8> {
    let spaced: Vec<u8> = text.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
    percent_decode(&spaced).collect()
}

fn unknown(name: &[u8], known: &[&'static str]) -> QueryError {
    let name = shorten(&String::from_utf8_lossy(name));
    let hint = match nearest(&name, known.iter().copied()) {
        None if known.is_empty() => "it has none".to_owned(),
        None => format!("it has {}", known.join(", ")),
        Some(nearest) => format!("did you mean `{nearest}`? It has {}", known.join(", ")),
    };
    QueryError::Unknown { name, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, QueryError> {
        Query::parse(
            &format!("/x?{query}").parse().unwrap(),
            &["prefix", "limit", "ttl", "consistency", "values"],
        )
    }

    #[test]
    fn an_unknown_parameter_is_named_with_its_nearest() {
        let error = parse("limt=3").unwrap_err().to_string();
        assert!(error.contains("`limt`") && error.contains("did you mean `limit`"), "{error}");
        let error = Query::parse(&"/x?a".parse().unwrap(), &[]).unwrap_err().to_string();
        assert!(error.contains("it has none"), "{error}");
    }

    #[test]
    fn values_are_bytes() {
        assert_eq!(parse("prefix=a%ff+b").unwrap().bytes("prefix"), Some(&b"a\xff b"[..]));
        assert_eq!(parse("").unwrap().bytes("prefix"), None);
    }

    #[test]
    fn a_wrong_value_is_named() {
        for query in
            ["limit=0", "limit=x", "limit=10001", "ttl=0", "consistency=most", "values=maybe", "limit=%ff"]
        {
            let query_read = parse(query).unwrap();
            let errors = [
                query_read.limit().err(),
                query_read.ttl_ms().err(),
                query_read.level().err(),
                query_read.flag("values").err(),
            ];
            let error = errors.into_iter().flatten().next().unwrap().to_string();
            assert!(error.contains(query.split('=').next().unwrap()), "{error}");
        }
        assert_eq!(parse("limit=1&limit=2").unwrap_err(), QueryError::Repeated("limit"));
    }
}
