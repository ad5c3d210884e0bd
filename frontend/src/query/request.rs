//! A query's JSON body, parsed in one pass straight into typed inputs.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use skysail_proto::signature::Signature;
use skysail_proto::value::{Input, InputSeed};

/// A query, or several queries in one request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PredictRequest {
    /// The inputs to predict for.
    pub inputs: Inputs,
    /// The version to ask, if not the current one.
    pub version: Option<String>,
    /// A tighter latency objective than the application's, in microseconds.
    pub slo_micros: Option<NonZeroU64>,
}

/// One input is answered by an object, an array of inputs by an array.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Inputs {
    /// The member `input`.
    One(Input),
    /// The member `input_batch`.
    Many(Vec<Input>),
}

/// Why a body is not a request.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The body is not the JSON that a request must be.
    Json(serde_json::Error),
    /// The body has more rows than `max_rows`. The other rows are not read.
    TooManyRows,
}

impl PredictRequest {
    /// Parses a body for an application of this signature, with at most `max_rows` rows. The error says what is
    /// wrong and where.
    pub(crate) fn parse(signature: &Signature, body: &[u8], max_rows: usize) -> Result<Self, Unread> {
        let (has_more, row) = (Cell::new(false), Cell::new(None));
        let seed = RequestSeed {
            signature,
            max_rows,
            has_more: &has_more,
            row: &row,
        };
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let parsed = seed.deserialize(&mut deserializer);
        let parsed = parsed.and_then(|request| deserializer.end().map(|()| request));
        parsed.map_err(|error| match has_more.get() {
            true => Unread::TooManyRows,
            false => Unread::Json(error),
        })
    }

    /// The objective of the request; `Duration::MAX` if it has none.
    pub(crate) fn slo(&self) -> Duration {
        let micros = self.slo_micros;
        micros.map_or(Duration::MAX, |micros| Duration::from_micros(micros.get()))
    }

    /// Takes the objective from a header, unless the body's is tighter.
    pub(crate) fn tighten(&mut self, slo_micros: Option<NonZeroU64>) {
        self.slo_micros = self.slo_micros.into_iter().chain(slo_micros).min();
    }
}

#[derive(Clone, Copy)]
struct RequestSeed<'a> {
    signature: &'a Signature,
    max_rows: usize,
    /// Set if there are more rows than `max_rows`. A flag, because serde errors cannot tell this one from bad JSON.
    has_more: &'a Cell<bool>,
    /// The row of `input_batch` that is being read, for errors.
    row: &'a Cell<Option<usize>>,
}

impl<'de> DeserializeSeed<'de> for RequestSeed<'_> {
    type Value = PredictRequest;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PredictRequest, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RequestSeed<'_> {
    type Value = PredictRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `input` or `input_batch`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PredictRequest, A::Error> {
        let mut inputs: Option<Inputs> = None;
        let (mut version, mut slo_micros, mut uid) = (None, None, None);
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            match &*key {
                member @ ("input" | "input_batch") => {
                    let is_one = member == "input";
                    match inputs {
                        Some(Inputs::One(_)) if is_one => return Err(twice(member)),
                        Some(Inputs::Many(_)) if !is_one => return Err(twice(member)),
                        Some(_) => {
                            return Err(A::Error::custom(
                                "both `input` and `input_batch` are given: send one of them",
                            ));
                        }
                        None => inputs = Some(self.inputs(is_one, &mut map)?),
                    }
                }
                "version" => once::<String, _>("version", &mut version, &mut map)?,
                "slo_micros" => once("slo_micros", &mut slo_micros, &mut map)?,
                "uid" => once::<Uid, _>("uid", &mut uid, &mut map)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let inputs = inputs.ok_or_else(|| A::Error::custom("neither `input` nor `input_batch` is there"))?;
        Ok(PredictRequest {
            inputs,
            version: version.flatten(),
            slo_micros: slo_micros.flatten().map(|Micros(micros)| micros),
        })
    }
}

impl RequestSeed<'_> {
    fn inputs<'de, A: MapAccess<'de>>(self, is_one: bool, map: &mut A) -> Result<Inputs, A::Error> {
        if is_one {
            let input = map.next_value_seed(InputSeed(self.signature));
            input.map(Inputs::One).map_err(within("input"))
        } else {
            let inputs = map.next_value_seed(BatchSeed(self));
            inputs.map(Inputs::Many).map_err(|error| match self.row.get() {
                Some(row) => A::Error::custom(format_args!("in `input_batch[{row}]`: {error}")),
                None => within("input_batch")(error),
            })
        }
    }
}

/// Reads a member that may be null and may be given once.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    member: &'static str,
    slot: &mut Option<Option<T>>,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(twice(member));
    }
    *slot = Some(map.next_value().map_err(within(member))?);
    Ok(())
}

/// An error: readers differ in which of two members with the same name they take.
fn twice<E: serde::de::Error>(member: &str) -> E {
    E::custom(format_args!("`{member}` is given twice"))
}

/// Adds to an error the member it is in.
fn within<E: serde::de::Error>(member: &'static str) -> impl Fn(E) -> E {
    move |error| E::custom(format_args!("in `{member}`: {error}"))
}

/// The error text for an objective that is not a number of microseconds.
pub(super) fn not_micros(given: &str) -> String {
    let given = quoted(given);
    format!("expected a whole number of microseconds, at least 1, and not `{given}`")
}

/// The first 80 characters, for an error text.
fn quoted(given: &str) -> &str {
    let end = given.char_indices().nth(80).map_or(given.len(), |(at, _)| at);
    &given[..end]
}

/// A member's name, borrowed from the body unless it is escaped.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A positive number of microseconds.
struct Micros(NonZeroU64);

impl<'de> Deserialize<'de> for Micros {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = <&RawValue>::deserialize(deserializer)?.get();
        let micros = given.parse().map(Self);
        micros.map_err(|_| D::Error::custom(not_micros(given)))
    }
}

/// The user who asks: a string or an integer of any size. No selection policy looks at it yet.
struct Uid;

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = <&RawValue>::deserialize(deserializer)?.get();
        let digits = given.strip_prefix('-').unwrap_or(given);
        let is_integer = digits.bytes().all(|byte| byte.is_ascii_digit());
        match is_integer || given.starts_with('"') {
            true => Ok(Self),
            false => Err(D::Error::custom(format_args!(
                "expected a string or an integer, and not `{}`",
                quoted(given)
            ))),
        }
    }
}

struct BatchSeed<'a>(RequestSeed<'a>);

impl<'de> DeserializeSeed<'de> for BatchSeed<'_> {
    type Value = Vec<Input>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Input>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed<'_> {
    type Value = Vec<Input>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of inputs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Input>, A::Error> {
        let mut inputs = Vec::new();
        let RequestSeed {
            signature,
            max_rows,
            has_more,
            row,
        } = self.0;
        row.set(Some(0));
        while let Some(input) = seq.next_element_seed(InputSeed(signature))? {
            row.set(Some(inputs.len() + 1));
            if inputs.len() == max_rows {
                has_more.set(true);
                return Err(A::Error::custom("too many rows"));
            }
            inputs.push(input);
        }
        Ok(inputs)
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::signature::TensorSpec;
    use skysail_proto::value::InputType;

    use super::*;

    fn parse(body: &str) -> Result<PredictRequest, String> {
        parse_for(&InputType::Doubles.into(), body)
    }

    fn parse_for(signature: &Signature, body: &str) -> Result<PredictRequest, String> {
        let parsed = PredictRequest::parse(signature, body.as_bytes(), 3);
        parsed.map_err(|error| match error {
            Unread::Json(error) => error.to_string(),
            Unread::TooManyRows => "too many rows".into(),
        })
    }

    #[test]
    fn one_input_and_a_batch_are_told_apart() {
        let one = Inputs::One(Input::doubles(&[1.0, 2.0]));
        assert_eq!(parse(r#"{"input": [1, 2.0]}"#).unwrap().inputs, one);
        let many = Inputs::Many(vec![Input::doubles(&[1.0]), Input::doubles(&[2.0])]);
        assert_eq!(parse(r#"{"input_batch": [[1], [2]]}"#).unwrap().inputs, many);
        assert_eq!(
            parse(r#"{"input_batch": []}"#).unwrap().inputs,
            Inputs::Many(vec![])
        );
    }

    #[test]
    fn the_optional_members_are_read_and_unknown_ones_ignored() {
        let request = parse(
            r#"{"version": "2", "slo_micros": 500, "uid": "u", "more": {"x": [1]}, "\u0069nput": [1]}"#,
        )
        .unwrap();
        assert_eq!(
            (request.version.as_deref(), request.slo_micros),
            (Some("2"), NonZeroU64::new(500))
        );
        let request = parse(r#"{"input": [1], "version": null, "slo_micros": null, "uid": null}"#).unwrap();
        assert_eq!((request.version, request.slo_micros), (None, None));
        let long = "9".repeat(400);
        let integers = [
            "0",
            "-0",
            "-7",
            "18446744073709551615",
            "18446744073709551616",
            &long,
        ];
        for uid in integers.into_iter().chain([r#""""#, r#""\u00fc""#]) {
            parse(&format!(r#"{{"uid": {uid}, "input": [1]}}"#)).expect(uid);
        }
    }

    #[test]
    fn of_two_objectives_the_tighter_one_counts() {
        let micros = NonZeroU64::new;
        for (in_body, elsewhere, tighter) in [
            ("null", None, None),
            ("null", micros(5), micros(5)),
            ("7", None, micros(7)),
            ("7", micros(5), micros(5)),
            ("5", micros(7), micros(5)),
        ] {
            let mut request = parse(&format!(r#"{{"input": [1], "slo_micros": {in_body}}}"#)).unwrap();
            request.tighten(elsewhere);
            assert_eq!(request.slo_micros, tighter, "{in_body} and {elsewhere:?}");
        }
    }

    #[test]
    fn a_bad_body_is_refused_with_what_is_wrong_and_where() {
        let cases = [
            ("", "EOF"),
            ("[1]", "an object with `input`"),
            ("{}", "neither `input` nor `input_batch`"),
            (r#"{"input": [1}"#, "line 1 column 13"),
            (r#"{"input": []}"#, "in `input`: the input is empty"),
            (r#"{"input": [[1]]}"#, "in `input`: invalid type"),
            (
                r#"{"input_batch": [[1], []]}"#,
                "in `input_batch[1]`: the input is empty",
            ),
            (r#"{"input_batch": [1]}"#, "an array of numbers"),
            (r#"{"input_batch": {}}"#, "an array of inputs"),
            (r#"{"input_batch": [[1], [2], [3], [4]]}"#, "too many rows"),
            (
                r#"{"input_batch": [[1], [2], [3], []]}"#,
                "in `input_batch[3]`: the input is empty",
            ),
            (r#"{"input": [1], "version": 1}"#, "in `version`"),
            (
                r#"{"input": [1], "slo_micros": -5}"#,
                "in `slo_micros`: expected a whole number of microseconds, at least 1, and not `-5`",
            ),
            (r#"{"input": [1], "slo_micros": 0}"#, "at least 1, and not `0`"),
            (r#"{"input": [1], "slo_micros": "5"}"#, r#"and not `"5"`"#),
            (r#"{"input": [1], "slo_micros": 1.0}"#, "and not `1.0`"),
            (r#"{"input": [1], "slo_micros": 1e3}"#, "and not `1e3`"),
            (r#"{"input": [1], "slo_micros": [5}"#, "line 1 column"),
            (
                r#"{"input": [1], "uid": 1.5}"#,
                "in `uid`: expected a string or an integer, and not `1.5`",
            ),
            (r#"{"input": [1], "uid": 1e3}"#, "in `uid`"),
            (r#"{"input": [1], "uid": -}"#, "line 1 column"),
            (r#"{"input": [1], "uid": true}"#, "in `uid`"),
            (r#"{"input": [1], "uid": [1]}"#, "in `uid`"),
            (
                r#"{"input": [1], "input": [2]}"#,
                "`input` is given twice at line 1 column 22",
            ),
            (r#"{"\u0069nput": [1], "input": [1]}"#, "`input` is given twice"),
            (
                r#"{"input_batch": [], "input_batch": []}"#,
                "`input_batch` is given twice",
            ),
            (
                r#"{"input": [1], "input_batch": [[1]]}"#,
                "both `input` and `input_batch` are given: send one of them at line 1 column 28",
            ),
            (r#"{"input_batch": [], "input": [1]}"#, "both `input` and"),
            (r#"{"input": [1], "input_batch": null}"#, "both `input` and"),
            (
                r#"{"version": null, "input": [1], "version": "1"}"#,
                "`version` is given twice",
            ),
            (
                r#"{"slo_micros": 5, "slo_micros": 5, "input": [1]}"#,
                "`slo_micros` is given twice",
            ),
            (r#"{"uid": 1, "uid": "1", "input": [1]}"#, "`uid` is given twice"),
            (r#"{"input": [1]} {}"#, "trailing"),
        ];
        for (body, expected) in cases {
            let error = parse(body).expect_err(body);
            assert!(error.contains(expected), "{body}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_tensor_is_told_with_its_row_and_name() {
        let spec = |text: &str| text.parse::<TensorSpec>().unwrap();
        let signature = Signature::tensors([spec("x:FP32[2]"), spec("y:BOOL")], []).unwrap();
        for (body, expected) in [
            (r#"{"input": {"z": 1}}"#, "in `input`: tensor `z` is unknown"),
            (r#"{"input": {}}"#, "in `input`: tensor `x` is missing"),
            (
                r#"{"input": 3}"#,
                "in `input`: expected an object with x:FP32[2], y:BOOL[]",
            ),
            (
                r#"{"input_batch": [{}]}"#,
                "in `input_batch[0]`: tensor `x` is missing",
            ),
            (r#"{"input_batch": 3}"#, "in `input_batch`: invalid type"),
        ] {
            let error = parse_for(&signature, body).expect_err(body);
            assert!(error.starts_with(expected), "{body}: {error}");
        }
    }
}
