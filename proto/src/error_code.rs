//! What can go wrong at an API's edge, mapped once to HTTP and to gRPC.

/// The kinds of failure a caller can tell apart.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorCode {
    /// The request is malformed or breaks a rule; sending it again will not help.
    InvalidArgument,
    /// What it names does not exist.
    NotFound,
    /// The path exists but not with this method.
    MethodNotAllowed,
    /// What it would create exists already, or the state it expects is no longer so.
    Conflict,
    /// The request is larger than is taken.
    TooLarge,
    /// The request comes in a form that is not taken, such as an encoding.
    Unsupported,
    /// The request did not come as a whole in time.
    TooSlow,
    /// The caller did not show the token that was asked for.
    Unauthenticated,
    /// The caller showed who it is, and may not do this.
    PermissionDenied,
    /// It cannot be done now; it may work later.
    Unavailable,
    /// A defect of ours.
    Internal,
}

impl ErrorCode {
    /// The HTTP status of this failure.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Unsupported => 415,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// The gRPC code of this failure.
    pub const fn grpc_code(self) -> tonic::Code {
        match self {
            Self::InvalidArgument | Self::MethodNotAllowed | Self::Unsupported => {
                tonic::Code::InvalidArgument
            }
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::PermissionDenied => tonic::Code::PermissionDenied,
            Self::NotFound => tonic::Code::NotFound,
            Self::Conflict => tonic::Code::FailedPrecondition,
            Self::TooLarge => tonic::Code::ResourceExhausted,
            Self::TooSlow => tonic::Code::DeadlineExceeded,
            Self::Internal => tonic::Code::Internal,
            Self::Unavailable => tonic::Code::Unavailable,
        }
    }

    /// A short title, for problem details.
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidArgument => "Invalid request",
            Self::Unauthenticated => "Not authenticated",
            Self::PermissionDenied => "Not permitted",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Conflict => "Conflict",
            Self::TooLarge => "Request too large",
            Self::Unsupported => "Not supported",
            Self::TooSlow => "Request too slow",
            Self::Internal => "Internal error",
            Self::Unavailable => "Unavailable",
        }
    }
}
