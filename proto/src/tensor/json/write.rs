//! Writes tensors as JSON.

use std::marker::PhantomData;

use super::super::Tensor;
use super::element::Element;
use super::{ForElement, for_element};
use crate::signature::TensorSpec;

/// Appends an object of tensors by their names; they are in the order of the specifications, and fit them.
pub(crate) fn write_named(specs: &[TensorSpec], tensors: &[Tensor], json: &mut Vec<u8>) {
    json.push(b'{');
    for (index, (spec, tensor)) in specs.iter().zip(tensors).enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut *json, spec.name())
            .expect("a text can be written to memory; this is a bug");
        json.push(b':');
        for_element(spec, Write { tensor, json });
    }
    json.push(b'}');
}

struct Write<'a> {
    tensor: &'a Tensor,
    json: &'a mut Vec<u8>,
}

impl ForElement for Write<'_> {
    type Done = ();
    fn run<E: Element>(self, _element: PhantomData<E>) {
        let Self { tensor, json } = self;
        let elements = tensor.data.len() / E::LEAST_BYTES;
        json.reserve(elements * E::USUAL_JSON_BYTES);
        let mut rest = &tensor.data[..];
        if tensor.lengths.is_empty() {
            E::write_first(&mut rest, json);
        } else {
            write_nested::<E>(&tensor.lengths, &mut rest, json);
        }
    }
}

/// Takes the elements of a tensor of these lengths off the data, and appends them as nested arrays.
fn write_nested<E: Element>(lengths: &[u64], data: &mut &[u8], json: &mut Vec<u8>) {
    let (length, within) = match lengths {
        [] => return,
        [length] => return write_row::<E>(*length, data, json),
        [length, within @ ..] => (*length, within),
    };
    json.push(b'[');
    for index in 0..length {
        if index > 0 {
            json.push(b',');
        }
        write_nested::<E>(within, data, json);
    }
    json.push(b']');
}

/// Takes the elements of an innermost array off the data, and appends them.
fn write_row<E: Element>(length: u64, data: &mut &[u8], json: &mut Vec<u8>) {
    // Of its own, so that it can be kept in a register.
    let mut rest = *data;
    json.push(b'[');
    for _ in 0..length {
        E::write_first(&mut rest, json);
        json.push(b',');
    }
    if length > 0 {
        json.pop();
    }
    json.push(b']');
    *data = rest;
}
