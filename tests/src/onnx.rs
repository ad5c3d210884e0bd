//! A small ONNX file, written by hand: what the format is, and nothing that a library adds.

/// A model that doubles its input: `y = x + x`, of `[N, width]` FP32 with any batch size N.
pub fn doubling(width: u8) -> Vec<u8> {
    let node = [text(1, "x"), text(1, "x"), text(2, "y"), text(4, "Add")].concat();
    let graph = [
        message(1, &node),
        text(2, "doubling"),
        message(11, &value("x", width)),
        message(12, &value("y", width)),
    ];
    let opset = [text(1, ""), number(2, 13)].concat();
    [number(1, 8), message(7, &graph.concat()), message(8, &opset)].concat()
}

/// A tensor of the graph, of `[N, width]` FP32.
fn value(name: &str, width: u8) -> Vec<u8> {
    let any_batch = message(1, &text(2, "N"));
    let fixed = message(1, &number(1, width));
    let shape = message(2, &[any_batch, fixed].concat());
    let tensor = message(1, &[number(1, 1), shape].concat());
    [text(1, name), message(2, &tensor)].concat()
}

/// A field of protobuf that holds a small number.
fn number(field: u8, value: u8) -> Vec<u8> {
    assert!(value < 128, "a longer number takes several bytes");
    vec![field << 3, value]
}

fn text(field: u8, content: &str) -> Vec<u8> {
    message(field, content.as_bytes())
}

/// A field of protobuf that holds bytes.
fn message(field: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("the model is small");
    let mut written = vec![field << 3 | 2];
    // The length's digits to the base 128, the lowest first; all but the last are marked.
    if length < 128 {
        written.push(length);
    } else {
        written.extend([length | 128, length >> 7]);
    }
    written.extend(content);
    written
}
