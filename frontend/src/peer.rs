//! The peer channel: what frontends ask each other directly, beside what they announce in the metadata store.
//!
//! - [`figures`]: what a frontend counts and announces nowhere.
//! - [`server`]: answers other frontends on the operations listener, if they show the cluster's key.
//! - [`client`]: asks other frontends, each for a short time only.
//! - [`address`]: where other frontends reach this one.
//!
//! A peer that does not answer costs its asker a word and never more than [`client::PATIENCE`]. Nothing of this is on
//! the path of a query.

mod address;
mod client;
mod figures;
mod server;

/// The name of the service, which is the first part of its paths.
pub(crate) const SERVICE: &str = skysail_proto::peer::peer_service_server::SERVICE_NAME;

pub(crate) use address::PeerAddress;
pub(crate) use client::{Peers, Silence};
pub(crate) use figures::Counting;
pub(crate) use server::{Guard, PeerDoor};
