//! What a store of the catalog promises, and how it is noticed that a store broke its promise.
//!
//! A store holds texts by keys and counts its commits ([`Generation`](crate::catalog::Generation)). It can go back to
//! an earlier generation, or lose single documents of the current one. [`Proof`] tells the second, [`Setback`] both:
//! what was lost, who holds it, and which generation ends the doubt. Reading, writing and words for people are the
//! frontend's. What the reconciler does on the word of other frontends is in [`reconcile::doubt`](crate::reconcile::doubt()).

mod lives;
mod proof;
mod setback;

pub use self::lives::{generation_after, remembered_lives};
pub use self::proof::{Contents, Difference, Inventory, Proof};
pub use self::setback::{Damage, Holder, Lost, RESTORE_WISH, Seen, Setback, Steps, Stored};
