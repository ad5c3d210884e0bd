//! What a body that is no JSON may be instead: advice for an error.

/// How far a form's first name may reach, in bytes.
const NAME_BYTES: usize = 200;

/// What a body seems to be, and what to do about it; to complete an error that says where it is no JSON.
pub(crate) fn advice(body: &[u8]) -> Option<&'static str> {
    if body.starts_with(&[0x1f, 0x8b]) {
        return Some("the body is compressed: say so with `Content-Encoding: gzip`");
    }
    if is_zlib(body) {
        return Some("the body is compressed: say so with `Content-Encoding: deflate`");
    }
    if is_wide(body) {
        return Some("the body is UTF-16 or UTF-32: send it as UTF-8");
    }
    let is_form = is_form(body) || is_multipart(body) || is_percent_encoded(body);
    is_form.then_some("the body is a form: send JSON, such as `{\"input\": …}`, as it is")
}

/// What compressors make with the largest window, and no text.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..]) && !body[..body.len().min(NAME_BYTES)].is_ascii()
}

/// A mark of UTF-16 or UTF-32, or zero bytes beside the first character, which JSON has from ASCII.
fn is_wide(body: &[u8]) -> bool {
    match body {
        [0xfe, 0xff, ..] | [0xff, 0xfe, ..] | [0, 0, 0xfe, 0xff, ..] => true,
        [0, 0, 0, character, ..] => *character != 0,
        [first, second, ..] => (*first == 0) != (*second == 0),
        _ => false,
    }
}

/// `input=…`
fn is_form(body: &[u8]) -> bool {
    let beginning = &body[..body.len().min(NAME_BYTES)];
    let Some(name) = beginning.split(|byte| *byte == b'=').next() else {
        return false;
    };
    let is_of_names = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.+%[]".contains(byte);
    (1..beginning.len()).contains(&name.len()) && name[0] != b'[' && name.iter().all(is_of_names)
}

/// `--boundary` and a line of its own.
fn is_multipart(body: &[u8]) -> bool {
    body.starts_with(b"--")
        && body
            .windows(19)
            .take(NAME_BYTES)
            .any(|words| words.eq_ignore_ascii_case(b"content-disposition"))
}

/// `%7B%22input…`
fn is_percent_encoded(body: &[u8]) -> bool {
    let begins = |code: &[u8]| {
        body.get(..3)
            .is_some_and(|begin| begin.eq_ignore_ascii_case(code))
    };
    begins(b"%7b") || begins(b"%5b")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_often_sent_instead_of_json_is_named() {
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let utf16_be: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (body, expected) in [
            (&b"input=[1,2]"[..], "form"),
            (b"uid=1&input=%5B1%5D", "form"),
            (b"input%5B%5D=1", "form"),
            (b"%7B%22input%22%3A%5B1%5D%7D", "form"),
            (b"%7b", "form"),
            (
                b"--------------------------7\r\nContent-Disposition: form-data; name=\"input\"\r\n\r\n[1]",
                "form",
            ),
            (b"\x1f\x8b\x08\0", "Content-Encoding: gzip"),
            (b"\x78\x9c\xab\xae\x05", "Content-Encoding: deflate"),
            (b"\x78\x5e\xab\xae\x05", "Content-Encoding: deflate"),
            (b"\0\0\0{\0\0\0}", "UTF-8"),
            (b"{\0\0\0}\0\0\0", "UTF-8"),
            (b"\xff\xfe{\0}\0", "UTF-8"),
            (b"\xfe\xff\0{\0}", "UTF-8"),
            (b"\xff\xfe\0\0{\0\0\0", "UTF-8"),
            (b"\0\0\xfe\xff\0\0\0{", "UTF-8"),
            (&utf16, "UTF-8"),
            (&utf16_be, "UTF-8"),
        ] {
            let advice = advice(body).unwrap_or_else(|| panic!("no advice for {body:?}"));
            assert!(advice.contains(expected), "{body:?}: {advice}");
        }
    }

    #[test]
    fn nothing_is_made_of_a_slip() {
        for body in [
            &b""[..],
            b"{",
            b"hello",
            b"=",
            b"[1=2]",
            b"{\"input\"=[1]}",
            b"--",
            b"-1",
            b"\0\0",
            b"\0\0\0\0",
            b"x^2",
            b"\"a=b\"",
            b"a b=c",
        ] {
            assert_eq!(advice(body), None, "{body:?}");
        }
    }
}
