//! Labels that are texts become numbers within a model, and texts again behind the node that gives them.
//!
//! tract's classifiers look labels up in a list, but a list of texts fails in it. So they get the numbers of the labels,
//! and an operator of our own puts the texts in their place.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, attribute_proto::AttributeType};
use tract_onnx::tract_hir::internal::*;

/// The name of our operator, which no file contains: a file's operators are checked before.
const TEXTS: &str = "SkysailTexts";

/// Where classifiers have labels that are texts.
const IN_TEXTS: &str = "classlabels_strings";

/// The classifiers that tract has or that are here, and the attribute in which each has labels that are numbers.
const CLASSIFIERS: [(&str, &str); 2] = [
    ("LinearClassifier", "classlabels_ints"),
    ("TreeEnsembleClassifier", "classlabels_int64s"),
];

pub(crate) fn register(operators: &mut OnnxOpRegister) {
    operators.insert(TEXTS, texts);
}

/// Splits every classifier of texts into one of numbers, and the texts.
pub(crate) fn number(graph: &mut GraphProto) {
    let nodes = std::mem::take(&mut graph.node);
    for mut node in nodes {
        let texts = split(&mut node);
        graph.node.push(node);
        graph.node.extend(texts);
    }
}

fn split(node: &mut NodeProto) -> Option<NodeProto> {
    let (_, in_numbers) = CLASSIFIERS.iter().find(|(name, _)| *name == node.op_type)?;
    let labels = node
        .attribute
        .iter_mut()
        .find(|attribute| attribute.name == IN_TEXTS)?;
    let numbers = AttributeProto {
        name: (*in_numbers).to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: (0..).take(labels.strings.len()).collect(),
        ..AttributeProto::default()
    };
    let texts = std::mem::replace(labels, numbers);
    let output = node.output.first_mut()?;
    let label = std::mem::replace(output, format!("{output}/number"));
    Some(NodeProto {
        name: format!("{label}/text"),
        op_type: TEXTS.to_owned(),
        input: vec![output.clone()],
        output: vec![label],
        attribute: vec![texts],
        ..NodeProto::default()
    })
}

/// Texts by their numbers.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Texts(Arc<Vec<String>>);

fn texts(
    _context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let texts = node.attribute.iter().flat_map(|attribute| &attribute.strings);
    let texts = texts
        .map(|text| Ok(String::from_utf8(text.clone())?))
        .collect::<TractResult<_>>()?;
    Ok((expand(Texts(Arc::new(texts))), Vec::new()))
}

impl Expansion for Texts {
    fn name(&self) -> StaticName {
        TEXTS.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&outputs[0].datum_type, DatumType::String)?;
        solver.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Texts {
    fn name(&self) -> StaticName {
        TEXTS.into()
    }

    op_as_typed_op!();
}

impl EvalOp for Texts {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let numbers = inputs[0].cast_to::<i64>()?;
        let numbers = numbers.to_plain_array_view::<i64>()?;
        let mut texts = Vec::with_capacity(numbers.len());
        for &number in &numbers {
            let text = usize::try_from(number).ok().and_then(|number| self.0.get(number));
            texts.push(
                text.with_context(|| format!("there is no label {number}"))?
                    .clone(),
            );
        }
        let texts = tract_ndarray::ArrayD::from_shape_vec(numbers.shape(), texts)?;
        Ok(tvec!(Tensor::from(texts).into()))
    }
}

impl TypedOp for Texts {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(DatumType::String.fact(inputs[0].shape.iter())))
    }

    as_op!();
}
