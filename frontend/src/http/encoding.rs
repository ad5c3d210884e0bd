//! Bodies that were compressed, and how they are inflated.
//!
//! A few kilobytes may inflate to gigabytes, and megabytes to nothing. So no more is inflated than a body may have,
//! what yields nothing is given up, and on the thread that serves requests only so much is done as a small body
//! needs.

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, TRANSFER_ENCODING};
use bytes::{Buf, Bytes};
use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::BodyError;

/// The encodings that are taken, for an answer that refuses another.
pub(crate) const TAKEN: &str = "gzip, deflate, identity";

/// The largest body that is begun on the thread that serves requests, as it came.
const FIRST_READ: usize = 1024;

/// How much it may inflate to there.
const FIRST_BYTES: usize = 64 * 1024;

/// How much the buffer grows at least.
const STEP_BYTES: usize = 16 * 1024;

/// How much is read before it is looked what has become of it.
const STEP_READ: usize = 16 * 1024;

/// What inflates to less than this part of itself is no compressed body, but work for nothing.
const LEAST_YIELD: usize = 16;

/// The most streams of gzip one after another. Programs that compress in blocks make one for every 64 KiB.
const MOST_MEMBERS: usize = 1000;

/// How a gzip stream begins.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// What the header of a gzip stream has besides its ten bytes.
const CHECKSUM: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const UNKNOWN: u8 = 0xe0;

/// How a body was encoded. Most were not at all.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Encodings(Option<Encoding>);

/// One way to encode a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Encoding {
    Gzip,
    Deflate,
}

impl Encodings {
    /// What these headers say of the body.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, BodyError> {
        check_transfer(headers)?;
        let mut found = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let value = String::from_utf8_lossy(value.as_bytes());
            let named = value.split(',').map(str::trim);
            for name in named.filter(|name| !name.is_empty()) {
                let encoding = match name.to_ascii_lowercase().as_str() {
                    "gzip" | "x-gzip" => Encoding::Gzip,
                    "deflate" => Encoding::Deflate,
                    "identity" => continue,
                    _ => {
                        let name: String = name.chars().take(80).collect();
                        return Err(BodyError::Encoding(format!(
                            "the body's encoding `{name}` is not taken; use one of {TAKEN}"
                        )));
                    }
                };
                if found.replace(encoding).is_some() {
                    return Err(BodyError::Encoding(format!(
                        "the body was encoded more than once; use one of {TAKEN}"
                    )));
                }
            }
        }
        Ok(Self(found))
    }

    /// Begins to inflate a body; `None` if it is as it was meant.
    pub(super) fn inflate(self, body: Bytes, limit: usize) -> Option<Inflating> {
        let encoding = self.0?;
        Some(Inflating {
            encoding,
            decompress: Decompress::new(encoding == Encoding::Deflate && has_zlib_header(&body)),
            size: body.len(),
            rest: body,
            stream: None,
            streams: 0,
            inflated: Vec::new(),
            limit,
        })
    }
}

/// Refuses a body that was compressed for its way, which hyper does not undo.
fn check_transfer(headers: &HeaderMap) -> Result<(), BodyError> {
    for value in headers.get_all(TRANSFER_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let mut named = value.split(',').map(str::trim);
        let is_plain = |name: &&str| name.is_empty() || name.eq_ignore_ascii_case("chunked");
        if let Some(name) = named.find(|name| !is_plain(name)) {
            let name: String = name.chars().take(80).collect();
            return Err(BodyError::Undecodable(format!(
                "`Transfer-Encoding: {name}` is not taken, only chunked is: say `Content-Encoding` of a compressed body"
            )));
        }
    }
    Ok(())
}

/// No byte of deflate becomes more than so many (zlib's technical details: 1032:1).
const MOST_RATIO: usize = 1032;

/// A body that is being inflated.
pub(super) struct Inflating {
    encoding: Encoding,
    decompress: Decompress,
    /// Of the body as it came.
    size: usize,
    /// What was not read yet.
    rest: Bytes,
    /// The stream that has begun and not ended.
    stream: Option<Crc>,
    /// Those that have begun.
    streams: usize,
    inflated: Vec<u8>,
    limit: usize,
}

/// How far a body is inflated.
pub(super) enum Inflated {
    /// To its end.
    Whole(Bytes),
    /// There is more.
    Begun(Box<Inflating>),
}

impl Inflating {
    /// Inflates a small body, as most are, and begins a middling one.
    pub(super) fn begin(mut self) -> Result<Inflated, BodyError> {
        let is_whole = self.size <= FIRST_READ && self.read_up_to(FIRST_BYTES.min(self.limit + 1), 1)?;
        match is_whole || self.inflated.len() > self.limit {
            true => self.whole().map(Inflated::Whole),
            false => Ok(Inflated::Begun(Box::new(self))),
        }
    }

    /// Inflates the rest. Takes a while.
    pub(super) fn finish(mut self) -> Result<Bytes, BodyError> {
        // All the room there may be, at once: pages that are never written cost nothing, while a buffer that
        // grows leaves smaller ones behind, in the allocator's hands, on each thread that inflates.
        let most = self.size.saturating_mul(MOST_RATIO).min(self.limit + 1);
        self.inflated
            .reserve_exact(most.saturating_sub(self.inflated.len()));
        let is_whole = self.read_up_to(self.limit + 1, MOST_MEMBERS)?;
        if !is_whole && self.inflated.len() <= self.limit {
            return Err(self.broken(format_args!("it has more than {MOST_MEMBERS} streams")));
        }
        self.whole()
    }

    fn whole(self) -> Result<Bytes, BodyError> {
        match self.inflated.len() > self.limit {
            true => Err(BodyError::InflatedTooLarge(self.limit)),
            false => Ok(self.inflated.into()),
        }
    }

    /// Inflates until so many bytes are there, or so many streams are used up; says whether that was all.
    fn read_up_to(&mut self, most: usize, most_streams: usize) -> Result<bool, BodyError> {
        loop {
            if self.stream.is_none() {
                if self.is_at_end()? {
                    return Ok(true);
                }
                if self.streams == most_streams {
                    return Ok(false);
                }
                self.begin_stream()?;
            }
            if self.inflated.len() >= most {
                return Ok(false);
            }
            self.step(most)?;
        }
    }

    /// Whether there is no further stream.
    fn is_at_end(&self) -> Result<bool, BodyError> {
        if self.streams == 0 {
            return Ok(false);
        }
        // What archives on tapes are filled up with.
        let is_padding = self.encoding == Encoding::Gzip && self.rest.iter().all(|byte| *byte == 0);
        if is_padding || self.rest.is_empty() {
            return Ok(true);
        }
        match self.encoding == Encoding::Gzip && self.rest.starts_with(GZIP_MAGIC) {
            true => Ok(false),
            false => Err(self.broken("something follows the end of the stream")),
        }
    }

    fn begin_stream(&mut self) -> Result<(), BodyError> {
        if self.encoding == Encoding::Gzip {
            let length = gzip_header(&self.rest).map_err(|problem| match problem {
                GzipProblem::CutOff => self.cut_off(),
                GzipProblem::NoHeader => self.broken("invalid gzip header"),
            })?;
            self.rest.advance(length);
        }
        if self.streams > 0 {
            self.decompress.reset(false);
        }
        self.streams += 1;
        self.stream = Some(Crc::new());
        Ok(())
    }

    /// Inflates a little of the stream.
    fn step(&mut self, most: usize) -> Result<(), BodyError> {
        let begin = self.make_room(most);
        let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
        let rest = &self.rest[..self.rest.len().min(STEP_READ)];
        let room = &mut self.inflated[begin..];
        let status = self.decompress.decompress(rest, room, FlushDecompress::None);
        let status = status.map_err(|error| self.broken(error))?;
        let read = in_memory(self.decompress.total_in() - read);
        let written = in_memory(self.decompress.total_out() - written);
        self.rest.advance(read);
        self.inflated.truncate(begin + written);
        if let (Some(crc), Encoding::Gzip) = (&mut self.stream, self.encoding) {
            crc.update(&self.inflated[begin..]);
        }
        if status == Status::StreamEnd {
            return self.end_stream();
        }
        if read == 0 && written == 0 {
            return Err(self.cut_off());
        }
        let yields_nothing = self.size - self.rest.len() > STEP_READ + LEAST_YIELD * self.inflated.len();
        match yields_nothing {
            true => Err(self.broken("it inflates to almost nothing")),
            false => Ok(()),
        }
    }

    /// Appends room for more, of `most` bytes in all; says where it begins.
    fn make_room(&mut self, most: usize) -> usize {
        let begin = self.inflated.len();
        if self.inflated.capacity() == begin {
            // Doubled, but to no more than there may be.
            self.inflated
                .reserve_exact(begin.max(STEP_BYTES).min(most - begin));
        }
        let end = self.inflated.capacity().min(most).min(begin + STEP_BYTES);
        self.inflated.resize(end, 0);
        begin
    }

    fn end_stream(&mut self) -> Result<(), BodyError> {
        let (Some(crc), Encoding::Gzip) = (self.stream.take(), self.encoding) else {
            return Ok(());
        };
        if self.rest.len() < 8 {
            return Err(self.cut_off());
        }
        let sums = (self.rest.get_u32_le(), self.rest.get_u32_le());
        match sums == (crc.sum(), crc.amount()) {
            true => Ok(()),
            false => Err(self.broken("the checksum does not match")),
        }
    }

    fn cut_off(&self) -> BodyError {
        let name = self.encoding.name();
        BodyError::Undecodable(format!("it ends in the middle of the {name} stream"))
    }

    fn broken(&self, why: impl std::fmt::Display) -> BodyError {
        let name = self.encoding.name();
        BodyError::Undecodable(format!("it is not what `Content-Encoding: {name}` says: {why}"))
    }
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// What was read or written in memory fits it.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("no more is read than there is; this is a bug")
}

/// Whether a body of the encoding `deflate` has the header of zlib, as it should; some clients leave it out.
fn has_zlib_header(body: &[u8]) -> bool {
    match body {
        [method, flags, ..] => method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31),
        _ => false,
    }
}

/// Why bytes do not begin with the header of a gzip stream.
enum GzipProblem {
    CutOff,
    NoHeader,
}

/// The length of the header of the gzip stream that begins here.
fn gzip_header(bytes: &[u8]) -> Result<usize, GzipProblem> {
    let Some(magic) = bytes.get(..2) else {
        return Err(GzipProblem::CutOff);
    };
    let Some(&[_, _, method, flags, ..]) = bytes.get(..10) else {
        return Err(match magic == GZIP_MAGIC {
            true => GzipProblem::CutOff,
            false => GzipProblem::NoHeader,
        });
    };
    if magic != GZIP_MAGIC || method != 8 || flags & UNKNOWN != 0 {
        return Err(GzipProblem::NoHeader);
    }
    let mut at = 10;
    if flags & EXTRA != 0 {
        let Some(&[low, high]) = bytes.get(at..at + 2) else {
            return Err(GzipProblem::CutOff);
        };
        at += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let rest = bytes.get(at..).ok_or(GzipProblem::CutOff)?;
            let end = rest.iter().position(|byte| *byte == 0);
            at += end.ok_or(GzipProblem::CutOff)? + 1;
        }
    }
    if flags & CHECKSUM != 0 {
        at += 2;
    }
    match at <= bytes.len() {
        true => Ok(at),
        false => Err(GzipProblem::CutOff),
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

    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use flate2::{Compression, GzBuilder};
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

    /// Takes the encoding off.
    fn inflate(named: &str, body: impl Into<Bytes>) -> Result<Bytes, BodyError> {
        match begin(named, body)? {
            Inflated::Whole(body) => Ok(body),
            Inflated::Begun(inflating) => inflating.finish(),
        }
    }

    /// What is done on the thread that serves requests.
    fn begin(named: &str, body: impl Into<Bytes>) -> Result<Inflated, BodyError> {
        let encodings = encodings(&[named]).unwrap();
        encodings.inflate(body.into(), LIMIT).unwrap().begin()
    }

    #[test]
    fn the_encoding_is_read_from_all_headers_and_in_any_case() {
        use Encoding::{Deflate, Gzip};
        for (values, expected) in [
            (&[][..], None),
            (&["identity"], None),
            (&[""], None),
            (&["GZip"], Some(Gzip)),
            (&["x-gzip"], Some(Gzip)),
            (&["identity , deflate,"], Some(Deflate)),
            (&["identity", "identity, gzip"], Some(Gzip)),
        ] {
            assert_eq!(encodings(values), Ok(Encodings(expected)), "{values:?}");
        }
    }

    #[test]
    fn a_body_that_was_compressed_for_its_way_is_refused() {
        for (value, taken) in [
            ("chunked", true),
            ("Chunked", true),
            ("gzip, chunked", false),
            ("gzip", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRANSFER_ENCODING, value.parse().unwrap());
            match Encodings::of(&headers) {
                Ok(_) => assert!(taken, "{value}"),
                Err(error) => assert!(!taken && error.to_string().contains("`Transfer-Encoding: gzip`")),
            }
        }
    }

    #[test]
    fn other_encodings_are_refused_with_those_that_are_taken() {
        for value in ["br", "zstd", "gzip, compress", "*", "gzip;q=1", "utf-8"] {
            let error = encodings(&[value]).unwrap_err();
            assert!(error.contains(TAKEN), "{error}");
        }
        for several in [&["gzip, gzip"][..], &["deflate, identity", "gzip"]] {
            let error = encodings(several).unwrap_err();
            assert!(error.contains("more than once"), "{error}");
        }
    }

    #[test]
    fn streams_of_gzip_one_after_another_are_one_body_up_to_a_number() {
        let of_two = [gzip(b"some "), gzip(b"body")].concat();
        assert_eq!(inflate("gzip", of_two.clone()).unwrap(), &b"some body"[..]);
        let padded = [&of_two[..], &[0; 700]].concat();
        assert_eq!(inflate("gzip", padded).unwrap(), &b"some body"[..]);
        let most = gzip(b"a").repeat(MOST_MEMBERS);
        assert_eq!(inflate("gzip", most.clone()).unwrap(), b"a".repeat(MOST_MEMBERS));
        let error = inflate("gzip", [most, gzip(b"")].concat()).unwrap_err();
        assert!(error.to_string().contains("more than 1000 streams"), "{error}");
    }

    #[test]
    fn what_a_gzip_header_may_have_is_passed_over() {
        let whole = GzBuilder::new()
            .filename("a name")
            .comment("a comment")
            .extra(vec![0; 300])
            .write(Vec::new(), Compression::fast());
        let mut whole = whole;
        whole.write_all(b"body").unwrap();
        let whole = whole.finish().unwrap();
        assert_eq!(inflate("gzip", whole.clone()).unwrap(), &b"body"[..]);
        for length in 0..whole.len() {
            let error = inflate("gzip", whole[..length].to_vec()).unwrap_err();
            assert!(error.to_string().contains("in the middle"), "{length}: {error}");
        }
    }

    #[test]
    fn what_inflates_to_nothing_is_left_to_another_thread_and_given_up() {
        let stored = [0, 0, 0, 0xff, 0xff];
        // Blocks of fixed codes, each of nothing but its end.
        let fixed = [0b0000_0010, 0b0000_1000, 0b0010_0000, 0b1000_0000, 0];
        for (named, piece) in [
            ("gzip", gzip(b"")),
            ("deflate", stored.into()),
            ("deflate", fixed.into()),
        ] {
            let small = piece.repeat(FIRST_READ / piece.len() + 1);
            let Ok(Inflated::Begun(begun)) = begin(named, small.clone()) else {
                panic!("{named}: it was not left to another thread");
            };
            assert_eq!(begun.rest.len(), small.len(), "{named}: something was read");
            let large = piece.repeat(1 << 20);
            let Ok(Inflated::Begun(begun)) = begin(named, large) else {
                panic!("{named}: it was not left to another thread");
            };
            let error = begun.finish().unwrap_err().to_string();
            assert!(
                error.contains("almost nothing") || error.contains("streams"),
                "{error}"
            );
        }
        // A second stream is not begun on the thread that serves requests, however small it is.
        assert!(matches!(
            begin("gzip", gzip(b"").repeat(2)),
            Ok(Inflated::Begun(_))
        ));
        assert!(matches!(begin("gzip", gzip(b"body")), Ok(Inflated::Whole(_))));
    }

    #[test]
    fn no_more_is_inflated_than_a_body_may_have() {
        for (size, fits) in [(LIMIT, true), (LIMIT + 1, false), (100 * LIMIT, false)] {
            let body = vec![b' '; size];
            for (named, body) in [
                ("gzip", gzip(&body)),
                ("deflate", zlib(&body)),
                ("deflate", raw(&body)),
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
                assert!(
                    matches!(error, BodyError::Undecodable(_)),
                    "{named} {length}: {error}"
                );
            }
            for more in [&b"m"[..], b"more", b"\0\0more", b"\x1f", &[b'm'; 100]] {
                let error = inflate(named, [&whole[..], more].concat()).unwrap_err();
                let words = "something follows the end of the stream";
                assert!(error.to_string().contains(words), "{named}: {error}");
            }
        }
        let mut wrong = gzip(b"body");
        *wrong.last_mut().unwrap() ^= 1;
        let error = inflate("gzip", wrong).unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
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
