//! What tests across crates share: real parts, started on free ports and gone with their guard.
//!
//! - [`suite`]: end-to-end tests by name, each with what it needs; what cannot be had is said by name too.
//! - [`cluster`]: a real frontend with its store and its containers, that can be killed and started again.
//! - [`frontends`]: several frontends on one Redis, as processes; [`contained`]: the same with every part in
//!   a container of its own, each of which can be killed, stopped, restarted and cut off.
//! - [`deployment`]: models as tests deploy them; [`onnx`]: one as a file.
//! - [`skysail`]: the command line; [`docker`]: what Docker holds of a cluster; [`test_image`]: an image of a
//!   container that does what a test says.
//! - [`rest`]: requests and their replies, for both REST APIs.
//! - [`http2`]: many requests at once on one connection; [`wire`]: HTTP written by hand, for what no
//!   well-behaved client sends.
//! - [`load`]: a sustained load on several frontends; [`journal`] judges what becomes of each query.
//! - [`program`]: a child process with its log; [`binaries`] finds the programs.
//! - [`promtool`]: Prometheus' own linter of metrics.
//! - [`redis`]: a Redis server that can be killed, frozen and emptied; [`late`]: a way to it that takes long.
//! - [`wait`]: waiting for a state, with a bound.

pub mod binaries;
pub mod cluster;
pub mod contained;
pub mod deployment;
pub mod docker;
pub mod followed_store;
pub mod frontends;
pub mod http2;
pub mod journal;
pub mod late;
pub mod load;
pub mod onnx;
pub mod program;
pub mod promtool;
pub mod redis;
pub mod rest;
pub mod skysail;
pub mod suite;
pub mod test_image;
pub mod wait;
pub mod wire;
