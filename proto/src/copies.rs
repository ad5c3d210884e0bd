//! Counts the bytes of tensors that are copied, for the test that promises how often that is.
//!
//! Without the feature `count-copies` nothing is counted, and nothing is compiled in.

/// Notes that `bytes` bytes of a tensor are copied.
#[cfg(not(feature = "count-copies"))]
#[inline]
pub fn copied(_bytes: usize) {}

/// Notes that `bytes` bytes of a tensor are copied.
#[cfg(feature = "count-copies")]
pub fn copied(bytes: usize) {
    COPIED.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(feature = "count-copies")]
static COPIED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Bytes of tensors copied in this process since the last call.
#[cfg(feature = "count-copies")]
pub fn take() -> usize {
    COPIED.swap(0, std::sync::atomic::Ordering::Relaxed)
}
