//! Bodies that were compressed, and how they are inflated.
//!
//! A few kilobytes may inflate to gigabytes, so no more is inflated than a body may have, and only the first bit of
//! it on the thread that serves requests.

use std::io::{self, Read};

use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

use super::BodyError;

/// The encodings that are taken, for an answer that refuses another.
pub const TAKEN: &str = "gzip, deflate, identity";

/// The most encodings of one body: nobody needs two.
const MOST: usize = 4;

/// How much is inflated at once before it is known how much there is; small bodies are there as a whole.
const FIRST_BYTES: usize = 64 * 1024;

/// How much the buffer grows at least.
const STEP_BYTES: usize = 16 * 1024;

/// How a body was encoded, in the order in which that was done. Most were not at all.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Encodings(Vec<Encoding>);

/// One way to encode a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Encoding {
    Gzip,
    Deflate,
}

impl Encodings {
    /// What these headers say of the body.
    pub fn of(headers: &HeaderMap) -> Result<Self, BodyError> {
        let mut encodings = Vec::new();
        for value in headers.get_all(CONTENT_ENCODING) {
            let value = String::from_utf8_lossy(value.as_bytes());
            let named = value.split(',').map(str::trim);
            for name in named.filter(|name| !name.is_empty()) {
                match name.to_ascii_lowercase().as_str() {
                    "gzip" | "x-gzip" => encodings.push(Encoding::Gzip),
                    "deflate" => encodings.push(Encoding::Deflate),
                    "identity" => {}
                    _ => {
                        let name: String = name.chars().take(80).collect();
                        return Err(BodyError::Encoding(format!(
                            "the body's encoding `{name}` is not taken; use one of {TAKEN}"
                        )));
                    }
                }
            }
        }
        if encodings.len() > MOST {
            return Err(BodyError::Encoding(format!(
                "the body was encoded {} times, at most {MOST} are taken",
                encodings.len()
            )));
        }
        Ok(Self(encodings))
    }

    /// Begins to take the last encoding off a body; `None` if none is left.
    pub(super) fn inflate(&mut self, body: &Bytes, limit: usize) -> Option<Inflating> {
        let encoding = self.0.pop()?;
        let decoder: Box<dyn Read + Send> = match encoding {
            Encoding::Gzip => Box::new(MultiGzDecoder::new(body.clone().reader())),
            Encoding::Deflate => Box::new(Deflated::new(body.clone())),
        };
        Some(Inflating {
            encoding,
            decoder,
            inflated: Vec::new(),
            limit,
        })
    }
}

/// A body that is being inflated.
pub(super) struct Inflating {
    encoding: Encoding,
    decoder: Box<dyn Read + Send>,
    inflated: Vec<u8>,
    limit: usize,
}

/// How far a body is inflated.
pub(super) enum Inflated {
    /// To its end.
    Whole(Bytes),
    /// There is more.
    Begun(Inflating),
}

impl Inflating {
    /// Inflates the beginning, which for most bodies is all.
    pub(super) fn begin(mut self) -> Result<Inflated, BodyError> {
        let is_whole = self.read_up_to(FIRST_BYTES.min(self.limit + 1))?;
        match is_whole || self.inflated.len() > self.limit {
            true => self.whole().map(Inflated::Whole),
            false => Ok(Inflated::Begun(self)),
        }
    }

    /// Inflates the rest. Takes a while.
    pub(super) fn finish(mut self) -> Result<Bytes, BodyError> {
        self.read_up_to(self.limit + 1)?;
        self.whole()
    }

    fn whole(self) -> Result<Bytes, BodyError> {
        match self.inflated.len() > self.limit {
            true => Err(BodyError::InflatedTooLarge(self.limit)),
            false => Ok(self.inflated.into()),
        }
    }

    /// Inflates until so many bytes are there; says whether that was all of them.
    fn read_up_to(&mut self, most: usize) -> Result<bool, BodyError> {
        loop {
            let read = self.inflated.len();
            if read >= most {
                return Ok(false);
            }
            if self.inflated.capacity() == read {
                // Doubled, but to no more than there may be.
                let more = read.max(STEP_BYTES).min(most - read);
                self.inflated.reserve_exact(more);
            }
            let room = self.inflated.capacity().min(most).min(read + STEP_BYTES);
            self.inflated.resize(room, 0);
            let come = self.decoder.read(&mut self.inflated[read..]);
            let come = come.map_err(|error| BodyError::Broken(self.encoding.complaint(&error)))?;
            self.inflated.truncate(read + come);
            if come == 0 {
                return Ok(true);
            }
        }
    }
}

impl Encoding {
    fn complaint(self, error: &io::Error) -> String {
        let name = match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        };
        match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("it ends in the middle of the {name} stream"),
            _ => format!("it is not what `Content-Encoding: {name}` says: {error}"),
        }
    }
}

/// A body of the encoding `deflate`: with a header of zlib, as it should be, or without, as some clients send it.
struct Deflated {
    body: Bytes,
    decompress: Decompress,
    is_whole: bool,
}

impl Deflated {
    fn new(body: Bytes) -> Self {
        let has_header = match body.get(..2) {
            Some(&[method, flags]) => {
                method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
            }
            _ => false,
        };
        Self {
            body,
            decompress: Decompress::new(has_header),
            is_whole: false,
        }
    }
}

impl Read for Deflated {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while !self.is_whole {
            let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
            let rest = &self.body[usize::try_from(read).unwrap_or(self.body.len())..];
            let (rest_len, room_len) = (rest.len(), room.len());
            let status = self.decompress.decompress(rest, room, FlushDecompress::None);
            let status = status.map_err(io::Error::other)?;
            let read = self.decompress.total_in() - read;
            let written = self.decompress.total_out() - written;
            self.is_whole = status == Status::StreamEnd;
            if self.is_whole && read < rest_len as u64 {
                return Err(io::Error::other("something follows the end of the stream"));
            }
            if written > 0 || room_len == 0 {
                return Ok(usize::try_from(written).unwrap_or(room_len));
            }
            if !self.is_whole && read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// Takes the byte order mark off a body of UTF-8, where some editors and languages leave one.
pub(super) fn without_mark(mut body: Bytes) -> Bytes {
    if body.starts_with(b"\xef\xbb\xbf") {
        body.advance(3);
    }
    body
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1_000_000;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn encodings(values: &[&str]) -> Result<Encodings, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, value.parse().unwrap());
        }
        Encodings::of(&headers).map_err(|error| error.to_string())
    }

    /// Takes all encodings off.
    fn inflate(named: &str, body: impl Into<Bytes>) -> Result<Bytes, BodyError> {
        let (mut encodings, mut body) = (encodings(&[named]).unwrap(), body.into());
        while let Some(inflating) = encodings.inflate(&body, LIMIT) {
            body = match inflating.begin()? {
                Inflated::Whole(body) => body,
                Inflated::Begun(inflating) => inflating.finish()?,
            };
        }
        Ok(body)
    }

    #[test]
    fn encodings_are_read_from_all_headers_in_order_and_in_any_case() {
        use Encoding::{Deflate, Gzip};
        for (values, expected) in [
            (&[][..], vec![]),
            (&["identity"], vec![]),
            (&[""], vec![]),
            (&["GZip"], vec![Gzip]),
            (&["x-gzip"], vec![Gzip]),
            (&["deflate , gzip,"], vec![Deflate, Gzip]),
            (&["deflate", "identity, gzip"], vec![Deflate, Gzip]),
        ] {
            assert_eq!(encodings(values), Ok(Encodings(expected)), "{values:?}");
        }
    }

    #[test]
    fn other_encodings_are_refused_with_those_that_are_taken() {
        for value in ["br", "zstd", "gzip, compress", "*", "gzip;q=1", "utf-8"] {
            let error = encodings(&[value]).unwrap_err();
            assert!(error.contains(TAKEN), "{error}");
        }
        let error = encodings(&["gzip, gzip, gzip", "gzip, gzip"]).unwrap_err();
        assert!(error.contains("5 times"), "{error}");
    }

    #[test]
    fn what_was_encoded_several_times_is_decoded_in_the_reverse_order() {
        let body = b"some body";
        assert_eq!(inflate("deflate, gzip", gzip(&zlib(body))).unwrap(), &body[..]);
        assert_eq!(inflate("gzip, deflate", zlib(&gzip(body))).unwrap(), &body[..]);
        let of_two = [gzip(b"some "), gzip(b"body")].concat();
        assert_eq!(inflate("gzip", of_two).unwrap(), &body[..]);
    }

    #[test]
    fn no_more_is_inflated_than_a_body_may_have() {
        for (size, fits) in [(LIMIT, true), (LIMIT + 1, false), (100 * LIMIT, false)] {
            let body = vec![b' '; size];
            let twice = gzip(&gzip(&body));
            for (named, body) in [
                ("gzip", gzip(&body)),
                ("deflate", zlib(&body)),
                ("deflate", raw(&body)),
                ("gzip, gzip", twice),
            ] {
                match inflate(named, body) {
                    Ok(inflated) => assert!(fits && inflated.len() == size, "{named} {size}"),
                    Err(error) => {
                        assert!(
                            !fits && matches!(error, BodyError::InflatedTooLarge(LIMIT)),
                            "{error}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_or_followed_by_something_is_refused() {
        let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for (named, whole) in [
            ("gzip", gzip(&body)),
            ("deflate", zlib(&body)),
            ("deflate", raw(&body)),
        ] {
            assert_eq!(inflate(named, whole.clone()).unwrap(), body);
            for length in [0, 1, 5, whole.len() / 2, whole.len() - 1] {
                let error = inflate(named, whole[..length].to_vec()).unwrap_err();
                assert!(matches!(error, BodyError::Broken(_)), "{named} {length}: {error}");
            }
            let followed = [&whole[..], b"more"].concat();
            let error = inflate(named, followed).unwrap_err();
            assert!(matches!(error, BodyError::Broken(_)), "{named}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_inflated_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for named in ["gzip", "deflate"] {
                let _ = inflate(named, body.clone());
            }
            for (named, encoded) in [("gzip", gzip(&body)), ("deflate", zlib(&body))] {
                prop_assert_eq!(&inflate(named, encoded).unwrap(), &body);
            }
        }
    }
}
