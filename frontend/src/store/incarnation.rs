//! The name of a store's life. What follows from it is decided in `skysail_core::store`, which draws no random numbers.

/// A random name for a store's life, 16 hex digits.
pub(super) fn fresh_incarnation() -> String {
    format!("{:016x}", fastrand::u64(..))
}
