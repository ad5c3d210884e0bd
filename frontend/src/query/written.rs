//! Writes a reply as JSON, around outputs that already have their JSON.
//!
//! Nothing is parsed here. A large output is not copied either: the body is then made of pieces, and one piece is the
//! output's own buffer, which may be the cache's.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use skysail_proto::value::Output;

use super::{NumberedAnswer, Reply};
use crate::model::ROWS_AT_ONCE;

/// Outputs of this size or more are a piece of their own. To copy a smaller output costs less than another piece.
const PIECE_BYTES: usize = 16 * 1024;

/// Tensors of this size or more, as they travel, are written on a thread of their own: a megabyte of numbers takes some
/// ten milliseconds, which every other query would have to wait for.
const LARGE_TENSORS_BYTES: usize = 32 * 1024;

/// The bytes of a usual answer, without a long output.
const USUAL_BYTES: usize = 128;

/// The body of a reply. Other tasks run between chunks of many answers.
pub(super) async fn body(reply: &Reply) -> Body {
    match reply {
        Reply::One(answered) => {
            let mut written = Written::with_room_for(1);
            written.answer(answered).await;
            written.into_body()
        }
        Reply::Many(answers) => {
            let mut written = Written::with_room_for(answers.len());
            written.text("{\"batch_predictions\":[");
            for (index, answered) in answers.iter().enumerate() {
                if index > 0 {
                    written.text(",");
                    if index % ROWS_AT_ONCE == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                written.answer(answered).await;
            }
            written.text("]}");
            written.into_body()
        }
    }
}

/// The part of a body written so far.
struct Written {
    pieces: VecDeque<Bytes>,
    /// The bytes after the last piece.
    rest: Vec<u8>,
}

impl Written {
    fn with_room_for(answers: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            rest: Vec::with_capacity(answers.saturating_mul(USUAL_BYTES)),
        }
    }

    fn text(&mut self, text: &str) {
        self.rest.extend_from_slice(text.as_bytes());
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.rest, value).expect("numbers and texts are JSON; this is a bug");
    }

    async fn answer(&mut self, answered: &NumberedAnswer) {
        self.text("{\"query_id\":");
        self.value(&answered.id);
        self.text(",\"output\":");
        match is_large_tensors(&answered.answer.output) {
            false => self.output(&answered.answer.output),
            true => self.piece(written_elsewhere(answered.answer.output.clone()).await),
        }
        match &answered.answer.failure {
            None => self.text(",\"default\":false"),
            Some(failure) => {
                self.text(",\"default\":true,\"default_explanation\":");
                self.value(&failure.explanation());
                self.text(",\"default_reason\":");
                self.value(failure.reason.word());
            }
        }
        self.text("}");
    }

    fn output(&mut self, output: &Output) {
        match output.as_json().filter(|json| json.len() >= PIECE_BYTES) {
            Some(json) => self.piece(json.clone()),
            None => output.write_json(&mut self.rest),
        }
    }

    fn piece(&mut self, piece: Bytes) {
        let before = std::mem::take(&mut self.rest);
        self.pieces.push_back(before.into());
        self.pieces.push_back(piece);
    }

    fn into_body(mut self) -> Body {
        if self.pieces.is_empty() {
            return self.rest.into();
        }
        self.pieces.push_back(self.rest.into());
        Body::new(Pieces(self.pieces))
    }
}

fn is_large_tensors(output: &Output) -> bool {
    output.as_tensors().is_some() && output.size() >= LARGE_TENSORS_BYTES
}

async fn written_elsewhere(output: Output) -> Bytes {
    let write = move || {
        let mut json = Vec::new();
        output.write_json(&mut json);
        json.into()
    };
    tokio::task::spawn_blocking(write)
        .await
        .expect("writing does not panic; if it did, so do we")
}

/// A body in pieces whose whole length is known.
struct Pieces(VecDeque<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use skysail_core::query::{DefaultReason, Failure};
    use skysail_core::selection::Answer;
    use skysail_proto::datatype::Datatype;
    use skysail_proto::signature::TensorSpec;
    use skysail_proto::tensor::Tensor;

    use super::*;

    fn answered(id: u64, output: &str, failure: Option<Failure>) -> NumberedAnswer {
        let output = Output::new(output);
        let answer = Answer { output, failure };
        NumberedAnswer { id, answer }
    }

    async fn text(reply: &Reply) -> String {
        let body = body(reply).await;
        let said = body.size_hint().exact();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(said, Some(bytes.len() as u64));
        String::from_utf8(bytes.into()).unwrap()
    }

    #[tokio::test]
    async fn an_answer_says_what_it_is_and_a_default_says_why() {
        let one = Reply::One(answered(7, "virginica", None));
        assert_eq!(
            text(&one).await,
            r#"{"query_id":7,"output":"virginica","default":false}"#
        );
        let failure = Failure::model_error("\"no\"");
        let one = Reply::One(answered(8, "-1.0", Some(failure)));
        assert_eq!(
            text(&one).await,
            r#"{"query_id":8,"output":-1.0,"default":true,"default_explanation":"The model failed on the query: \"no\"","default_reason":"model_error"}"#
        );
    }

    #[tokio::test]
    async fn a_batch_is_an_array_also_of_one_or_none() {
        let one = r#"{"query_id":1,"output":0,"default":false}"#;
        for count in [0, 1, 3] {
            let many = (0..count).map(|_| answered(1, "0", None)).collect();
            let expected = format!(r#"{{"batch_predictions":[{}]}}"#, vec![one; count].join(","));
            assert_eq!(text(&Reply::Many(many)).await, expected);
        }
    }

    #[tokio::test]
    async fn tensors_are_written_by_their_names_however_large_they_are() {
        for length in [2_u64, 20_000] {
            let spec: TensorSpec = format!("p:INT64[{length}]").parse().unwrap();
            let data: Vec<u8> = (0..length).flat_map(u64::to_le_bytes).collect();
            let tensor = Tensor::new(Datatype::Int64, [length].as_slice(), data).unwrap();
            let output = Output::tensors([spec].into(), [tensor]);
            let answer = Answer {
                output,
                failure: None,
            };
            let answered = NumberedAnswer { id: 1, answer };
            let read: serde_json::Value = serde_json::from_str(&text(&Reply::One(answered)).await).unwrap();
            let numbers: Vec<_> = (0..length).collect();
            assert_eq!(read["output"], serde_json::json!({ "p": numbers }));
            assert_eq!(read["default"], false);
        }
    }

    #[tokio::test]
    async fn large_outputs_are_shared_and_not_copied() {
        let json = format!("[{}1]", "1,".repeat(PIECE_BYTES));
        let plain = "line\n".repeat(PIECE_BYTES);
        let late = Failure::from(DefaultReason::LateReply);
        let many = vec![
            answered(1, &json, None),
            answered(2, "small", None),
            answered(3, &plain, Some(late)),
        ];
        let shared = many[0].answer.output.as_json().unwrap().as_ptr();
        let reply = Reply::Many(many);
        let read: serde_json::Value = serde_json::from_str(&text(&reply).await).unwrap();
        let answers = &read["batch_predictions"];
        assert_eq!(
            answers[0]["output"].as_array().map(Vec::len),
            Some(PIECE_BYTES + 1)
        );
        assert_eq!(answers[1]["output"], "small");
        assert_eq!(
            (&answers[2]["output"], &answers[2]["default_reason"]),
            (&plain.into(), &"late_reply".into())
        );

        let mut body = body(&reply).await;
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(pieces.len(), 5);
        assert_eq!(pieces[1].as_ptr(), shared);
    }
}
