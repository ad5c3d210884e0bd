//! What the author of a container writes against.
//!
//! A model of one row type, which answers with text:
//!
//! ```
//! use skysail_container_rpc::{Batch, Model, ModelError, Outputs};
//!
//! struct Sum;
//!
//! impl Model for Sum {
//!     fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
//!         Ok(batch.doubles()?.map(|row| row.iter().sum::<f64>().to_string()).collect())
//!     }
//! }
//! ```
//!
//! A model of tensors, which says itself what it takes and gives:
//!
//! ```
//! use skysail_container_rpc::{Batch, Input, Model, ModelError, Outputs, Signature};
//! use skysail_container_rpc::{Datatype, Tensor};
//!
//! /// How bright each image is.
//! struct Brightness;
//!
//! impl Model for Brightness {
//!     fn signature(&self) -> Option<Signature> {
//!         let image = "image:FP32[2,2]".parse().expect("a tensor");
//!         let mean = "mean:FP32[]".parse().expect("a tensor");
//!         Signature::tensors([image], [mean]).ok()
//!     }
//!
//!     fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
//!         let images = batch.tensor("image")?;
//!         let pixels = images.as_slice::<f32>()?;
//!         let means: Vec<f32> = pixels.chunks_exact(4).map(|image| image.iter().sum::<f32>() / 4.0).collect();
//!         let mut outputs = Outputs::new();
//!         outputs.stack_elements("mean", &[batch.len()], means)?;
//!         Ok(outputs)
//!     }
//! }
//!
//! let mut model = Brightness;
//! let signature = model.signature().expect("it says so");
//! let pixels: Vec<u8> = [0.0_f32, 0.5, 0.5, 1.0].iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
//! let image = Tensor::new(Datatype::Fp32, [2, 2].as_slice(), pixels)?;
//! let batch = Batch::of(&signature, &[Input::tensors([image])])?;
//! let outputs = model.predict(&batch)?.into_wire(&batch)?;
//! assert_eq!(outputs.tensors[0].data[..], 0.5_f32.to_le_bytes());
//! # Ok::<(), ModelError>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;

use skysail_proto::signature::Signature;
use skysail_proto::value::Input;

mod answers;
mod batch;
mod element;
mod outputs;
mod tensor_batch;

pub use batch::Batch;
pub use element::{Element, little_endian};
pub use outputs::Outputs;
pub use tensor_batch::TensorBatch;

pub(crate) use answers::Answers;
pub(crate) use batch::Part;

/// A trained model, ready to answer.
pub trait Model: Send + 'static {
    /// Answers a batch: one output for each input, in order.
    ///
    /// Called on the model's own thread, one batch at a time; it may compute or block as long as it likes
    /// without the connection noticing. An error fails the batch, [`Outputs::push_error`] and [`Outputs::fail`] fail
    /// one input, and a panic is caught and fails the batch: the container lives on. Outputs that are not those of the
    /// signature fail the batch too.
    ///
    /// Inputs whose time ran out while they waited in the container are not in the batch.
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError>;

    /// Inputs to warm up with, all as the signature says; none by default.
    ///
    /// Asked once, on the model's thread, before the container registers; not where the deployment gives an
    /// input (`--warm-up`). The container then has the model answer them in batches of 1, 2, 4 and so on up
    /// to the largest, for about a second, and drops the answers. What the batches took goes to the frontend,
    /// which schedules well from the first query on; without it learns from the first queries.
    fn warm_up(&mut self) -> Vec<Input> {
        Vec::new()
    }

    /// What the model takes and gives, if it knows that itself; by default it takes what its environment declares.
    ///
    /// Asked once, before anything else. Where the environment declares a signature too (`SKYSAIL_INPUT_TYPE`,
    /// `SKYSAIL_SIGNATURE`), the two must be equal, or the container ends with both in words.
    fn signature(&self) -> Option<Signature> {
        None
    }

    /// What else the model knows of itself, for people to read, such as the names of its classes; at most 64 KiB.
    ///
    /// Asked once, before anything else.
    fn annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// Why a model could not answer, in its own words: they reach whoever asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModelError(String);

impl ModelError {
    /// An error with these words.
    pub fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }

    /// Its words.
    pub fn message(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets a model use `?` on whatever its library fails with.
impl<E: std::error::Error> From<E> for ModelError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// A place in a batch, as it travels.
fn wire_index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
