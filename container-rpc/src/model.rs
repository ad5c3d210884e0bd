//! What the author of a container writes against.
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

use std::fmt;

use bytes::{Bytes, BytesMut};
use skysail_proto::container;
use skysail_proto::value::{Column, InputRef, InputType};

/// A trained model, ready to answer.
pub trait Model: Send + 'static {
    /// Answers a batch: one output for each input, in order.
    ///
    /// Called on the model's own thread, one batch at a time; it may compute or block as long as it likes
    /// without the connection noticing. An error fails the batch, [`Outputs::push_error`] fails one input,
    /// and a panic is caught and fails the batch: the container lives on.
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError>;
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

/// Inputs to answer together, all of one type.
#[derive(Clone, Debug)]
pub struct Batch {
    column: Column,
}

impl Batch {
    /// A batch of these inputs.
    pub fn new(column: Column) -> Self {
        Self { column }
    }

    /// What the inputs are.
    pub fn input_type(&self) -> InputType {
        self.column.input_type()
    }

    /// How many inputs there are; at least one.
    pub fn len(&self) -> usize {
        self.column.len()
    }

    /// Whether there is no input; never so for a batch that a model is given.
    pub fn is_empty(&self) -> bool {
        self.column.is_empty()
    }

    /// The inputs, whatever their type.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = InputRef<'_>> {
        self.column.iter()
    }
}

macro_rules! typed {
    ($($(#[$doc:meta])* $method:ident: $variant:ident => $item:ty;)*) => {
        impl Batch {
            $($(#[$doc])*
            ///
            /// Fails if the batch holds inputs of another type.
            pub fn $method(&self) -> Result<impl ExactSizeIterator<Item = &$item>, ModelError> {
                self.expect_type(InputType::$variant)?;
                Ok(self.column.iter().map(|input| match input {
                    InputRef::$variant(input) => input,
                    _ => unreachable!("all inputs of a column are of its type"),
                }))
            })*
        }
    };
}

typed! {
    /// The inputs, as bytes.
    bytes: Bytes => [u8];
    /// The inputs, as 32-bit integers.
    integers: Integers => [i32];
    /// The inputs, as 32-bit floats.
    floats: Floats => [f32];
    /// The inputs, as 64-bit floats.
    doubles: Doubles => [f64];
    /// The inputs, as text.
    strings: Strings => str;
}

impl Batch {
    fn expect_type(&self, expected: InputType) -> Result<(), ModelError> {
        let given = self.input_type();
        if given == expected {
            return Ok(());
        }
        Err(ModelError(format!(
            "the model takes {expected}, and was sent {given}: deploy it with input type {expected}"
        )))
    }
}

/// A model's answers, one for each input, in order.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    data: BytesMut,
    lengths: Vec<u32>,
    errors: Vec<container::InputError>,
}

impl Outputs {
    /// No answers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The answer to the next input.
    pub fn push(&mut self, text: &str) {
        self.data.extend_from_slice(text.as_bytes());
        self.lengths.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
    }

    /// The next input could not be answered.
    pub fn push_error(&mut self, error: &ModelError) {
        let index = u32::try_from(self.lengths.len()).unwrap_or(u32::MAX);
        let kind = container::InputErrorKind::Model as i32;
        self.errors.push(container::InputError {
            index,
            message: error.0.clone(),
            kind,
        });
        self.lengths.push(0);
    }

    /// Answers so far.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no answer yet.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The outputs as they travel.
    pub fn into_wire(self) -> container::Outputs {
        container::Outputs {
            data: Bytes::from(self.data),
            lengths: self.lengths,
            errors: self.errors,
        }
    }
}

impl<T: AsRef<str>> FromIterator<T> for Outputs {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut outputs = Self::new();
        for text in texts {
            outputs.push(text.as_ref());
        }
        outputs
    }
}
