//! Skysail's contracts and vocabulary.
//!
//! What parts of Skysail say to each other, and the types they say it in; no behaviour beyond parsing and
//! conversion, and no dependency on any other crate of ours. In reading order:
//!
//! - [`ids`]: the names of applications, models, versions, replicas and clusters, parsed once at the edge.
//! - [`datatype`]: what an element of a tensor is.
//! - [`signature`]: what a model takes and gives, and whether an application fits it.
//! - [`tensor`]: one tensor, and the same tensor of a whole batch; [`copies`] counts what is copied of them.
//! - [`value`]: [`value::Input`] and [`value::Output`], and their only conversions to and from JSON and the wire.
//! - [`json`]: JSON that is looked through, and not kept.
//! - [`container`]: the container protocol, generated from `skysail/container/v1/container.proto`.
//! - [`peer`]: what frontends ask each other, generated from `skysail/peer/v1/peer.proto`.
//! - [`admin`]: the admin API's JSON bodies, shared by the server and the CLI; [`admin_token`] guards it.
//! - [`deployment`]: how a version runs: image, limits, batching. Part of the catalog and of the admin API.
//! - [`error_code`]: one list of what can go wrong, mapped once to HTTP and gRPC.
//! - [`sha256`]: the digests by which uploaded files are named.
//! - [`labels`]: the Docker labels and environment variables that tie containers to a cluster.

#![warn(missing_docs)]

pub mod admin;
pub mod admin_token;
pub mod copies;
pub mod datatype;
pub mod deployment;
pub mod error_code;
pub mod ids;
pub mod json;
pub mod labels;
pub mod sha256;
pub mod signature;
pub mod tensor;
pub mod value;

/// The container protocol, generated.
pub mod container {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated; documented in the .proto"
    )]
    tonic::include_proto!("skysail.container.v1");

    /// The version of the protocol that this crate describes.
    pub const PROTOCOL_VERSION: u32 = 1;

    /// The largest message either side sends or takes, in bytes: a batch beyond it is refused before it
    /// is sent, with an error that says so.
    pub const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;
}

/// The peer channel, generated.
pub mod peer {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated; documented in the .proto"
    )]
    tonic::include_proto!("skysail.peer.v1");
}
