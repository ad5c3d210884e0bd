//! Names, datatypes and shapes of what a model takes and gives, and which dimension is the batch.
//!
//! **The batch dimension.** ONNX does not say which dimension is the batch. The first one is taken for it if
//!
//! 1. it is open (named, or nothing is said of it) in every input, and no two inputs name it differently; and
//! 2. every output begins with it too: as tract derives it from the inputs, or, where tract cannot tell, as the file
//!    has it: open, and of the same name where both have names.
//!
//! Otherwise the tensors have no batch dimension: shapes are as the file has them, and a batch is one input. This is
//! also so for a first dimension of 1, as exporters write it that trace a model with one input. Such a model would
//! answer only for the first of several inputs, or fail.

use skysail_proto::datatype::Datatype;
use skysail_proto::signature::{Length, Shape, Signature, SignatureError, TensorSpec};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{GraphProto, ModelProto, TypeProto, ValueInfoProto, type_proto};

use crate::elements::{datatype, datatype_name};
use crate::error::LoadError;

/// Whether a model's tensors have a batch dimension.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Batching {
    /// If the file's first dimensions look like one.
    #[default]
    AsInFile,
    /// No: the deployment says so.
    Never,
}

/// What a model takes and gives, with the batch dimension if there is one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Interface {
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) batched: bool,
}

/// An input or an output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) datatype: Datatype,
    pub(crate) dimensions: Vec<Dim>,
}

/// A dimension as the file describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Dim {
    /// Always this length.
    Fixed(u64),
    /// Of any length, which is the same wherever the name stands.
    Named(String),
    /// Of any length.
    Open,
}

/// What tract derived of an output from the inputs.
#[derive(Clone, Debug)]
pub(crate) struct Derived {
    pub(crate) datatype: Option<Datatype>,
    pub(crate) dimensions: Vec<Option<u64>>,
    /// Whether the first dimension is that of the inputs.
    pub(crate) begins_with_batch: bool,
}

/// What the file says of an output; scikit-learn's cut ones are not described at all.
#[derive(Clone, Debug)]
struct Described {
    datatype: Option<Datatype>,
    dimensions: Option<Vec<Dim>>,
}

/// The model's inputs: tensors with initial values are weights, whatever list they are in.
pub(crate) fn inputs(model: &ModelProto) -> Result<Vec<Port>, LoadError> {
    let graph = graph(model);
    let is_weight =
        |input: &&ValueInfoProto| graph.initializer.iter().any(|weight| weight.name == input.name);
    let inputs: Vec<_> = graph
        .input
        .iter()
        .filter(|input| !is_weight(input))
        .map(input)
        .collect::<Result<_, _>>()?;
    if inputs.is_empty() {
        return Err(LoadError::Port {
            port: "the model".to_owned(),
            problem: "has no inputs: nothing can be asked of it".to_owned(),
        });
    }
    Ok(inputs)
}

fn input(info: &ValueInfoProto) -> Result<Port, LoadError> {
    let port = format!("input `{}`", info.name);
    let described = described(&port, info)?;
    let problem = |problem: &str| LoadError::Port {
        port: port.clone(),
        problem: problem.to_owned(),
    };
    Ok(Port {
        name: info.name.clone(),
        datatype: described
            .datatype
            .ok_or_else(|| problem("has no datatype in the file: export it again"))?,
        dimensions: described.dimensions.ok_or_else(|| {
            problem("has no shape in the file: export it with one, of open dimensions if need be")
        })?,
    })
}

fn graph(model: &ModelProto) -> &GraphProto {
    model
        .graph
        .as_ref()
        .expect("a file without graph is refused; this is a bug")
}

fn described(port: &str, info: &ValueInfoProto) -> Result<Described, LoadError> {
    let Some(TypeProto { value, .. }) = &info.r#type else {
        return Ok(Described {
            datatype: None,
            dimensions: None,
        });
    };
    // Sequences, maps and optional values are not among what tract reads.
    let Some(type_proto::Value::TensorType(tensor)) = value else {
        return Err(LoadError::Port {
            port: port.to_owned(),
            problem:
                "is no tensor but a sequence, a map or an optional value: export the model with tensors only"
                    .to_owned(),
        });
    };
    let Some(datatype) = datatype(tensor.elem_type) else {
        return Err(LoadError::Port {
            port: port.to_owned(),
            problem: format!(
                "is {}, which tract does not have: serve the model with a Python container",
                datatype_name(tensor.elem_type)
            ),
        });
    };
    let shape = tensor.shape.as_ref();
    Ok(Described {
        datatype: Some(datatype),
        dimensions: shape.map(|shape| shape.dim.iter().map(dim).collect()),
    })
}

fn dim(dimension: &Dimension) -> Dim {
    match &dimension.value {
        Some(dimension::Value::DimValue(length)) => u64::try_from(*length).map_or(Dim::Open, Dim::Fixed),
        Some(dimension::Value::DimParam(name)) if is_name(name) => Dim::Named(name.clone()),
        Some(dimension::Value::DimParam(_)) | None => Dim::Open,
    }
}

/// Some exporters number the dimensions of which they know nothing.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "?" && !name.starts_with("unk__")
}

/// Whether the inputs have a first dimension that may be the batch.
pub(crate) fn may_be_batched(inputs: &[Port]) -> bool {
    let mut names = Vec::new();
    for input in inputs {
        match input.dimensions.first() {
            None | Some(Dim::Fixed(_)) => return false,
            Some(Dim::Named(name)) => names.push(name),
            Some(Dim::Open) => {}
        }
    }
    names.windows(2).all(|pair| pair[0] == pair[1])
}

impl Interface {
    /// Puts together what the file says and what tract derived, output by output.
    pub(crate) fn new(
        model: &ModelProto,
        inputs: Vec<Port>,
        derived: &[Option<Derived>],
        may_be_batched: bool,
    ) -> Result<Self, LoadError> {
        let name = inputs.iter().find_map(|input| match input.dimensions.first() {
            Some(Dim::Named(name)) => Some(name.clone()),
            _ => None,
        });
        let mut batched = may_be_batched;
        let mut outputs = Vec::new();
        for (info, derived) in graph(model).output.iter().zip(derived) {
            let port = format!("output `{}`", info.name);
            let described = described(&port, info)?;
            batched &= begins_with_batch(&described, derived.as_ref(), name.as_deref());
            outputs.push(output(info, described, derived.as_ref())?);
        }
        Ok(Self {
            inputs,
            outputs,
            batched,
        })
    }

    /// What the frontend is told: shapes of one input, and of one output.
    pub(crate) fn signature(&self) -> Result<Signature, SignatureError> {
        let specify =
            |ports: &[Port]| -> Result<Vec<_>, _> { ports.iter().map(|port| self.spec(port)).collect() };
        let signature = Signature::tensors(specify(&self.inputs)?, specify(&self.outputs)?)?;
        Ok(if self.batched {
            signature
        } else {
            signature.without_batch_dimension()
        })
    }

    fn spec(&self, port: &Port) -> Result<TensorSpec, SignatureError> {
        let lengths = port
            .dimensions
            .iter()
            .skip(usize::from(self.batched))
            .map(|dim| match dim {
                Dim::Fixed(length) => Length::Fixed(*length),
                Dim::Named(_) | Dim::Open => Length::Any,
            });
        let spec = TensorSpec::new(&port.name, port.datatype, Shape::new(lengths)?)?;
        // ONNX's strings are UTF-8.
        if port.datatype == Datatype::Bytes {
            spec.utf8()
        } else {
            Ok(spec)
        }
    }
}

fn begins_with_batch(described: &Described, derived: Option<&Derived>, name: Option<&str>) -> bool {
    if let Some(derived) = derived {
        return derived.begins_with_batch;
    }
    match described.dimensions.as_deref() {
        Some([Dim::Open, ..]) => true,
        Some([Dim::Named(own), ..]) => name.is_none_or(|name| name == own),
        _ => false,
    }
}

fn output(info: &ValueInfoProto, described: Described, derived: Option<&Derived>) -> Result<Port, LoadError> {
    let unknown = |what: &str| LoadError::Port {
        port: format!("output `{}`", info.name),
        problem: format!("has no {what} in the file, and tract cannot derive it: export the model with one"),
    };
    let datatype = described.datatype.or_else(|| derived?.datatype);
    Ok(Port {
        name: info.name.clone(),
        datatype: datatype.ok_or_else(|| unknown("datatype"))?,
        dimensions: dimensions(described.dimensions, derived).ok_or_else(|| unknown("shape"))?,
    })
}

/// The file's shape, with the lengths that it leaves open and tract knows.
fn dimensions(described: Option<Vec<Dim>>, derived: Option<&Derived>) -> Option<Vec<Dim>> {
    let derived = derived.map(|derived| &derived.dimensions);
    let fixed = |length: &Option<u64>| length.map_or(Dim::Open, Dim::Fixed);
    let Some(described) = described else {
        return Some(derived?.iter().map(fixed).collect());
    };
    let Some(derived) = derived.filter(|derived| derived.len() == described.len()) else {
        return Some(described);
    };
    let both = described.into_iter().zip(derived);
    Some(
        both.map(|(dim, length)| {
            if let Dim::Fixed(_) = dim {
                dim
            } else {
                fixed(length)
            }
        })
        .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, dimensions: &[Dim]) -> Port {
        Port {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            dimensions: dimensions.to_vec(),
        }
    }

    fn named(name: &str) -> Dim {
        Dim::Named(name.to_owned())
    }

    #[test]
    fn an_open_first_dimension_of_all_inputs_may_be_the_batch() {
        let four = Dim::Fixed(4);
        assert!(may_be_batched(&[port("a", &[Dim::Open, four.clone()])]));
        assert!(may_be_batched(&[
            port("a", &[named("n"), named("length")]),
            port("b", &[named("n")])
        ]));
        assert!(may_be_batched(&[
            port("a", &[named("n")]),
            port("b", &[Dim::Open])
        ]));
        assert!(!may_be_batched(&[
            port("a", &[named("n")]),
            port("b", &[named("m")])
        ]));
        assert!(!may_be_batched(&[port("a", &[named("n")]), port("b", &[])]));
        assert!(!may_be_batched(&[port("a", &[Dim::Fixed(1), four])]));
    }

    #[test]
    fn the_signature_has_no_batch_dimension() {
        let mut interface = Interface {
            inputs: vec![port("x", &[Dim::Open, Dim::Fixed(4), named("length")])],
            outputs: vec![port("y", &[Dim::Open])],
            batched: true,
        };
        assert_eq!(
            interface.signature().unwrap().to_string(),
            "x:FP32[4,-1] -> y:FP32[]"
        );
        interface.batched = false;
        let signature = interface.signature().unwrap().to_string();
        assert_eq!(signature, "x:FP32[-1,4,-1] -> y:FP32[-1] (no batch dimension)");
    }

    #[test]
    fn lengths_that_tract_derives_fill_what_the_file_leaves_open() {
        let derived = Derived {
            datatype: None,
            dimensions: vec![None, Some(10)],
            begins_with_batch: true,
        };
        let described = vec![named("batch"), named("some_dim")];
        assert_eq!(
            dimensions(Some(described), Some(&derived)).unwrap(),
            [Dim::Open, Dim::Fixed(10)]
        );
        assert_eq!(
            dimensions(None, Some(&derived)).unwrap(),
            [Dim::Open, Dim::Fixed(10)]
        );
        assert_eq!(dimensions(None, None), None);
    }
}
