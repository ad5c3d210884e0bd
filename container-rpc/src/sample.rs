//! What a batch took: the unit that batch times are learned from.

use std::time::Duration;

use skysail_proto::container::{self, MAX_MESSAGE_BYTES};

/// A batch the model has worked on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BatchTimeSample {
    /// Inputs the model was given; at least one.
    pub inputs: usize,
    /// Time inside the model.
    pub took: Duration,
}

/// No registration counts for more samples than this; of more, the newest do.
const MOST_SAMPLES: usize = 256;

/// No batch has more inputs: each takes at least a byte of its message.
const MOST_INPUTS: u32 = MAX_MESSAGE_BYTES as u32;

/// A longer time is a mistake of whoever measured it.
const LONGEST: Duration = Duration::from_secs(3600);

impl BatchTimeSample {
    pub(crate) fn to_wire(self) -> container::BatchTimeSample {
        container::BatchTimeSample {
            inputs: u32::try_from(self.inputs).unwrap_or(u32::MAX),
            model_micros: u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// The sample, unless it is one that no batch can have left.
    fn from_wire(sample: container::BatchTimeSample) -> Option<Self> {
        let took = Duration::from_micros(sample.model_micros);
        let credible = (1..=MOST_INPUTS).contains(&sample.inputs) && took <= LONGEST;
        credible.then_some(Self {
            inputs: sample.inputs as usize,
            took,
        })
    }
}

/// What a container said of its batches, as far as it can be believed; the newest last.
pub(crate) fn believed(samples: Vec<container::BatchTimeSample>) -> Vec<BatchTimeSample> {
    let mut samples: Vec<_> = samples
        .into_iter()
        .filter_map(BatchTimeSample::from_wire)
        .collect();
    samples.drain(..samples.len().saturating_sub(MOST_SAMPLES));
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(inputs: u32, model_micros: u64) -> container::BatchTimeSample {
        container::BatchTimeSample { inputs, model_micros }
    }

    #[test]
    fn what_no_batch_can_have_left_is_not_believed() {
        let samples = vec![
            said(0, 5),
            said(3, 0),
            said(u32::MAX, 5),
            said(1, u64::MAX),
            said(2, 7),
        ];
        let expected = [(3, 0), (2, 7)].map(|(inputs, micros)| BatchTimeSample {
            inputs,
            took: Duration::from_micros(micros),
        });
        assert_eq!(believed(samples), expected);
    }

    #[test]
    fn of_too_many_samples_the_newest_are_kept() {
        let samples = (1..=1000).map(|inputs| said(inputs, 1)).collect();
        let inputs: Vec<_> = believed(samples).iter().map(|sample| sample.inputs).collect();
        assert_eq!(inputs, (745..=1000).collect::<Vec<_>>());
    }
}
