//! Whether an application and a model fit each other: what the application sends, the model takes; what the model
//! gives, the application expects.

use std::fmt;

use super::{Length, Shape, Signature, TensorSpec};

/// The first difference of two signatures that do not fit.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Mismatch(String);

impl Signature {
    /// Whether a model of this signature answers what an application of the signature `sent` asks.
    ///
    /// Both have the same tensors by name and datatype, in any order. A length that the sending side fixes fits one
    /// that the taking side leaves open, and not the other way round: a model that takes four numbers cannot answer
    /// an application that sends any number of them.
    pub fn answers(&self, sent: &Self) -> Result<(), Mismatch> {
        if self.row_type() != sent.row_type() {
            let words = format!(
                "the model takes {}, the application sends {}",
                self.input_word(),
                sent.input_word()
            );
            return Err(Mismatch(words));
        }
        for undeclared in [(self, "the model's"), (sent, "the application's")] {
            if !undeclared.0.is_declared() {
                let words = format!("{} tensors are not declared yet", undeclared.1);
                return Err(Mismatch(words));
            }
        }
        let inputs = Side {
            sending: (sent.input_tensors(), "the application sends"),
            taking: (self.input_tensors(), "the model takes"),
            kind: "input",
        };
        let outputs = Side {
            sending: (self.output_tensors(), "the model gives"),
            taking: (sent.output_tensors(), "the application expects"),
            kind: "output",
        };
        inputs.check()?;
        outputs.check()
    }
}

/// The tensors of one direction.
struct Side<'a> {
    sending: (&'a [TensorSpec], &'a str),
    taking: (&'a [TensorSpec], &'a str),
    kind: &'a str,
}

impl Side<'_> {
    fn check(&self) -> Result<(), Mismatch> {
        let (sending, sends) = self.sending;
        let (taking, takes) = self.taking;
        if let ([], [first, ..]) | ([first, ..], []) = (sending, taking) {
            let (with, without) = if sending.is_empty() {
                (takes, sends)
            } else {
                (sends, takes)
            };
            return Err(Mismatch(format!("{with} tensor {first}, {without} text")));
        }
        for sent in sending {
            let Some(taken) = taking.iter().find(|taken| taken.name == sent.name) else {
                return Err(self.unknown(sent, sends, takes));
            };
            let fits = taken.datatype == sent.datatype && taken.shape.includes(&sent.shape);
            if !fits {
                return Err(Mismatch(format!("{sends} {sent}, {takes} {taken}")));
            }
        }
        match taking
            .iter()
            .find(|taken| sending.iter().all(|sent| sent.name != taken.name))
        {
            Some(missing) => Err(self.unknown(missing, takes, sends)),
            None => Ok(()),
        }
    }

    fn unknown(&self, spec: &TensorSpec, has: impl fmt::Display, has_not: impl fmt::Display) -> Mismatch {
        Mismatch(format!("{has} {spec}, {has_not} no {} of that name", self.kind))
    }
}

impl Shape {
    /// Whether every tensor of the shape `other` has this shape.
    fn includes(&self, other: &Self) -> bool {
        let fits = |(own, other): (&Length, &Length)| *own == Length::Any || own == other;
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::InputType;

    fn signature(inputs: &str, outputs: &str) -> Signature {
        let specs = |text: &str| -> Vec<TensorSpec> {
            text.split_whitespace()
                .map(|text| text.parse().unwrap())
                .collect()
        };
        Signature::tensors(specs(inputs), specs(outputs)).unwrap()
    }

    #[test]
    fn the_same_tensors_fit_in_any_order() {
        let model = signature("a:FP32[-1] b:INT8[2]", "p:FP32[3] q:INT64");
        let application = signature("b:INT8[2] a:FP32[7]", "q:INT64 p:FP32[-1]");
        assert_eq!(model.answers(&application), Ok(()));
        assert_eq!(model.answers(&model), Ok(()));
        let row = Signature::row(InputType::Doubles);
        assert_eq!(row.answers(&row), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_first_difference() {
        let model = signature("a:FP32[4]", "p:FP32[3]");
        for (application, words) in [
            (
                Signature::row(InputType::Doubles),
                "the model takes tensors, the application sends doubles",
            ),
            (
                Signature::undeclared(),
                "the application's tensors are not declared yet",
            ),
            (
                signature("a:FP32[-1]", "p:FP32[3]"),
                "the application sends a:FP32[-1], the model takes a:FP32[4]",
            ),
            (
                signature("a:FP64[4]", "p:FP32[3]"),
                "the application sends a:FP64[4], the model takes a:FP32[4]",
            ),
            (signature("a:FP32[4,1]", "p:FP32[3]"), "sends a:FP32[4,1]"),
            (
                signature("b:FP32[4]", "p:FP32[3]"),
                "the application sends b:FP32[4], the model takes no input of that name",
            ),
            (
                signature("a:FP32[4] b:BOOL", "p:FP32[3]"),
                "the application sends b:BOOL[], the model takes no input of that name",
            ),
            (
                signature("a:FP32[4]", ""),
                "the model gives tensor p:FP32[3], the application expects text",
            ),
            (
                signature("a:FP32[4]", "p:FP32[2]"),
                "the model gives p:FP32[3], the application expects p:FP32[2]",
            ),
            (
                signature("a:FP32[4]", "p:FP32[3] q:BOOL"),
                "the application expects q:BOOL[], the model gives no output of that name",
            ),
        ] {
            let error = model.answers(&application).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
