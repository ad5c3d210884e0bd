//! A digest that anybody can compute again: 64-bit FNV-1a.

use skysail_container_rpc::{Batch, InputRef, ModelError, Tensor};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The digest of each input of a batch.
pub fn digests(batch: &Batch) -> Result<Vec<u64>, ModelError> {
    if batch.row_type().is_some() {
        return Ok(batch.inputs().map(digest).collect());
    }
    let mut digests = vec![OFFSET; batch.len()];
    for spec in batch.signature().input_tensors() {
        for (digest, tensor) in digests.iter_mut().zip(batch.tensor(spec.name())?.iter()) {
            *digest = with_tensor(*digest, &tensor);
        }
    }
    Ok(digests)
}

/// Goes on with the tensor's datatype and shape as text, as in `FP32[2,3]`, a zero byte, and its little-endian bytes.
fn with_tensor(hash: u64, tensor: &Tensor) -> u64 {
    let lengths: Vec<_> = tensor.lengths().iter().map(u64::to_string).collect();
    let what = format!("{}[{}]", tensor.datatype(), lengths.join(","));
    fold(fold(fold(hash, what.as_bytes()), &[0]), tensor.data())
}

/// FNV-1a (64 bits) over the name of the input's type, a zero byte, and its little-endian bytes.
///
/// Stable across builds and machines, so a test can know the answer to each of its queries.
pub fn digest(input: InputRef<'_>) -> u64 {
    let typed = |name: &str| fold(fold(OFFSET, name.as_bytes()), &[0]);
    match input {
        InputRef::Bytes(bytes) => fold(typed("bytes"), bytes),
        InputRef::Integers(numbers) => fold_all(typed("integers"), numbers, |number| number.to_le_bytes()),
        InputRef::Floats(numbers) => fold_all(typed("floats"), numbers, |number| number.to_le_bytes()),
        InputRef::Doubles(numbers) => fold_all(typed("doubles"), numbers, |number| number.to_le_bytes()),
        InputRef::Strings(text) => fold(typed("strings"), text.as_bytes()),
    }
}

fn fold_all<T: Copy, const N: usize>(hash: u64, numbers: &[T], bytes: impl Fn(T) -> [u8; N]) -> u64 {
    numbers
        .iter()
        .fold(hash, |hash, &number| fold(hash, &bytes(number)))
}

fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use skysail_container_rpc::{Input, Signature, TensorSpec};

    use super::*;

    #[test]
    fn it_is_fnv_1a() {
        // The published 64-bit test vectors.
        assert_eq!(fold(OFFSET, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fold(OFFSET, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fold(OFFSET, b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_same_bytes_in_another_tensor_have_another_digest() {
        let digest = |text: &str, lengths: &[u64]| {
            let spec: TensorSpec = text.parse().unwrap();
            let tensor = Tensor::new(spec.datatype(), lengths, vec![1, 0, 0, 0]).unwrap();
            let signature = Signature::tensors([spec], []).unwrap();
            let batch = Batch::of(&signature, &[Input::tensors([tensor])]).unwrap();
            digests(&batch).unwrap()[0]
        };
        let expected = fold(fold(fold(OFFSET, b"FP32[1]"), &[0]), &[1, 0, 0, 0]);
        assert_eq!(digest("a:FP32[-1]", &[1]), expected);
        assert_ne!(digest("a:INT32[-1]", &[1]), expected);
        assert_ne!(digest("a:FP32[1,1]", &[1, 1]), expected);
    }

    #[test]
    fn the_same_bytes_of_another_type_have_another_digest() {
        assert_ne!(digest(InputRef::Bytes(b"a")), digest(InputRef::Strings("a")));
        assert_ne!(digest(InputRef::Integers(&[0])), digest(InputRef::Floats(&[0.0])));
    }
}
