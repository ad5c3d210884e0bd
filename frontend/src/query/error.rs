//! The reasons for which a request is refused, and the responses that say so.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::ACCEPT_ENCODING;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::{ModelName, ModelVersion};
use skysail_proto::signature::Mismatch;

use crate::http::{self, BodyError, encoding};

/// Why a request is not a query. A query, once read, is always answered with 200.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// The body is not the JSON of a request.
    #[error("{0}")]
    Json(String),
    /// The body did not come as its headers say.
    #[error("{0}")]
    Body(String),
    /// The pinned version does not exist.
    #[error("Requested version: {version} does not exist for model: {model}")]
    UnknownVersion {
        /// The version as the request wrote it.
        version: String,
        /// The linked model.
        model: ModelName,
    },
    /// A version was pinned where no model is linked.
    #[error("Requested version: {0} does not exist: no model is linked to the application")]
    VersionWithoutModel(String),
    /// No application of that name is registered.
    #[error("no application `{0}` is registered")]
    UnknownApplication(String),
    /// No such path exists.
    #[error("nothing is at {0}; queries go to POST /{{application}}/predict")]
    UnknownPath(String),
    /// The path does not take this method.
    #[error("{0} does not take {1}")]
    Method(String, String),
    /// The body is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The body has an encoding that is not supported.
    #[error("{0}")]
    Encoding(String),
    /// The body did not come in time.
    #[error("{0}")]
    TooSlow(String),
    /// A header has a value that cannot be used.
    #[error("in the header `{name}`: {why}")]
    Header {
        /// The header's name.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The pinned version does not answer the application.
    #[error("Requested version: {version} of model: {model} does not answer this application: {why}")]
    VersionMisfit {
        /// The pinned version.
        version: ModelVersion,
        /// The linked model.
        model: ModelName,
        /// The first difference of what they take and give.
        why: Mismatch,
    },
    /// One input does not fit in a message to a container.
    #[error("an input of {size} bytes is larger than the {limit} that reach a container in one message")]
    InputTooLarge {
        /// The input's size in bytes, as it would travel.
        size: usize,
        /// The largest size in bytes.
        limit: usize,
    },
    /// The request has more rows than one request may have.
    #[error(
        "`input_batch` has more than the {max_rows} rows that one request may have: send several requests, or start \
         the frontend with a larger --max-rows"
    )]
    TooManyRows {
        /// The most rows that one request may have.
        max_rows: usize,
    },
    /// The frontend knows no application yet.
    #[error("{0}")]
    NotReady(String),
}

impl QueryError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Json(_)
            | Self::Body(_)
            | Self::Header { .. }
            | Self::UnknownVersion { .. }
            | Self::VersionMisfit { .. }
            | Self::VersionWithoutModel(_) => ErrorCode::InvalidArgument,
            Self::UnknownApplication(_) | Self::UnknownPath(_) => ErrorCode::NotFound,
            Self::Method(..) => ErrorCode::MethodNotAllowed,
            Self::TooLarge(_) | Self::InputTooLarge { .. } | Self::TooManyRows { .. } => ErrorCode::TooLarge,
            Self::Encoding(_) => ErrorCode::Unsupported,
            Self::TooSlow(_) => ErrorCode::TooSlow,
            Self::NotReady(_) => ErrorCode::Unavailable,
        }
    }

    /// The class of error, in Clipper's words where Clipper had the class.
    fn class(&self) -> &'static str {
        match self {
            Self::Json(_) => "Json error",
            Self::Body(_) => "Body error",
            Self::UnknownVersion { .. } | Self::VersionMisfit { .. } | Self::VersionWithoutModel(_) => {
                "Query processing error"
            }
            Self::UnknownApplication(_) => "Unknown application",
            Self::UnknownPath(_) => "Not found",
            Self::Method(..) => "Method not allowed",
            Self::TooLarge(_) | Self::InputTooLarge { .. } | Self::TooManyRows { .. } => "Request too large",
            Self::Encoding(_) => "Unsupported encoding",
            Self::TooSlow(_) => "Request too slow",
            Self::Header { .. } => "Header error",
            Self::NotReady(_) => "Not ready",
        }
    }
}

impl From<BodyError> for QueryError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(_) | BodyError::InflatedTooLarge(_) => Self::TooLarge(error.to_string()),
            BodyError::Encoding(why) => Self::Encoding(why),
            BodyError::TooSlow { .. } => Self::TooSlow(error.to_string()),
            BodyError::Broken(_) | BodyError::Undecodable(_) => Self::Body(error.to_string()),
        }
    }
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code().http_status()).expect("error codes map to valid statuses");
        let body = Json(json!({ "error": self.class(), "cause": self.to_string() }));
        match self {
            Self::TooSlow(_) => (status, http::CLOSES, body).into_response(),
            Self::Encoding(_) => (status, [(ACCEPT_ENCODING, encoding::TAKEN)], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}
