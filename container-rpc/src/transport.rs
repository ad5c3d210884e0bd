//! How both ends hold a connection: keep-alive, flow-control windows, message limits.

use std::time::Duration;

use skysail_proto::container::MAX_MESSAGE_BYTES;

/// How often each end asks whether the other is still there.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(800);

/// How long it waits for the answer: with the interval, a dead peer is noticed within two seconds.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(900);

/// HTTP/2 flow-control windows, for a stream and for its connection (which carries only that stream).
///
/// The default of 64 KiB makes a large batch wait for a window update, a round trip each time. The
/// protocol's maximum is 2³¹ − 1.
pub const WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// The largest HTTP/2 frame: a batch of some megabytes goes out in a few writes.
pub const FRAME_BYTES: u32 = 1024 * 1024;

/// The largest message taken and sent.
pub const MESSAGE_BYTES: usize = MAX_MESSAGE_BYTES;
