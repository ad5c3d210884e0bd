//! What tests across crates share: real parts, started on free ports and gone with their guard.
//!
//! - [`redis`]: a Redis server that can be killed, frozen and emptied.

pub mod redis;
