//! The version that a query is asked of, and how the application's inputs fit it.
//!
//! An application may name its tensors in another order than the model. Inputs are kept in the application's order until
//! a version is chosen, and then brought into the version's: in its cache and in its batches there is one order.

use std::borrow::Cow;
use std::sync::Arc;

use skysail_core::query::{DefaultReason, Failure, Outcome};
use skysail_proto::signature::{Mismatch, Signature};
use skysail_proto::value::Input;

use crate::model::{Asked, ModelHandle};

/// How the inputs of an application fit a version.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fit {
    /// As they are.
    AsTheyAre,
    /// For each tensor of the version, its place among the application's.
    Reordered(Box<[usize]>),
    /// Not at all, and what queries are answered with.
    Not(Failure),
}

impl Fit {
    /// How inputs of an application that sends and expects `sent` fit a version that takes and gives `taken`.
    pub(super) fn of(taken: &Signature, sent: &Signature) -> Result<Self, Mismatch> {
        taken.answers(sent)?;
        let (taken, sent) = (taken.input_tensors(), sent.input_tensors());
        let places = taken.iter().map(|spec| {
            let place = sent.iter().position(|sent| sent.name() == spec.name());
            place.expect("signatures that fit have the same names; this is a bug")
        });
        if places.clone().eq(0..taken.len()) {
            return Ok(Self::AsTheyAre);
        }
        Ok(Self::Reordered(places.collect()))
    }

    /// The same for a version that was not chosen by the request. If the signatures do not fit, or if nobody knows yet
    /// which tensors the version takes, that is no fault of the request.
    pub(super) fn of_serving(model: &ModelHandle, sent: &Signature) -> Self {
        if !model.signature().is_declared() {
            return Self::Not(DefaultReason::NoReplica.into());
        }
        let found = Self::of(model.signature(), sent);
        found.unwrap_or_else(|why| {
            Self::Not(Failure::model_error(&format!("{} does not fit: {why}", model.id)))
        })
    }
}

/// A version to ask.
pub(super) struct Target<'a> {
    pub(super) model: &'a ModelHandle,
    pub(super) fit: Cow<'a, Fit>,
}

impl Target<'_> {
    /// Asks for one input.
    pub(super) async fn predict(&self, input: Input, asked: Asked) -> Outcome {
        match &*self.fit {
            Fit::AsTheyAre => self.model.predict(input, asked).await,
            Fit::Reordered(places) => self.model.predict(reordered(&input, places), asked).await,
            Fit::Not(failure) => failure.clone().into(),
        }
    }

    /// Asks for the rows of one request. Returns an outcome for each, in their order.
    pub(super) async fn predict_rows(
        &self,
        mut inputs: Vec<Input>,
        asked: Asked,
    ) -> Box<dyn Iterator<Item = Outcome> + Send + '_> {
        match &*self.fit {
            Fit::AsTheyAre => {}
            Fit::Reordered(places) => {
                for input in &mut inputs {
                    *input = reordered(input, places);
                }
            }
            Fit::Not(failure) => return Box::new(std::iter::repeat_n(failure.clone().into(), inputs.len())),
        }
        Box::new(self.model.predict_rows(inputs, asked).await)
    }
}

/// The same tensors in another order. Their buffers are shared.
fn reordered(input: &Input, places: &[usize]) -> Input {
    let tensors = input.as_tensors();
    let tensors: Arc<[_]> = places.iter().map(|&place| tensors[place].clone()).collect();
    Input::tensors(tensors)
}

#[cfg(test)]
mod tests {
    use skysail_proto::signature::TensorSpec;
    use skysail_proto::value::InputType;

    use super::*;

    fn signature(inputs: &str) -> Signature {
        let specs = inputs.split(' ').map(|text| text.parse::<TensorSpec>().unwrap());
        Signature::tensors(specs, []).unwrap()
    }

    #[test]
    fn tensors_in_the_same_order_stay_as_they_are() {
        for (taken, sent) in [
            (signature("a:FP32 b:INT8"), signature("a:FP32 b:INT8")),
            (signature("a:FP32[-1]"), signature("a:FP32[2]")),
            (InputType::Doubles.into(), InputType::Doubles.into()),
        ] {
            assert_eq!(Fit::of(&taken, &sent), Ok(Fit::AsTheyAre));
        }
        let mismatch = Fit::of(&signature("a:FP32"), &InputType::Doubles.into());
        assert!(mismatch.is_err());
    }

    #[test]
    fn tensors_in_another_order_are_brought_into_the_versions() {
        let (taken, sent) = (
            signature("a:INT8 b:INT8 c:INT8"),
            signature("c:INT8 a:INT8 b:INT8"),
        );
        let Ok(Fit::Reordered(places)) = Fit::of(&taken, &sent) else {
            panic!("they are in another order");
        };
        assert_eq!(*places, [1, 2, 0]);
        let input = Input::from_json(&sent, r#"{"a": 1, "b": 2, "c": 3}"#).unwrap();
        let expected = Input::from_json(&taken, r#"{"a": 1, "b": 2, "c": 3}"#).unwrap();
        assert_eq!(reordered(&input, &places), expected);
        let shared = input.as_tensors()[1].data().as_ptr();
        assert_eq!(reordered(&input, &places).as_tensors()[0].data().as_ptr(), shared);
    }
}
