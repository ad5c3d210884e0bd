//! What queries ask: inputs that were given, in turn, or inputs of which no two are equal.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::str::FromStr;
use std::{fs, io};

use bytes::Bytes;
use serde_json::value::RawValue;
use skysail_proto::signature::Signature;
use skysail_proto::value::{Input, InputType};

use super::BenchError;

mod tensors;

use tensors::TensorBodies;
pub(crate) use tensors::TooLarge;

/// An odd number whose multiples look random: multiplying by it loses no bit.
const SCRAMBLE: u64 = 0x9e37_79b9_7f4a_7c15;

/// An input as JSON text, which travels as it is.
#[derive(Clone, Debug)]
pub(crate) struct JsonInput(Box<RawValue>);

impl FromStr for JsonInput {
    type Err = serde_json::Error;
    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text.to_owned()).map(Self)
    }
}

/// Why a file holds no inputs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidInputs {
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    #[error("line {line} is not JSON: {reason}; the file holds one input a line")]
    NotJson { line: usize, reason: serde_json::Error },
    #[error("it is empty; it holds one input a line, as JSON")]
    Empty,
}

/// Reads the inputs in a file, one a line.
pub(crate) fn read(path: &Path) -> Result<Vec<JsonInput>, BenchError> {
    fs::read_to_string(path)
        .map_err(InvalidInputs::Unreadable)
        .and_then(|text| parse_lines(&text))
        .map_err(|reason| BenchError::Inputs {
            path: path.to_owned(),
            reason,
        })
}

fn parse_lines(text: &str) -> Result<Vec<JsonInput>, InvalidInputs> {
    let inputs = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            line.parse().map_err(|reason| InvalidInputs::NotJson {
                line: index + 1,
                reason,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if inputs.is_empty() {
        return Err(InvalidInputs::Empty);
    }
    Ok(inputs)
}

/// Refuses inputs that the application would refuse, before any is sent.
pub(crate) fn check(inputs: &[JsonInput], signature: &Signature) -> Result<(), BenchError> {
    for (index, JsonInput(input)) in inputs.iter().enumerate() {
        if let Err(reason) = Input::from_json(signature, input.get()) {
            return Err(BenchError::WrongInput {
                number: index + 1,
                reason,
            });
        }
    }
    Ok(())
}

/// The bodies of queries, without end.
pub(crate) enum Bodies {
    /// These, again and again.
    Given { bodies: Vec<Bytes>, next: usize },
    /// No two alike, nor like those of another run: a prediction cache answers none of them.
    Unique(UniqueBodies),
    /// The same of tensors, as far as their datatypes have values enough.
    Tensors(TensorBodies),
}

impl Bodies {
    /// Bodies that ask for these inputs in turn, with an objective of their own or the application's.
    ///
    /// # Panics
    /// If there is no input.
    pub(crate) fn given(inputs: &[JsonInput], slo_micros: Option<u64>) -> Self {
        assert!(!inputs.is_empty(), "without an input there is no query");
        let end = end_of_body(slo_micros);
        let bodies = inputs
            .iter()
            .map(|JsonInput(input)| format!("{{\"input\":{input}{end}").into());
        Self::Given {
            bodies: bodies.collect(),
            next: 0,
        }
    }

    /// Bodies that ask for inputs of this signature. Rows, and dimensions of any length, have the length given.
    pub(crate) fn unique(
        signature: &Signature,
        length: NonZeroUsize,
        slo_micros: Option<u64>,
    ) -> Result<Self, BenchError> {
        let first = fastrand::u64(..);
        let Some(row) = signature.row_type() else {
            let end = end_of_body(slo_micros);
            let length = length.get() as u64;
            let bodies = TensorBodies::starting_at(first, signature.input_tensors(), length, &end)?;
            return Ok(Self::Tensors(bodies));
        };
        Ok(Self::Unique(UniqueBodies::starting_at(
            first, row, length, slo_micros,
        )))
    }

    /// What is asked, in words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Given { bodies, .. } if bodies.len() == 1 => "the same input always".to_owned(),
            Self::Given { bodies, .. } => format!("{} inputs in turn", bodies.len()),
            Self::Unique(bodies) => format!("generated {}, no two alike", bodies.input_type),
            Self::Tensors(bodies) => match bodies.differing() {
                None => "generated tensors, no two alike".to_owned(),
                Some(count) => format!("generated tensors, {count} in turn: there are no more"),
            },
        }
    }

    pub(crate) fn next(&mut self) -> Bytes {
        match self {
            Self::Given { bodies, next } => {
                let body = bodies[*next].clone();
                *next = (*next + 1) % bodies.len();
                body
            }
            Self::Unique(bodies) => bodies.next(),
            Self::Tensors(bodies) => bodies.next(),
        }
    }
}

fn end_of_body(slo_micros: Option<u64>) -> String {
    match slo_micros {
        Some(micros) => format!(",\"slo_micros\":{micros}}}"),
        None => "}".to_owned(),
    }
}

/// Generated bodies. A number that never comes twice stands at the beginning of each input; what follows is
/// the same in all of them, so that a long input costs little more than its copy.
pub(crate) struct UniqueBodies {
    input_type: InputType,
    next: u64,
    head: Head,
    /// What follows the head, to the end of the body.
    tail: String,
}

/// How a number of 64 bits is written at the beginning of an input.
#[derive(Clone, Copy)]
enum Head {
    /// As 16 hexadecimal digits, which are twelve bytes in base64 as well.
    Digits,
    /// As this many numbers of so many bits each.
    Numbers { form: NumberForm, count: usize },
}

#[derive(Clone, Copy)]
enum NumberForm {
    Integer,
    /// Between 0 and 8, with as many bits as a float of 32 bits keeps.
    Float,
    /// Between 0 and 8, with almost as many bits as one of 64 bits keeps.
    Double,
}

impl UniqueBodies {
    fn starting_at(first: u64, input_type: InputType, length: NonZeroUsize, slo_micros: Option<u64>) -> Self {
        let length = length.get();
        let end = end_of_body(slo_micros);
        let (head, tail) = match input_type {
            InputType::Strings => (Head::Digits, "x".repeat(length.saturating_sub(16)) + "\""),
            InputType::Bytes => {
                let groups = length.saturating_sub(12).div_ceil(3);
                (Head::Digits, "AAAA".repeat(groups) + "\"")
            }
            InputType::Integers => numbers(NumberForm::Integer, length),
            InputType::Floats => numbers(NumberForm::Float, length),
            InputType::Doubles => numbers(NumberForm::Double, length),
        };
        Self {
            input_type,
            next: first,
            head,
            tail: tail + &end,
        }
    }

    fn next(&mut self) -> Bytes {
        // Room for the longest head: three numbers.
        let mut body = String::with_capacity(96 + self.tail.len());
        body.push_str("{\"input\":");
        self.head.write(&mut body, self.next.wrapping_mul(SCRAMBLE));
        body.push_str(&self.tail);
        self.next = self.next.wrapping_add(1);
        body.into()
    }
}

/// The head and the tail of inputs of this many numbers.
fn numbers(form: NumberForm, length: usize) -> (Head, String) {
    let count = length.min(64_usize.div_ceil(form.bits() as usize));
    let mut tail = String::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in count..length {
        tail.push(',');
        form.write(&mut tail, rng.u64(..), form.bits());
    }
    tail.push(']');
    (Head::Numbers { form, count }, tail)
}

impl Head {
    fn write(self, body: &mut String, number: u64) {
        match self {
            Self::Digits => {
                // A string takes all that is written to it.
                let _ = write!(body, "\"{number:016x}");
            }
            Self::Numbers { form, count } => {
                let mut rest = number;
                let mut bits_left = 64;
                for index in 0..count {
                    body.push(if index == 0 { '[' } else { ',' });
                    let bits = form.bits().min(bits_left);
                    form.write(body, rest, bits);
                    rest >>= bits;
                    bits_left -= bits;
                }
            }
        }
    }
}

impl NumberForm {
    fn bits(self) -> u32 {
        match self {
            Self::Integer => 32,
            Self::Float => 23,
            Self::Double => 50,
        }
    }

    /// Writes a number made of the lowest `count` of these bits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the bits are cut to what the number keeps"
    )]
    fn write(self, text: &mut String, bits: u64, count: u32) {
        let bits = bits & ((1 << count) - 1);
        // As many make 8.
        let unit = (1_u64 << count) as f64 / 8.0;
        // A string takes all that is written to it.
        let _ = match self {
            Self::Integer => write!(text, "{}", (bits as u32).cast_signed()),
            Self::Float => write!(text, "{}", bits as f32 / unit as f32),
            Self::Double => write!(text, "{}", bits as f64 / unit),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn unique(input_type: InputType, length: usize) -> UniqueBodies {
        UniqueBodies::starting_at(
            u64::MAX - 500,
            input_type,
            NonZeroUsize::new(length).unwrap(),
            None,
        )
    }

    /// A body's input, read as the frontend reads it.
    fn input_of(body: &Bytes, input_type: InputType) -> Input {
        let body: Value = serde_json::from_slice(body).unwrap();
        Input::from_json(&input_type.into(), &body["input"].to_string()).unwrap()
    }

    #[test]
    fn generated_inputs_are_of_their_type_and_no_two_are_equal() {
        for input_type in InputType::ALL {
            let mut bodies = unique(input_type, 40);
            let inputs: HashSet<Input> = (0..1000).map(|_| input_of(&bodies.next(), input_type)).collect();
            assert_eq!(inputs.len(), 1000, "{input_type}");
        }
    }

    #[test]
    fn generated_inputs_have_the_length_that_was_asked_for() {
        for input_type in InputType::ALL {
            for length in [1, 2, 3, 4, 16, 42, 1024] {
                let input = input_of(&unique(input_type, length).next(), input_type);
                let elements = input.row_data().len() / input_type.element_bytes();
                let expected = match input_type {
                    // Digits that make it unique come first, and base64 has groups of three bytes.
                    InputType::Strings => length.max(16),
                    InputType::Bytes => length.max(12).next_multiple_of(3),
                    _ => length,
                };
                assert_eq!(elements, expected, "{input_type} {length}");
            }
        }
    }

    #[test]
    fn two_runs_have_no_input_in_common() {
        let length = NonZeroUsize::new(4).unwrap();
        let mut first = Bodies::unique(&InputType::Doubles.into(), length, None).unwrap();
        let mut second = Bodies::unique(&InputType::Doubles.into(), length, None).unwrap();
        assert_ne!(first.next(), second.next());
    }

    #[test]
    fn given_inputs_are_sent_in_turn_as_they_are() {
        let inputs = parse_lines("[1.50, 2]\n\n\"a\"\n").unwrap();
        let mut bodies = Bodies::given(&inputs, Some(250));
        let sent: Vec<_> = (0..3).map(|_| bodies.next()).collect();
        assert_eq!(sent[0], r#"{"input":[1.50, 2],"slo_micros":250}"#);
        assert_eq!(sent[1], r#"{"input":"a","slo_micros":250}"#);
        assert_eq!(sent[2], sent[0]);
    }

    #[test]
    fn an_input_of_another_type_is_told_by_its_number() {
        let inputs = parse_lines("[1.5]\n\"a\"\n").unwrap();
        let error = check(&inputs, &InputType::Doubles.into())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("input 2 is not what the application takes: "),
            "{error}"
        );
        assert!(error.contains("input type doubles"), "{error}");
        assert!(check(&inputs[..1], &InputType::Doubles.into()).is_ok());
    }

    #[test]
    fn a_line_that_is_no_input_is_named_by_its_number() {
        let error = parse_lines("[1]\n\n[2\n").unwrap_err().to_string();
        assert!(error.starts_with("line 3 is not JSON"), "{error}");
        assert!(parse_lines(" \n").unwrap_err().to_string().contains("empty"));
    }
}
