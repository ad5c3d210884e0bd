//! A signature and a version's annotations as rows of a page.

use std::collections::BTreeMap;

use skysail_proto::signature::{Inputs, Outputs, Signature, TensorSpec};

use crate::output::shortened;

/// Tensors that take more columns than this stand on a line each.
const WIDEST: usize = 60;

/// What is taken and given. A row without a label goes on with what the one before it says.
pub(crate) fn signature_fields(signature: &Signature) -> Vec<(&'static str, String)> {
    let inputs = match signature.inputs() {
        Inputs::Row(input_type) => vec![input_type.to_string()],
        Inputs::Tensors(tensors) => lines(tensors),
        Inputs::Undeclared => vec!["tensors; the first replica will tell which".to_owned()],
    };
    let outputs = match signature.outputs() {
        Outputs::Tensors(tensors) => lines(tensors),
        Outputs::Text if signature.is_declared() => vec!["text".to_owned()],
        Outputs::Text => Vec::new(),
    };
    let mut pairs = labelled("Inputs", inputs);
    pairs.extend(labelled("Outputs", outputs));
    if !signature.is_batched() {
        pairs.push(("Batch dimension", "none: one input at a time".to_owned()));
    }
    pairs
}

/// What is known of a model beyond its signature.
pub(crate) fn annotation_fields(annotations: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let line = |(name, text): (&String, &String)| format!("{name} = {}", shortened(text));
    labelled("Annotations", annotations.iter().map(line))
}

fn lines(tensors: &[TensorSpec]) -> Vec<String> {
    let written: Vec<String> = tensors.iter().map(TensorSpec::to_string).collect();
    let joined = written.join(", ");
    if joined.chars().count() <= WIDEST {
        vec![joined]
    } else {
        written
    }
}

/// Lines of which the first has a label.
fn labelled(label: &'static str, lines: impl IntoIterator<Item = String>) -> Vec<(&'static str, String)> {
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    labels.zip(lines).collect()
}

#[cfg(test)]
mod tests {
    use skysail_proto::value::InputType;

    use super::*;
    use crate::output::fields;

    fn shown(signature: &Signature) -> String {
        fields(signature_fields(signature))
    }

    fn specs(texts: &[&str]) -> Vec<TensorSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_short_signature_takes_two_lines() {
        assert_eq!(
            shown(&InputType::Doubles.into()),
            "Inputs:    doubles\nOutputs:   text"
        );
        let signature = Signature::tensors(specs(&["x:FP32[2]", "y:BOOL[]"]), specs(&["p:FP32[3]"])).unwrap();
        assert_eq!(
            shown(&signature),
            "Inputs:    x:FP32[2], y:BOOL[]\nOutputs:   p:FP32[3]"
        );
        assert!(shown(&Signature::undeclared()).contains("the first replica"));
    }

    #[test]
    fn the_tensors_of_a_long_signature_stand_on_a_line_each() {
        let names = [
            "the_input_ids:INT64[-1]",
            "the_attention_mask:INT64[-1]",
            "the_types:INT64[-1]",
        ];
        let signature = Signature::tensors(specs(&names), [])
            .unwrap()
            .without_batch_dimension();
        let expected = "\
Inputs:            the_input_ids:INT64[-1]
                   the_attention_mask:INT64[-1]
                   the_types:INT64[-1]
Outputs:           text
Batch dimension:   none: one input at a time";
        assert_eq!(shown(&signature), expected);
    }

    #[test]
    fn annotations_are_shown_by_name_and_shortened() {
        let annotations = BTreeMap::from([
            ("classes".to_owned(), r#"["a", "b"]"#.to_owned()),
            ("note".to_owned(), "long ".repeat(20)),
        ]);
        let shown = fields(annotation_fields(&annotations));
        assert!(
            shown.starts_with("Annotations:   classes = [\"a\", \"b\"]\n"),
            "{shown}"
        );
        assert!(shown.ends_with('…'), "{shown}");
    }
}
