//! A signature as it travels when a container registers.

use super::{Inputs, Length, Shape, Signature, SignatureError, TensorSpec};
use crate::container;
use crate::datatype::Datatype;
use crate::value::InputType;

impl Signature {
    /// What a container announces: `None` for a row that gives text, which its input type says.
    pub fn to_wire(&self) -> Option<container::Signature> {
        if self.inputs == Inputs::Undeclared || self.declared_text().is_none() {
            return None;
        }
        Some(container::Signature {
            input_type: self.wire_type() as i32,
            inputs: self.input_tensors().iter().map(TensorSpec::to_wire).collect(),
            outputs: self.output_tensors().iter().map(TensorSpec::to_wire).collect(),
            unbatched: !self.is_batched(),
        })
    }

    /// What a container announced. Without a signature the input type says all.
    pub fn from_wire(
        input_type: i32,
        announced: Option<container::Signature>,
    ) -> Result<Self, SignatureError> {
        let Some(announced) = announced else {
            if input_type == container::InputType::Tensors as i32 {
                return Ok(Self::undeclared());
            }
            let row = InputType::from_wire(input_type).ok_or(SignatureError::Unknown(input_type))?;
            return Ok(Self::row(row));
        };
        let specs = |specs: Vec<container::TensorSpec>| -> Result<Vec<_>, _> {
            specs.into_iter().map(TensorSpec::from_wire).collect()
        };
        let outputs = specs(announced.outputs)?;
        let signature = match InputType::from_wire(announced.input_type) {
            Some(row) => Self::row_to_tensors(row, outputs)?,
            None if announced.input_type == container::InputType::Tensors as i32 => {
                Self::tensors(specs(announced.inputs)?, outputs)?
            }
            None => return Err(SignatureError::Unknown(announced.input_type)),
        };
        Ok(Self {
            batched: !announced.unbatched,
            ..signature
        })
    }
}

impl TensorSpec {
    fn to_wire(&self) -> container::TensorSpec {
        container::TensorSpec {
            name: self.name().to_owned(),
            datatype: self.datatype().to_wire() as i32,
            shape: self
                .shape()
                .lengths()
                .iter()
                .map(|&length| length.into())
                .collect(),
            utf8: self.is_utf8(),
        }
    }

    fn from_wire(spec: container::TensorSpec) -> Result<Self, SignatureError> {
        let datatype = Datatype::from_wire(spec.datatype).ok_or(SignatureError::Unknown(spec.datatype))?;
        let lengths: Result<Vec<_>, _> = spec.shape.into_iter().map(Length::try_from).collect();
        let read = Self::new(&spec.name, datatype, Shape::new(lengths?)?)?;
        if spec.utf8 { read.utf8() } else { Ok(read) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_survives_the_wire() {
        let spec = |text: &str| text.parse::<TensorSpec>().unwrap();
        let tensors = Signature::tensors(
            [spec("image:FP32[224,-1]"), spec("t:BYTES[]:utf8")],
            [spec("p:INT64")],
        );
        for signature in [
            Signature::row(InputType::Strings),
            Signature::undeclared(),
            tensors.clone().unwrap(),
            tensors.unwrap().without_batch_dimension(),
            Signature::row_to_tensors(InputType::Floats, [spec("p:FP32[3]")]).unwrap(),
        ] {
            let (wire_type, wire) = (signature.wire_type() as i32, signature.to_wire());
            assert_eq!(Signature::from_wire(wire_type, wire), Ok(signature));
        }
    }

    #[test]
    fn a_number_that_is_not_known_is_an_error() {
        assert_eq!(Signature::from_wire(77, None), Err(SignatureError::Unknown(77)));
        let spec = container::TensorSpec {
            name: "a".to_owned(),
            datatype: 99,
            ..container::TensorSpec::default()
        };
        let wire = container::Signature {
            input_type: 6,
            inputs: vec![spec],
            ..container::Signature::default()
        };
        assert_eq!(
            Signature::from_wire(6, Some(wire)),
            Err(SignatureError::Unknown(99))
        );
    }
}
