//! A file that was loaded, which computes batches.

use std::collections::BTreeMap;
use std::path::Path;

use skysail_proto::signature::Signature;
use skysail_proto::tensor::Tensor;
use tract_onnx::Onnx;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{InferenceModel, IntoArcTensor, TValue};

use crate::elements::{Unfit, datatype_of, from_tract, to_tract};
use crate::error::{LoadError, Refusal, RunError};
use crate::interface::{Batching, Dim, Interface, Port, inputs, may_be_batched};
use crate::plans::{Plans, guarded, open_plan};
use crate::zip_map::Classes;
use crate::{file, operators, zip_map};

/// What an annotation's name begins with that lists the names of classes, in the order of an output's numbers.
const CLASSES: &str = "classes.";

/// A model that was loaded from a file.
pub struct OnnxModel {
    interface: Interface,
    signature: Signature,
    annotations: BTreeMap<String, String>,
    plans: Plans,
    plan_for_each_shape: Option<Refusal>,
}

impl OnnxModel {
    /// Loads a file. What is wrong with it is found now, as far as it can be known without inputs.
    pub fn load(path: &Path, batching: Batching) -> Result<Self, LoadError> {
        let mut onnx = tract_onnx::onnx();
        operators::register(&mut onnx.op_register);
        let mut proto = file::read(path)?;
        let graph = proto
            .graph
            .as_mut()
            .expect("a file without graph is refused; this is a bug");
        file::check_external_data(path, graph)?;
        let classes = zip_map::cut(graph);
        operators::check(&proto, &onnx.op_register)?;
        operators::replace(&mut proto);
        let inputs = inputs(&proto)?;
        let model = parse(&onnx, &proto, path)?;
        let (interface, plans, plan_for_each_shape) = plan(model, &proto, inputs, batching)?;
        Ok(Self {
            signature: interface.signature().map_err(LoadError::Signature)?,
            interface,
            annotations: annotations(classes),
            plans,
            plan_for_each_shape,
        })
    }

    /// Why tract does not make one plan for all batch sizes; `None` if it does.
    pub fn plan_for_each_shape(&self) -> Option<&Refusal> {
        self.plan_for_each_shape.as_ref()
    }

    /// What it takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What is known of it beyond the signature: under `classes.OUTPUT`, a JSON list of the names of the classes.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// Computes the outputs from the inputs, in the signature's order. If the signature is batched, the first dimension
    /// of every tensor is the batch: `[n, …]` in and out. Otherwise the tensors are those of one input.
    pub fn run(&mut self, tensors: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let ports = &self.interface.inputs;
        if tensors.len() != ports.len() {
            return Err(RunError::Inputs {
                expected: ports.len(),
                got: tensors.len(),
            });
        }
        let inputs = ports
            .iter()
            .zip(tensors)
            .map(|(port, tensor)| input(port, tensor));
        let inputs = inputs.collect::<Result<Vec<TValue>, _>>()?;
        let shapes: Vec<_> = inputs.iter().map(|input| input.shape().to_vec()).collect();
        let failed = |source| RunError::Failed {
            shapes: format!("{shapes:?}"),
            source,
        };
        let plan = self.plans.get(shapes.clone()).map_err(failed)?;
        let outputs = guarded(|| Ok(plan.run(inputs.into())?)).map_err(failed)?;
        let batch = self.interface.batched.then(|| shapes[0][0]);
        let named = self.interface.outputs.iter().zip(outputs);
        named.map(|(port, value)| output(port, value, batch)).collect()
    }
}

fn parse(onnx: &Onnx, proto: &ModelProto, path: &Path) -> Result<InferenceModel, LoadError> {
    let refused = |source| LoadError::Refused {
        doing: "on reading its graph".to_owned(),
        source,
    };
    let folder = path.parent().and_then(Path::to_str);
    let parsed = guarded(|| Ok(onnx.parse(proto, folder)?)).map_err(refused)?;
    if parsed.unresolved_inputs.is_empty() {
        return Ok(parsed.model);
    }
    let missing = parsed.unresolved_inputs.join("`, `");
    Err(refused(Refusal(format!(
        "its nodes need `{missing}`, which nothing computes"
    ))))
}

/// Makes the first plan, and finds out with it what the outputs are and whether there is a batch dimension.
fn plan(
    model: InferenceModel,
    proto: &ModelProto,
    inputs: Vec<Port>,
    batching: Batching,
) -> Result<(Interface, Plans, Option<Refusal>), LoadError> {
    let may_be_batched = batching == Batching::AsInFile && may_be_batched(&inputs);
    let unknown = vec![None; model.outputs.len()];
    let mut open = open_plan(&model, may_be_batched);
    let derived = open.as_ref().map_or(&unknown, |open| &open.outputs);
    let interface = Interface::new(proto, inputs, derived, may_be_batched)?;
    if may_be_batched && !interface.batched {
        // The inputs' first dimensions need not be the same after all.
        open = open_plan(&model, false);
    }
    let (open, reason) = match open {
        Ok(open) => (Some(open), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let mut plans = Plans::new(model, open);
    if reason.is_some() {
        try_one_input(&mut plans, &interface)?;
    }
    Ok((interface, plans, reason))
}

/// Where tract makes no plan for all shapes, a plan for one input shows whether it can run the model at all. What that
/// input looks like is known if nothing but the batch is open; otherwise the first batch will show.
fn try_one_input(plans: &mut Plans, interface: &Interface) -> Result<(), LoadError> {
    let shapes = interface
        .inputs
        .iter()
        .map(|port| shape_of_one(port, interface.batched));
    let Some(shapes) = shapes.collect() else {
        return Ok(());
    };
    plans.get(shapes).map(drop).map_err(|source| LoadError::Refused {
        doing: "on making a plan for one input".to_owned(),
        source,
    })
}

fn shape_of_one(port: &Port, batched: bool) -> Option<Vec<usize>> {
    let lengths = port.dimensions.iter().enumerate().map(|(place, dim)| match dim {
        _ if batched && place == 0 => Some(1),
        Dim::Fixed(length) => usize::try_from(*length).ok(),
        Dim::Named(_) | Dim::Open => None,
    });
    lengths.collect()
}

fn annotations(classes: Classes) -> BTreeMap<String, String> {
    let written = classes.into_iter().map(|(output, labels)| {
        let labels = serde_json::Value::from(labels).to_string();
        (format!("{CLASSES}{output}"), labels)
    });
    written.collect()
}

fn input(port: &Port, tensor: &Tensor) -> Result<TValue, RunError> {
    match to_tract(tensor) {
        Ok(tensor) => Ok(tensor.into()),
        Err(Unfit::Utf8(element)) => Err(RunError::Utf8 {
            input: port.name.clone(),
            element,
        }),
        Err(Unfit::Tract(error)) => Err(RunError::Failed {
            shapes: format!("{:?}", tensor.lengths()),
            source: error.into(),
        }),
    }
}

fn output(port: &Port, value: TValue, batch: Option<usize>) -> Result<Tensor, RunError> {
    if let Some(inputs) = batch
        && value.shape().first() != Some(&inputs)
    {
        return Err(RunError::NoBatch {
            output: port.name.clone(),
            got: value.shape().to_vec(),
            inputs,
        });
    }
    let other = || RunError::Datatype {
        output: port.name.clone(),
        got: format!("{:?}", value.datum_type()),
        expected: port.datatype.to_string(),
    };
    if datatype_of(value.datum_type()) != Some(port.datatype) {
        return Err(other());
    }
    let value = if value.datum_type().is_tdim() {
        // tract computes with lengths by symbols, which are all known by now.
        value
            .cast_to::<i64>()
            .map_err(|_| other())?
            .into_owned()
            .into_arc_tensor()
    } else {
        value.into_arc_tensor()
    };
    from_tract(value, port.datatype).map_err(|source| RunError::Tensor {
        port: format!("output `{}`", port.name),
        source,
    })
}
