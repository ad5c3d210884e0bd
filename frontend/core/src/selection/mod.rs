//! Which models answer a query, and what is made of their answers.
//!
//! One policy so far: the linked model answers. It is a pure function of what it is shown, and so will the
//! others be.

use skysail_proto::value::Output;

use crate::query::{DefaultReason, Failure, Prediction};

/// Chooses among an application's candidates: the first, if there is one.
pub fn select<T>(candidates: &[T]) -> Result<&T, Failure> {
    candidates
        .first()
        .ok_or_else(|| DefaultReason::NoModelLinked.into())
}

/// What an application answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// A model's output, or the default output.
    pub output: Output,
    /// Why it is the default output, if it is.
    pub failure: Option<Failure>,
}

/// Makes the answer of what the model answered.
pub fn combine(prediction: Prediction, default_output: &Output) -> Answer {
    match prediction {
        Ok(output) => Answer {
            output,
            failure: None,
        },
        Err(failure) => Answer {
            output: default_output.clone(),
            failure: Some(failure),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_without_a_model_has_nobody_to_ask() {
        assert_eq!(select::<u8>(&[]), Err(DefaultReason::NoModelLinked.into()));
        assert_eq!(select(&[7, 8]), Ok(&7));
    }

    #[test]
    fn the_default_output_stands_in_for_a_model_that_failed() {
        let default = Output::new("-1.0");
        let failed = combine(Err(DefaultReason::LateReply.into()), &default);
        assert_eq!(
            failed,
            Answer {
                output: default.clone(),
                failure: Some(DefaultReason::LateReply.into())
            }
        );
        let answered = combine(Ok(Output::new("1")), &default);
        assert_eq!(
            answered,
            Answer {
                output: Output::new("1"),
                failure: None
            }
        );
    }
}
