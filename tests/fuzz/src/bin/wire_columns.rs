//! Columns of tensors as they arrive: none makes a reader panic or take memory for what was only announced, and what is
//! taken can be read, cut and sent again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use skysail_fuzz::Source;
use skysail_proto::container;
use skysail_proto::signature::Signature;
use skysail_proto::tensor::TensorColumn;
use skysail_proto::value::{Columns, from_outputs};

/// The most tensors of a column that are looked at: of those without elements there may be billions.
const MOST_LOOKED_AT: usize = 100;

fuzz_target!(|bytes: &[u8]| {
    let mut source = Source::new(bytes);
    let Some(signature) = source.signature() else {
        return;
    };
    match source.below(4) {
        0 => {
            if let Ok(batch) = container::Batch::decode(Bytes::copy_from_slice(source.rest())) {
                check_batch(&signature, batch);
            }
        }
        1 => {
            let expected = source.below(200);
            if let Ok(outputs) = container::Outputs::decode(Bytes::copy_from_slice(source.rest())) {
                check_outputs(&signature, outputs, expected);
            }
        }
        2 => {
            let batch = container::Batch {
                input_type: container::InputType::Tensors as i32,
                inputs: u32::try_from(source.number()).unwrap_or(u32::MAX),
                tensors: source.columns(),
                ..container::Batch::default()
            };
            check_batch(&signature, batch);
        }
        _ => {
            let expected = source.below(20);
            let failed = (0..source.below(4)).map(|_| container::InputError {
                index: u32::from(source.byte() % 32),
                ..container::InputError::default()
            });
            let outputs = container::Outputs {
                errors: failed.collect(),
                inputs: u32::try_from(expected).expect("it is below 20"),
                tensors: source.columns(),
                ..container::Outputs::default()
            };
            check_outputs(&signature, outputs, expected);
        }
    }
});

fn check_batch(signature: &Signature, mut batch: container::Batch) {
    let Ok(Columns::Tensors { columns, inputs }) = Columns::from_batch(&mut batch) else {
        return;
    };
    for (column, spec) in columns.iter().zip(signature.input_tensors()) {
        assert_eq!(column.len(), inputs);
        let _ = column.is(spec);
        check_column(column);
    }
}

fn check_column(column: &TensorColumn) {
    let _ = column.to_string();
    let looked_at = column.len().min(MOST_LOOKED_AT);
    let tensors: Vec<_> = column.iter().take(looked_at).collect();
    let middle = looked_at / 2;
    for part in [0..looked_at, 0..middle, middle..looked_at] {
        let sent = column.slice(part.clone()).to_wire();
        let again = TensorColumn::from_wire(sent, part.len()).expect("it was a column of ours");
        assert!(again.iter().eq(tensors[part].iter().cloned()));
    }
}

fn check_outputs(signature: &Signature, outputs: container::Outputs, expected: usize) {
    let Ok(outputs) = from_outputs(outputs, expected, signature) else {
        return;
    };
    assert_eq!(outputs.len(), expected);
    let mut json = Vec::new();
    for output in outputs.iter().flatten() {
        json.clear();
        output.write_json(&mut json);
        assert!(std::str::from_utf8(&json).is_ok());
        let (specs, tensors) = output.as_tensors().expect("the signature says so");
        assert!(specs.iter().zip(tensors).all(|(spec, tensor)| tensor.is(spec)));
    }
}
