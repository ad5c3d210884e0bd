//! The name of a store's life. What follows from it is decided in `skysail_core::store`, which draws no random numbers.

/// A name for a store's life that no other life has.
pub(super) fn fresh_incarnation() -> String {
    format!("{:016x}", fastrand::u64(..))
}
