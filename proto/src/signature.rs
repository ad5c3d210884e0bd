//! What a model takes and gives, and what an application sends and expects.
//!
//! A [`Signature`] alone decides whether an input fits, whether two signatures fit each other, and how all that is
//! written: as text on a command line, as JSON in the admin API, and on the wire.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::container;
use crate::datatype::{Datatype, UnknownDatatype};
use crate::value::InputType;

mod fit;
mod json;
mod wire;

pub use fit::Mismatch;

/// The most tensors that a signature names on each side.
const MOST_TENSORS: usize = 64;

/// The most dimensions of a tensor.
pub const MOST_DIMENSIONS: usize = 16;

/// The longest name of a tensor, in bytes.
const LONGEST_NAME: usize = 256;

/// How inputs that are tensors are named where an input type is expected.
pub const TENSORS: &str = "tensors";

/// What a model takes and gives, or what an application sends and expects. Cloning shares the lists of tensors.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Signature {
    inputs: Inputs,
    outputs: Outputs,
    batched: bool,
}

/// What one input is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Inputs {
    /// One unnamed row.
    Row(InputType),
    /// These tensors, in this order.
    Tensors(Arc<[TensorSpec]>),
    /// Tensors, and which ones is learned from the version's first replica.
    Undeclared,
}

/// What one output is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Outputs {
    /// Text.
    Text,
    /// These tensors, in this order.
    Tensors(Arc<[TensorSpec]>),
}

/// A tensor that is taken or given.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "json::WrittenSpec", into = "json::WrittenSpec")]
pub struct TensorSpec {
    name: Arc<str>,
    datatype: Datatype,
    shape: Shape,
    utf8: bool,
}

/// The shape of a tensor of one input, without the batch dimension.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Shape(Box<[Length]>);

/// The length of one dimension.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Length {
    /// Always this one.
    Fixed(u64),
    /// Any, written -1.
    Any,
}

/// Why something is no signature.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignatureError {
    /// A tensor's name is empty, too long, or has control characters.
    #[error("`{0}` cannot be a tensor's name: use 1 to {LONGEST_NAME} bytes without control characters")]
    Name(String),
    /// Two tensors of one side have the same name.
    #[error(
        "tensor `{0}` is named twice; each name can stand once among the inputs and once among the outputs"
    )]
    Twice(String),
    /// No tensor, or too many.
    #[error("a list of tensors has 1 to {MOST_TENSORS} of them, not {0}")]
    Count(usize),
    /// A datatype that does not exist.
    #[error(transparent)]
    Datatype(#[from] UnknownDatatype),
    /// A length that is neither a number nor -1.
    #[error("`{0}` is no length of a dimension: use a number from 0, or -1 for any length")]
    Length(String),
    /// Too many dimensions.
    #[error("a tensor has at most {MOST_DIMENSIONS} dimensions, not {0}")]
    Dimensions(usize),
    /// A shape whose bytes cannot be counted.
    #[error("a tensor of shape {0} is too large for any machine")]
    TooLarge(String),
    /// Text of elements that are no bytes.
    #[error("only BYTES can be `utf8`, and tensor `{name}` is {datatype}")]
    Utf8 {
        /// The tensor.
        name: String,
        /// Its datatype.
        datatype: Datatype,
    },
    /// The text form of a tensor was not understood.
    #[error(
        "`{0}` is no tensor: write NAME:DATATYPE[LENGTHS], as in image:FP32[224,224,3], mask:BOOL[-1], text:BYTES[-1]:utf8"
    )]
    Text(String),
    /// An input type that does not exist.
    #[error("input type `{0}` does not exist; use one of bytes, integers, floats, doubles, strings, tensors")]
    InputType(String),
    /// Input tensors of a row type.
    #[error("input tensors are declared only with input type tensors, not {0}")]
    InputsOfRow(InputType),
    /// Outputs without inputs.
    #[error("outputs are declared, but no input tensors; declare both, or neither")]
    OutputsAlone,
    /// A wire message of a newer protocol.
    #[error("number {0} is no datatype or input type that this side knows")]
    Unknown(i32),
}

impl Signature {
    /// One unnamed row in, text out: what the five input types are.
    pub const fn row(input_type: InputType) -> Self {
        Self {
            inputs: Inputs::Row(input_type),
            outputs: Outputs::Text,
            batched: true,
        }
    }

    /// Tensors, and which ones is learned from the version's first replica.
    pub const fn undeclared() -> Self {
        Self {
            inputs: Inputs::Undeclared,
            outputs: Outputs::Text,
            batched: true,
        }
    }

    /// Tensors in; tensors out, or text where there are none.
    pub fn tensors(
        inputs: impl IntoIterator<Item = TensorSpec>,
        outputs: impl IntoIterator<Item = TensorSpec>,
    ) -> Result<Self, SignatureError> {
        let inputs = list(inputs)?;
        Self::row(InputType::Bytes).with(Inputs::Tensors(inputs), outputs)
    }

    /// One unnamed row in; tensors out, or text where there are none.
    pub fn row_to_tensors(
        input_type: InputType,
        outputs: impl IntoIterator<Item = TensorSpec>,
    ) -> Result<Self, SignatureError> {
        Self::row(input_type).with(Inputs::Row(input_type), outputs)
    }

    fn with(
        self,
        inputs: Inputs,
        outputs: impl IntoIterator<Item = TensorSpec>,
    ) -> Result<Self, SignatureError> {
        let mut outputs = outputs.into_iter().peekable();
        let outputs = if outputs.peek().is_some() {
            Outputs::Tensors(list(outputs)?)
        } else {
            Outputs::Text
        };
        Ok(Self {
            inputs,
            outputs,
            ..self
        })
    }

    /// The same signature of tensors without a batch dimension: a batch is then one input.
    #[must_use]
    pub fn without_batch_dimension(mut self) -> Self {
        self.batched = false;
        self
    }

    /// What one input is.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// What one output is.
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Whether tensors have a batch dimension.
    pub fn is_batched(&self) -> bool {
        self.batched
    }

    /// Whether it is known which inputs there are.
    pub fn is_declared(&self) -> bool {
        self.inputs != Inputs::Undeclared
    }

    /// The type of a row; `None` for tensors.
    pub fn row_type(&self) -> Option<InputType> {
        match self.inputs {
            Inputs::Row(input_type) => Some(input_type),
            Inputs::Tensors(_) | Inputs::Undeclared => None,
        }
    }

    /// The word for what the inputs are: a row type's name, or `tensors`.
    pub fn input_word(&self) -> &'static str {
        self.row_type().map_or(TENSORS, InputType::name)
    }

    /// The input tensors; none for a row, or where they are not declared.
    pub fn input_tensors(&self) -> &[TensorSpec] {
        match &self.inputs {
            Inputs::Tensors(tensors) => tensors,
            Inputs::Row(_) | Inputs::Undeclared => &[],
        }
    }

    /// The output tensors; none for text.
    pub fn output_tensors(&self) -> &[TensorSpec] {
        match &self.outputs {
            Outputs::Tensors(tensors) => tensors,
            Outputs::Text => &[],
        }
    }

    /// The number on the wire of what the inputs are.
    pub const fn wire_type(&self) -> container::InputType {
        match self.inputs {
            Inputs::Row(input_type) => input_type.to_wire(),
            Inputs::Tensors(_) | Inputs::Undeclared => container::InputType::Tensors,
        }
    }
}

impl From<InputType> for Signature {
    fn from(input_type: InputType) -> Self {
        Self::row(input_type)
    }
}

/// For people: `doubles`, or `image:FP32[224,224,3], mask:BOOL[-1] -> probabilities:FP32[1000]`.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inputs {
            Inputs::Row(input_type) => write!(f, "{input_type}")?,
            Inputs::Tensors(tensors) => write_list(f, tensors)?,
            Inputs::Undeclared => f.write_str("tensors, not declared yet")?,
        }
        if let Outputs::Tensors(tensors) = &self.outputs {
            f.write_str(" -> ")?;
            write_list(f, tensors)?;
        }
        if !self.batched {
            f.write_str(" (no batch dimension)")?;
        }
        Ok(())
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, tensors: &[TensorSpec]) -> fmt::Result {
    for (index, tensor) in tensors.iter().enumerate() {
        let before = if index == 0 { "" } else { ", " };
        write!(f, "{before}{tensor}")?;
    }
    Ok(())
}

/// Checks a list of tensors as a whole.
fn list(tensors: impl IntoIterator<Item = TensorSpec>) -> Result<Arc<[TensorSpec]>, SignatureError> {
    let tensors: Vec<_> = tensors.into_iter().collect();
    if tensors.is_empty() || tensors.len() > MOST_TENSORS {
        return Err(SignatureError::Count(tensors.len()));
    }
    let mut names = HashSet::new();
    match tensors.iter().find(|tensor| !names.insert(tensor.name())) {
        Some(twice) => Err(SignatureError::Twice(twice.name().to_owned())),
        None => Ok(tensors.into()),
    }
}

impl TensorSpec {
    /// A tensor of this name, datatype and shape.
    pub fn new(name: &str, datatype: Datatype, shape: Shape) -> Result<Self, SignatureError> {
        let fits = (1..=LONGEST_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        if !fits {
            return Err(SignatureError::Name(name.chars().take(80).collect()));
        }
        if shape.least_bytes(datatype).is_none() {
            return Err(SignatureError::TooLarge(shape.to_string()));
        }
        Ok(Self {
            name: name.into(),
            datatype,
            shape,
            utf8: false,
        })
    }

    /// The same tensor, whose elements are UTF-8 text.
    pub fn utf8(mut self) -> Result<Self, SignatureError> {
        if self.datatype != Datatype::Bytes {
            return Err(SignatureError::Utf8 {
                name: self.name.to_string(),
                datatype: self.datatype,
            });
        }
        self.utf8 = true;
        Ok(self)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, shared.
    pub fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// What its elements are.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// The shape of one input, without the batch dimension.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether its elements are UTF-8 text.
    pub fn is_utf8(&self) -> bool {
        self.utf8
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.name, self.datatype, self.shape)?;
        if self.utf8 {
            f.write_str(":utf8")?;
        }
        Ok(())
    }
}

/// `NAME:DATATYPE[LENGTHS]`, and `:utf8` after it where elements are text. Without lengths it is a scalar. A name may
/// have colons.
impl FromStr for TensorSpec {
    type Err = SignatureError;
    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let unread = || SignatureError::Text(text.chars().take(120).collect());
        let (rest, utf8) = match text.strip_suffix(":utf8") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (rest, lengths) = match rest.strip_suffix(']') {
            Some(rest) => rest.rsplit_once('[').ok_or_else(unread)?,
            None => (rest, ""),
        };
        let (name, datatype) = rest.rsplit_once(':').ok_or_else(unread)?;
        let spec = Self::new(name, datatype.trim().parse()?, lengths.parse()?)?;
        if utf8 { spec.utf8() } else { Ok(spec) }
    }
}

impl Shape {
    /// A shape of these lengths.
    pub fn new(lengths: impl IntoIterator<Item = Length>) -> Result<Self, SignatureError> {
        let lengths: Box<[_]> = lengths.into_iter().collect();
        if lengths.len() > MOST_DIMENSIONS {
            return Err(SignatureError::Dimensions(lengths.len()));
        }
        Ok(Self(lengths))
    }

    /// The lengths, the outermost first.
    pub fn lengths(&self) -> &[Length] {
        &self.0
    }

    /// Whether a tensor of these lengths has this shape.
    pub fn takes(&self, lengths: &[u64]) -> bool {
        let fits = |(own, &length): (&Length, &u64)| match own {
            Length::Fixed(fixed) => *fixed == length,
            Length::Any => true,
        };
        self.0.len() == lengths.len() && self.0.iter().zip(lengths).all(fits)
    }

    /// How many bytes the smallest tensor of this shape takes; `None` if that is more than a machine can count. Bytes
    /// take at least their lengths' four.
    fn least_bytes(&self, datatype: Datatype) -> Option<u64> {
        let element = datatype.element_bytes().unwrap_or(4) as u64;
        self.0.iter().try_fold(element, |bytes, length| match length {
            Length::Fixed(0) | Length::Any => Some(bytes),
            Length::Fixed(length) => bytes
                .checked_mul(*length)
                .filter(|&bytes| bytes <= i64::MAX as u64),
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, length) in self.0.iter().enumerate() {
            let before = if index == 0 { "" } else { "," };
            write!(f, "{before}{length}")?;
        }
        f.write_str("]")
    }
}

/// The lengths without brackets, separated by commas.
impl FromStr for Shape {
    type Err = SignatureError;
    fn from_str(text: &str) -> Result<Self, SignatureError> {
        if text.trim().is_empty() {
            return Self::new([]);
        }
        let lengths = text.split(',').map(|length| {
            let unread = || SignatureError::Length(length.trim().chars().take(40).collect());
            length
                .trim()
                .parse::<i64>()
                .map_err(|_| unread())
                .and_then(Length::try_from)
        });
        Self::new(lengths.collect::<Result<Vec<_>, _>>()?)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Any => f.write_str("-1"),
        }
    }
}

/// As it is written: -1 is any length.
impl TryFrom<i64> for Length {
    type Error = SignatureError;
    fn try_from(length: i64) -> Result<Self, SignatureError> {
        match u64::try_from(length) {
            Ok(length) => Ok(Self::Fixed(length)),
            Err(_) if length == -1 => Ok(Self::Any),
            Err(_) => Err(SignatureError::Length(length.to_string())),
        }
    }
}

/// As it is written: -1 is any length.
impl From<Length> for i64 {
    fn from(length: Length) -> Self {
        match length {
            Length::Fixed(length) => Self::try_from(length).unwrap_or(Self::MAX),
            Length::Any => -1,
        }
    }
}
