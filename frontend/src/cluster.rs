//! What the frontends of a cluster tell each other, through the metadata store.
//!
//! - [`view`]: what this frontend is and sees, rebuilt for each announcement.
//! - [`announcer`]: announces it every second, and at once when something in it changes.
//! - [`watch`]: the one view of the cluster, of this frontend's own and all others', for everybody who asks.
//! - [`membership`]: follows what the others announce; tells containers where the query frontends are.
//!
//! Nothing of this is on the path of a query: what is counted there is looked at once a second.

pub(crate) mod announcer;
pub(crate) mod membership;
mod rate;
pub(crate) mod view;
pub(crate) mod watch;

pub(crate) use announcer::Announcer;
pub(crate) use membership::Membership;
pub(crate) use view::{Identity, Observer};
pub(crate) use watch::ClusterWatch;
