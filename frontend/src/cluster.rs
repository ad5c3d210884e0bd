//! What the frontends of a cluster tell each other, through the metadata store.
//!
//! - [`view`]: what this frontend is and sees, rebuilt for each announcement.
//! - [`announcer`]: announces it every second, and at once when something in it changes.
//! - [`membership`]: all live frontends' views; tells containers where the query frontends are.
//!
//! Nothing of this is on the path of a query: what is counted there is looked at once a second.

pub mod announcer;
pub mod membership;
mod rate;
pub mod view;

pub use announcer::Announcer;
pub use membership::Membership;
pub use view::{Identity, Observer};
