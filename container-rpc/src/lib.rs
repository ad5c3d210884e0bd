//! Both ends of the container stream.
//!
//! A model container implements [`model::Model`] and calls [`serve`]; everything else is here: dialling
//! the frontends, credits, draining, errors. The frontend's end turns each stream into a replica that can
//! be sent batches. In reading order:
//!
//! - [`model`]: what the author of a container writes against. No tokio in sight.
//! - [`settings`]: the container's environment, read once.
//! - [`client`]: the container's end: warm-up, connections, the model's thread, draining.
//! - [`credit`]: which frontend gets the next slot; pure.
//! - [`session`]: what may be said when on one stream; pure.
//! - [`server`]: the frontend's end.
//! - [`sample`]: what a batch took, as containers tell frontends.
//! - [`transport`]: keep-alive, windows and limits, the same for both ends.
//!
//! A whole container:
//!
//! ```no_run
//! use skysail_container_rpc::{Batch, Model, ModelError, Outputs, serve};
//!
//! struct Shout;
//!
//! impl Model for Shout {
//!     fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
//!         Ok(batch.strings()?.map(str::to_uppercase).collect())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     serve(Shout)
//! }
//! ```

#![warn(missing_docs)]

pub mod client;
pub mod credit;
pub mod model;
pub mod sample;
pub mod server;
pub mod session;
pub mod settings;
pub mod transport;

pub use bytes::Bytes;
pub use client::{ServeError, serve, serve_with};
pub use model::{Batch, Element, Model, ModelError, Outputs, TensorBatch, little_endian};
pub use settings::Settings;
pub use skysail_proto::datatype::Datatype;
pub use skysail_proto::signature::{self, Signature, TensorSpec};
pub use skysail_proto::tensor::Tensor;
pub use skysail_proto::value::{Columns, Input, InputRef, InputType};
