//! What tract makes of a model for the shapes that it meets.
//!
//! A plan is a model that tract has optimised. Most models make one plan for all batch sizes, in which the batch and
//! other open dimensions stay symbols. Where tract cannot do that, a plan is made for each combination of shapes, and
//! the [`KEPT`] that were used last are kept.
//!
//! A plan for one batch size is up to 15 % faster than the one for all, for a small network. But to make it takes a
//! millisecond, or much more where there are many weights, of which it has its own copy; and batches come in all sizes.
//! To pad them to a few sizes costs more than that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::prelude::{
    InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, Symbol, TDim, ToDim, TypedFact,
    TypedRunnableModel,
};
use tract_onnx::tract_hir::infer::Factoid;

use crate::elements::datatype_of;
use crate::error::Refusal;
use crate::interface::Derived;

/// How many plans for given shapes are kept. Each may hold its own copy of the weights.
const KEPT: usize = 8;

pub(crate) type Plan = Arc<TypedRunnableModel>;

/// The shapes of all inputs.
type Shapes = Vec<Vec<usize>>;

/// The plans of a model.
pub(crate) struct Plans {
    model: InferenceModel,
    for_all: Option<Plan>,
    /// The one that was used last is the last.
    for_shapes: Vec<(Shapes, Plan)>,
}

/// A plan for all shapes, and what it says of the outputs.
pub(crate) struct OpenPlan {
    plan: Plan,
    pub(crate) outputs: Vec<Option<Derived>>,
}

/// Makes one plan for all shapes, in which the first dimension of all inputs is the same if that is the batch.
pub(crate) fn open_plan(model: &InferenceModel, batched: bool) -> Result<OpenPlan, Refusal> {
    guarded(|| {
        let mut model = model.clone();
        let batch = batched.then(|| model.symbols.new_with_prefix("batch"));
        for input in 0..model.inputs.len() {
            let fact = with_symbols(&model, input, batch.as_ref())?;
            model.set_input_fact(input, fact)?;
        }
        let model = model.into_optimized()?;
        let outputs = (0..model.outputs.len()).map(|output| {
            let fact = model.output_fact(output)?;
            Ok(Some(derived(fact, batch.as_ref())))
        });
        let outputs = outputs.collect::<Result<_, Refusal>>()?;
        Ok(OpenPlan {
            plan: model.into_runnable()?,
            outputs,
        })
    })
}

/// What is known of an input, with a symbol for each length that is open.
fn with_symbols(
    model: &InferenceModel,
    input: usize,
    batch: Option<&Symbol>,
) -> Result<InferenceFact, Refusal> {
    let fact = model.input_fact(input)?.clone();
    let lengths: Vec<TDim> = fact
        .shape
        .dims()
        .enumerate()
        .map(|(place, dim)| match (place, batch) {
            (0, Some(batch)) => batch.to_dim(),
            _ => dim
                .concretize()
                .unwrap_or_else(|| model.symbols.new_with_prefix("length").to_dim()),
        })
        .collect();
    Ok(fact.with_shape(lengths))
}

fn derived(fact: &TypedFact, batch: Option<&Symbol>) -> Derived {
    let first = fact.shape.dims().first();
    Derived {
        datatype: datatype_of(fact.datum_type),
        dimensions: fact
            .shape
            .iter()
            .map(|dim| dim.to_i64().ok().and_then(|length| u64::try_from(length).ok()))
            .collect(),
        begins_with_batch: batch
            .zip(first)
            .is_some_and(|(batch, first)| *first == batch.to_dim()),
    }
}

impl Plans {
    /// With the plan for all shapes, if there is one.
    pub(crate) fn new(model: InferenceModel, for_all: Option<OpenPlan>) -> Self {
        Self {
            model,
            for_all: for_all.map(|open| open.plan),
            for_shapes: Vec::new(),
        }
    }

    /// The plan that computes inputs of these shapes, which is made if there is none yet.
    pub(crate) fn get(&mut self, shapes: Shapes) -> Result<Plan, Refusal> {
        if let Some(plan) = &self.for_all {
            return Ok(plan.clone());
        }
        let known = self.for_shapes.iter().position(|(known, _)| *known == shapes);
        let entry = match known {
            Some(place) => self.for_shapes.remove(place),
            None => {
                let plan = fixed_plan(&self.model, &shapes)?;
                (shapes, plan)
            }
        };
        let plan = entry.1.clone();
        if self.for_shapes.len() == KEPT {
            self.for_shapes.remove(0);
        }
        self.for_shapes.push(entry);
        Ok(plan)
    }
}

fn fixed_plan(model: &InferenceModel, shapes: &Shapes) -> Result<Plan, Refusal> {
    guarded(|| {
        let mut model = model.clone();
        for (input, shape) in shapes.iter().enumerate() {
            let fact = model.input_fact(input)?.clone().with_shape(shape);
            model.set_input_fact(input, fact)?;
        }
        Ok(model.into_optimized()?.into_runnable()?)
    })
}

/// tract panics where it meets what it did not expect. To the container that is one more refusal.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Refusal(format!(
            "it panicked: {}",
            said.unwrap_or("without a word")
        )))
    })
}
