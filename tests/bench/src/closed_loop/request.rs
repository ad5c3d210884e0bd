//! The requests of the closed loop: the same bytes for every server and from every sender.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// The digits in which unique requests differ.
pub(crate) const DIGITS: usize = 12;

/// Numbers that a run begins with are smaller: what is left of the digits is for counting on.
const FIRST_NUMBERS: u64 = 500_000_000_000;

/// Each connection of a sender counts on from a number of its own, so far apart: more than it sends in a run.
const APART: u64 = 10_000_000;

/// Rows, columns and colours of an image.
pub(crate) const IMAGE: [usize; 3] = [224, 224, 3];

/// Whether requests ask something else each time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asks {
    /// No two are alike, nor like one of another run, so that no cache answers.
    Unique,
    /// All are alike, so that a cache answers all but the first.
    Same,
}

impl Asks {
    /// By how much the number grows from one request to the next.
    pub(crate) fn step(self) -> u64 {
        match self {
            Self::Unique => 1,
            Self::Same => 0,
        }
    }

    /// The number that a run begins with.
    pub(crate) fn first(self) -> u64 {
        match self {
            Self::Unique => fastrand::u64(..FIRST_NUMBERS),
            Self::Same => 0,
        }
    }

    /// How far apart the numbers of two connections are.
    pub(crate) fn apart(self) -> u64 {
        self.step() * APART
    }
}

/// A request, of which only a number in its input changes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Up to the number.
    pub(crate) head: String,
    /// After it.
    pub(crate) tail: Arc<str>,
}

impl Request {
    /// Asks an application, or the echo, about an iris.
    pub(crate) fn to(addr: SocketAddr, application: &str) -> Self {
        Self::of(addr, application, r#"{"input":[5.1,3.5,1.4,0."#, "]}")
    }

    /// Asks an application, or the echo, about an image of [`IMAGE`] floats.
    pub(crate) fn of_image(addr: SocketAddr, application: &str) -> Self {
        let mut pixels = String::new();
        let [rows, columns, colours] = IMAGE;
        for place in 1..rows * columns * colours {
            // The brackets that end and begin rows and pixels.
            let between = match (place % (columns * colours), place % colours) {
                (0, _) => "]],[[",
                (_, 0) => "],[",
                _ => ",",
            };
            let _ = write!(pixels, "{between}0.{:03}", (place * 7919) % 1000);
        }
        Self::of(
            addr,
            application,
            r#"{"input":{"image":[[[0."#,
            &(pixels + "]]]}}"),
        )
    }

    fn of(addr: SocketAddr, application: &str, begin: &str, tail: &str) -> Self {
        let length = begin.len() + DIGITS + tail.len();
        let head = format!(
            "POST /{application}/predict HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{begin}"
        );
        let tail = tail.into();
        Self { head, tail }
    }

    /// The bytes of the request with this number.
    pub(crate) fn bytes(&self, number: u64) -> Vec<u8> {
        let mut bytes = format!("{}{}{}", self.head, "0".repeat(DIGITS), self.tail).into_bytes();
        self.renumber(&mut bytes, number);
        bytes
    }

    /// Writes another number into the bytes of a request.
    pub(crate) fn renumber(&self, bytes: &mut [u8], mut number: u64) {
        let digits = &mut bytes[self.head.len()..][..DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_and_says_how_long_its_body_is() {
        let request = Request::to("127.0.0.1:80".parse().unwrap(), "iris");
        let text = String::from_utf8(request.bytes(7)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /iris/predict HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["input"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn an_image_has_its_rows_columns_and_colours() {
        let request = Request::of_image("127.0.0.1:80".parse().unwrap(), "image");
        let text = String::from_utf8(request.bytes(7)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let mut nested = &body["input"]["image"];
        for length in IMAGE {
            assert_eq!(nested.as_array().unwrap().len(), length);
            nested = &nested[length - 1];
        }
        assert!(nested.is_number());
    }

    #[test]
    fn requests_differ_in_the_digits_of_their_number_alone() {
        let request = Request::to("127.0.0.1:80".parse().unwrap(), "iris");
        for (number, digits) in [
            (0, "000000000000"),
            (42, "000000000042"),
            (501_234_567_890, "501234567890"),
        ] {
            let text = String::from_utf8(request.bytes(number)).unwrap();
            let expected = format!("{}{digits}{}", request.head, request.tail);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn only_unique_requests_count_on() {
        assert_eq!(
            (Asks::Same.first(), Asks::Same.step(), Asks::Same.apart()),
            (0, 0, 0)
        );
        assert_eq!((Asks::Unique.step(), Asks::Unique.apart()), (1, APART));
    }
}
