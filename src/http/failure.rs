//! Errors as clients see them: a status, a name for programs and a sentence for people.

use super::query::QueryError;
use crate::model::edit::EditError;
use crate::model::key::KeyError;
use crate::node::handle::documents::{DocumentError, Ending, ErrorDocument, Outcome};
use crate::node::handle::{ControlError, OperationError, Stopped};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Why a request was not answered as it wished.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: String,
    message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    /// The body is not what it should be.
    pub(super) fn bad_document(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_document", message)
    }

    pub(super) fn too_large(what: &str, limit: usize) -> Self {
        let message = format!("{what} has at most {limit} bytes; nothing was changed");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// Of a body that is a value: whose bound is a setting.
    pub(super) fn of_value(mut self) -> Self {
        if self.code == "too_large" {
            "value_too_large".clone_into(&mut self.code);
            self.message.push_str("; the setting `max_value_bytes` allows up to 8MiB");
        }
        self
    }

    /// Adds where in the input the error is.
    pub(super) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// As one operation of a batch is answered, where only it failed.
    pub(super) fn outcome(self) -> Outcome {
        Outcome { error: Some(self.code), message: Some(self.message), ..Outcome::new(Ending::Failed) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let document = ErrorDocument { error: self.code, message: self.message };
        let mut response = (self.status, Json(document)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        use OperationError as E;
        let status = match &error {
            E::SystemCollection => StatusCode::FORBIDDEN,
            E::ValueTooLarge { .. } | E::Edit(EditError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            E::NoCluster | E::Gone(_) | E::Counter(_) | E::Edit(_) => StatusCode::CONFLICT,
            E::Storage(_) => StatusCode::INSUFFICIENT_STORAGE,
            E::Starting
            | E::Stopping
            | E::Overloaded
            | E::NoRoomForHint
            | E::TooManyWatches
            | E::NotEnoughOwners { .. } => StatusCode::SERVICE_UNAVAILABLE,
            E::Unknown { .. } | E::Unreachable => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        use ControlError as E;
        let status = match &error {
            E::NoCluster
            | E::Creating(_)
            | E::RecordsLost { .. }
            | E::OtherCluster { .. }
            | E::OtherContent(_)
            | E::Left(_)
            | E::Removed { .. }
            | E::Outdated { .. }
            | E::NotActive(_)
            | E::LastMember
            | E::Oneself(_)
            | E::Alive(_)
            | E::LastCopy { .. }
            | E::NoMajority { .. }
            | E::FirstToken
            | E::TokenExists(_)
            | E::LastAdminToken(_)
            | E::SecretStep(_) => StatusCode::CONFLICT,
            E::InvalidCluster(_) | E::InvalidSettings(_) | E::InvalidToken(_) | E::InvalidSecret(_) => {
                StatusCode::BAD_REQUEST
            }
            E::UnknownMember { .. } | E::UnknownToken { .. } | E::UnknownVersion(_) => StatusCode::NOT_FOUND,
            E::Unconfirmed(_) => StatusCode::GATEWAY_TIMEOUT,
            E::Refused { .. } | E::Forbidden(_) => StatusCode::FORBIDDEN,
            E::Unreachable { .. } => StatusCode::BAD_GATEWAY,
            E::Storage(_) => StatusCode::INSUFFICIENT_STORAGE,
            E::Starting | E::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<Stopped> for Failure {
    fn from(error: Stopped) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", error.to_string())
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_key", error.to_string())
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        Self::bad_document(error.to_string())
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_parameter", error.to_string())
    }
}
