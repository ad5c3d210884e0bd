//! JSON tensors: no text makes the parser panic, and what it takes comes back from JSON and from the wire.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use skysail_fuzz::Source;
use skysail_proto::container;
use skysail_proto::signature::Signature;
use skysail_proto::value::{Columns, Input, to_batch};

fuzz_target!(|bytes: &[u8]| {
    let mut source = Source::new(bytes);
    let Some(signature) = source.signature() else {
        return;
    };
    let Ok(json) = std::str::from_utf8(source.rest()) else {
        return;
    };
    if let Ok(input) = Input::from_json(&signature, json) {
        check(&signature, &input);
    }
});

fn check(signature: &Signature, input: &Input) {
    assert!(input.fits(signature), "{input:?} does not fit {signature}");
    let json = input.to_json_text(signature);
    let again = Input::from_json(signature, &json).expect("it was written by us");
    assert!(again == *input, "{json} is another input");

    let batch = to_batch(signature, [input, input].into_iter()).encode_to_vec();
    let mut batch = container::Batch::decode(&batch[..]).expect("it was encoded by us");
    let columns = Columns::from_batch(&mut batch).expect("it was a batch of ours");
    let Columns::Tensors { columns, inputs: 2 } = columns else {
        panic!("two inputs of tensors became {columns:?}")
    };
    for (column, tensor) in columns.iter().zip(input.as_tensors()) {
        assert!(column.iter().all(|received| received == *tensor));
    }
}
