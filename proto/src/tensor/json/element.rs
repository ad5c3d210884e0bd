//! How an element of each datatype is read from JSON, and written.

use base64::Engine;
use half::{bf16, f16};

use super::super::PREFIX;
use crate::value::BASE64;

/// Why a value is no element.
pub(super) enum Unfit {
    /// It is another kind of value: text instead of a number, say.
    Kind,
    /// It is of the right kind, and the datatype cannot hold it.
    Range,
    /// It is a text that is no base64.
    Base64(base64::DecodeError),
}

/// Appends an element to a tensor's data, or says why it is none.
type Put = Result<(), Unfit>;

/// What one element is. Each method appends the element that a JSON value of its kind stands for.
pub(super) trait Element {
    /// What is expected, to complete "expected …".
    const EXPECTED: &'static str;
    /// What can be held, to complete "… does not fit …".
    const RANGE: &'static str = "";
    /// The bytes of an element; with BYTES the least.
    const LEAST_BYTES: usize;
    /// The bytes of JSON that an element and its comma usually take.
    const USUAL_JSON_BYTES: usize;

    fn put_bool(_given: bool, _data: &mut Vec<u8>) -> Put {
        Err(Unfit::Kind)
    }

    fn put_unsigned(_given: u64, _data: &mut Vec<u8>) -> Put {
        Err(Unfit::Kind)
    }

    fn put_signed(_given: i64, _data: &mut Vec<u8>) -> Put {
        Err(Unfit::Kind)
    }

    fn put_float(_given: f64, _data: &mut Vec<u8>) -> Put {
        Err(Unfit::Kind)
    }

    fn put_text(_given: &str, _data: &mut Vec<u8>) -> Put {
        Err(Unfit::Kind)
    }

    /// Takes the first element off the data, and appends its JSON. Data that has no whole one is emptied.
    fn write_first(data: &mut &[u8], json: &mut Vec<u8>);
}

impl Element for bool {
    const EXPECTED: &'static str = "true or false (BOOL)";
    const LEAST_BYTES: usize = 1;
    const USUAL_JSON_BYTES: usize = 6;

    fn put_bool(given: bool, data: &mut Vec<u8>) -> Put {
        data.push(given.into());
        Ok(())
    }

    fn write_first(data: &mut &[u8], json: &mut Vec<u8>) {
        let [byte] = take(data);
        json.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
    }
}

macro_rules! integers {
    ($($integer:ty, $name:literal, $range:literal, $json_bytes:literal;)*) => {$(
        impl Element for $integer {
            const EXPECTED: &'static str = concat!("an integer (", $name, ")");
            const RANGE: &'static str = concat!($name, " (", $range, ")");
            const LEAST_BYTES: usize = size_of::<Self>();
            const USUAL_JSON_BYTES: usize = $json_bytes;

            #[inline]
            fn put_unsigned(given: u64, data: &mut Vec<u8>) -> Put {
                let number = Self::try_from(given).map_err(|_| Unfit::Range)?;
                data.extend_from_slice(&number.to_le_bytes());
                Ok(())
            }

            #[inline]
            fn put_signed(given: i64, data: &mut Vec<u8>) -> Put {
                let number = Self::try_from(given).map_err(|_| Unfit::Range)?;
                data.extend_from_slice(&number.to_le_bytes());
                Ok(())
            }

            fn put_float(given: f64, data: &mut Vec<u8>) -> Put {
                // The JSON parser gives the integer literal `-0` as a float.
                if given == 0.0 && given.is_sign_negative() {
                    return Self::put_unsigned(0, data);
                }
                Err(Unfit::Range)
            }

            #[inline]
            fn write_first(data: &mut &[u8], json: &mut Vec<u8>) {
                let number = Self::from_le_bytes(take(data));
                json.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            }
        }
    )*};
}

integers! {
    u8, "UINT8", "0 to 255", 4;
    u16, "UINT16", "0 to 65535", 6;
    u32, "UINT32", "0 to 4294967295", 8;
    u64, "UINT64", "0 to 18446744073709551615", 8;
    i8, "INT8", "-128 to 127", 4;
    i16, "INT16", "-32768 to 32767", 6;
    i32, "INT32", "-2147483648 to 2147483647", 8;
    i64, "INT64", "-9223372036854775808 to 9223372036854775807", 8;
}

/// A float that JSON numbers are rounded to, to nearest and ties to even.
trait Float: Copy {
    type Written: zmij::Float;
    fn of_integer(given: i128) -> Self;
    fn of_double(given: f64) -> Self;
    /// The number that is written: its shortest form is read back as the same float.
    fn written(self) -> Self::Written;
    /// The name of a number that JSON has no form for.
    fn special(self) -> Option<&'static str>;
}

macro_rules! floats {
    ($($float:ty, $name:literal, $most:literal;)*) => {$(
        impl Element for $float {
            const EXPECTED: &'static str =
                concat!("a number, \"NaN\", \"Infinity\" or \"-Infinity\" (", $name, ")");
            const RANGE: &'static str = concat!($name, " (at most ", $most, ", up or down)");
            const LEAST_BYTES: usize = size_of::<Self>();
            const USUAL_JSON_BYTES: usize = 3 + 2 * size_of::<Self>();

            #[inline]
            fn put_unsigned(given: u64, data: &mut Vec<u8>) -> Put {
                put_finite(Self::of_integer(given.into()), Self::to_le_bytes, data)
            }

            #[inline]
            fn put_signed(given: i64, data: &mut Vec<u8>) -> Put {
                put_finite(Self::of_integer(given.into()), Self::to_le_bytes, data)
            }

            #[inline]
            fn put_float(given: f64, data: &mut Vec<u8>) -> Put {
                put_finite(Self::of_double(given), Self::to_le_bytes, data)
            }

            fn put_text(given: &str, data: &mut Vec<u8>) -> Put {
                let number = match given {
                    "NaN" => Self::NAN,
                    "Infinity" => Self::INFINITY,
                    "-Infinity" => Self::NEG_INFINITY,
                    _ => return Err(Unfit::Kind),
                };
                data.extend_from_slice(&number.to_le_bytes());
                Ok(())
            }

            #[inline]
            fn write_first(data: &mut &[u8], json: &mut Vec<u8>) {
                let number = Self::from_le_bytes(take(data));
                match number.special() {
                    Some(name) => json.extend_from_slice(name.as_bytes()),
                    None => json.extend_from_slice(zmij::Buffer::new().format_finite(number.written()).as_bytes()),
                }
            }
        }
    )*};
}

floats! {
    f16, "FP16", "65504";
    bf16, "BF16", "3.39e38";
    f32, "FP32", "3.4028235e38";
    f64, "FP64", "1.7976931348623157e308";
}

/// Appends a float, unless it is what a number too large was rounded to.
#[inline]
fn put_finite<F: Float, const N: usize>(number: F, bytes: impl Fn(F) -> [u8; N], data: &mut Vec<u8>) -> Put {
    if number.special().is_some() {
        return Err(Unfit::Range);
    }
    data.extend_from_slice(&bytes(number));
    Ok(())
}

/// The name of a float that JSON has no form for, as a JSON string.
#[inline]
fn special(number: f64) -> Option<&'static str> {
    if number.is_finite() {
        return None;
    }
    Some(match (number.is_nan(), number > 0.0) {
        (true, _) => "\"NaN\"",
        (false, true) => "\"Infinity\"",
        (false, false) => "\"-Infinity\"",
    })
}

macro_rules! native_floats {
    ($($float:ty, $nearest:path;)*) => {$(
        impl Float for $float {
            type Written = Self;

            #[inline]
            fn of_integer(given: i128) -> Self {
                #[expect(clippy::cast_precision_loss, reason = "an integer literal stands for the nearest float")]
                let nearest = given as Self;
                nearest
            }

            #[inline]
            fn of_double(given: f64) -> Self {
                $nearest(given)
            }

            #[inline]
            fn written(self) -> Self {
                self
            }

            #[inline]
            fn special(self) -> Option<&'static str> {
                special(self.into())
            }
        }
    )*};
}

native_floats! {
    f32, nearest;
    f64, std::convert::identity;
}

/// The bits of a double's mantissa that a float of 32 bits has no room for, and what they are in the middle between two.
const CUT_OFF: u64 = (1 << 29) - 1;
const MIDDLE: u64 = 1 << 28;

/// The float of 32 bits that is nearest to the number that was given, of which this is the nearest double.
#[inline]
fn nearest(number: f64) -> f32 {
    if number.to_bits() & CUT_OFF == MIDDLE {
        return nearest_of_middle(number);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounding to f32 is what the datatype asks for"
    )]
    let nearest = number as f32;
    nearest
}

/// The same for a double in the middle between two floats: the number that was given may have been on either side of it.
///
/// If it had at most 15 digits, then it is the shortest form of the double. `7.038531e-26`, the shortest form of a float,
/// would otherwise become its neighbour. It is the only one.
#[cold]
fn nearest_of_middle(number: f64) -> f32 {
    let given = zmij::Buffer::new().format(number).parse();
    given.expect("it is a float's text; this is a bug")
}

macro_rules! half_floats {
    ($($float:ty),*) => {$(
        impl Float for $float {
            type Written = f32;

            fn of_integer(given: i128) -> Self {
                #[expect(clippy::cast_precision_loss, reason = "an integer literal stands for the nearest float")]
                Self::of_double(given as f64)
            }

            fn of_double(given: f64) -> Self {
                Self::from_f32(rounded_to_odd(given))
            }

            fn written(self) -> f32 {
                self.to_f32()
            }

            fn special(self) -> Option<&'static str> {
                special(self.into())
            }
        }
    )*};
}

half_floats!(f16, bf16);

/// Rounds to a float of 32 bits such that rounding it to fewer bits gives what rounding the number at once would give.
///
/// A number between two floats becomes that of them whose last bit is 1, so it never looks like a tie that it is not.
/// (`half`'s own conversions from f64 look at the upper 32 bits only.)
fn rounded_to_odd(number: f64) -> f32 {
    let near = nearest(number);
    let (exact, bits) = (f64::from(near), near.to_bits());
    if number.is_nan() || exact == number || bits & 1 == 1 {
        return near;
    }
    // The other neighbour is the next float away from zero, or towards it.
    f32::from_bits(if number.abs() > exact.abs() {
        bits + 1
    } else {
        bits - 1
    })
}

/// BYTES that are base64 in JSON.
pub(super) struct Base64;

impl Element for Base64 {
    const EXPECTED: &'static str = "a base64 string (BYTES)";
    const RANGE: &'static str = "BYTES (4294967295 bytes)";
    const LEAST_BYTES: usize = PREFIX;
    const USUAL_JSON_BYTES: usize = 32;

    fn put_text(given: &str, data: &mut Vec<u8>) -> Put {
        put_prefixed(data, |data| BASE64.decode_vec(given, data).map_err(Unfit::Base64))
    }

    fn write_first(data: &mut &[u8], json: &mut Vec<u8>) {
        let element = take_prefixed(data);
        json.push(b'"');
        let start = json.len();
        // Four characters for each three bytes, with padding.
        json.resize(start + element.len().div_ceil(3) * 4, b'=');
        let written = BASE64.encode_slice(element, &mut json[start..]);
        written.expect("there is room for it; this is a bug");
        json.push(b'"');
    }
}

/// BYTES that are text.
pub(super) struct Text;

impl Element for Text {
    const EXPECTED: &'static str = "a string (BYTES, utf8)";
    const RANGE: &'static str = Base64::RANGE;
    const LEAST_BYTES: usize = PREFIX;
    const USUAL_JSON_BYTES: usize = 32;

    fn put_text(given: &str, data: &mut Vec<u8>) -> Put {
        put_prefixed(data, |data| {
            data.extend_from_slice(given.as_bytes());
            Ok(())
        })
    }

    fn write_first(data: &mut &[u8], json: &mut Vec<u8>) {
        // It was checked to be UTF-8 when it came; what is not, is shown as well as it can be.
        let text = String::from_utf8_lossy(take_prefixed(data));
        serde_json::to_writer(json, &*text).expect("a text can be written to memory; this is a bug");
    }
}

/// Appends an element of BYTES: its length, and then what `put` appends.
fn put_prefixed(data: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>) -> Put) -> Put {
    let prefix = data.len();
    data.extend_from_slice(&[0; PREFIX]);
    put(data)?;
    let length = u32::try_from(data.len() - prefix - PREFIX).map_err(|_| Unfit::Range)?;
    data[prefix..prefix + PREFIX].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Takes `N` bytes off the front. If there are fewer, it takes all of them and returns zeros.
#[inline]
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let Some((first, rest)) = data.split_first_chunk() else {
        *data = &[];
        return [0; N];
    };
    *data = rest;
    *first
}

/// Takes an element of BYTES off the front.
fn take_prefixed<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let length = u32::from_le_bytes(take(data)) as usize;
    let (element, rest) = data.split_at(length.min(data.len()));
    *data = rest;
    element
}
