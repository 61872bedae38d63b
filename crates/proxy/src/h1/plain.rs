//! Plain heads, read in one pass.
//!
//! Nearly every head that comes is of one form: HTTP/1.1, lines that end with CR LF, names and values of unremarkable bytes. Such a
//! head is found here, each of its bytes looked at once. What is not of this form, or not whole, is not judged here at all: it is left
//! to `httparse`, which says what is wrong with it. So this accepts nothing that `httparse` and [`Fields::fill`] refuse, and finds
//! what they find in what it accepts; the laws in `fuzzing.rs` hold it to that.

use super::fields::{Field, Fields, Kind, Span};

/// The bytes of a token (RFC 9110, 5.6.2), which methods and names of fields are.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

/// A byte in each of a word's eight.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// How many bytes `bytes` begins with that are text: `least` to `~`. A word at a time (Warren, Hacker's Delight, 6-1): a byte's
/// highest bit shows in what is computed if the byte is less than `least`, DEL, or not ASCII. A borrow can make that of the byte above
/// such a one show as well, never that of one below, and the lowest is what is asked for.
fn text(bytes: &[u8], least: u8) -> usize {
    let mut at = 0;
    while let Some(&eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(eight);
        let delete = word ^ each(0x7f);
        let odd = (word.wrapping_sub(each(least)) | word | delete.wrapping_sub(each(1)) & !delete) & each(0x80);
        if odd != 0 {
            return at + odd.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_text = |byte: &&u8| (least..=b'~').contains(*byte);
    at + bytes[at..].iter().take_while(is_text).count()
}

/// How many bytes of a token `bytes` begins with.
fn token(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| TOKEN[usize::from(byte)]).count()
}

/// The length of a plain request's method and target, and where its fields begin.
pub(super) fn request_line(input: &[u8]) -> Option<(usize, usize, usize)> {
    let method = token(input);
    let rest = input.get(method..)?.strip_prefix(b" ")?;
    let target = text(rest, b'!');
    let end = b" HTTP/1.1\r\n";
    (method > 0 && target > 0 && rest[target..].starts_with(end))
        .then(|| (method, target, method + 1 + target + end.len()))
}

/// The status of a plain response, and where its fields begin.
pub(super) fn status_line(input: &[u8]) -> Option<(u16, usize)> {
    let rest = input.strip_prefix(b"HTTP/1.1 ")?;
    let &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' '] = rest.first_chunk()? else { return None };
    let digit = |byte: u8| u16::from(byte - b'0');
    let reason = text(&rest[4..], b' ');
    let at = b"HTTP/1.1 200 ".len() + reason;
    input[at..].starts_with(b"\r\n").then(|| (digit(a) * 100 + digit(b) * 10 + digit(c), at + 2))
}

impl Fields {
    /// Takes over the head at the start of `input`, whose field lines begin at `start`, if these are plain and at most `most`. Returns
    /// the head's length.
    pub(super) fn take_plain(&mut self, input: &[u8], start: usize, most: usize) -> Option<usize> {
        self.clear();
        let length = self.find_plain(input, start, most);
        match length {
            Some(length) => {
                self.keep(&input[..length]);
            }
            None => self.clear(),
        }
        length
    }

    /// Adds the field lines, whose bytes are not kept yet.
    fn find_plain(&mut self, input: &[u8], start: usize, most: usize) -> Option<usize> {
        let mut at = start;
        loop {
            let line = &input[at..];
            let name = token(line);
            match line.get(name) {
                Some(b':') if name > 0 && self.list().len() < most => {}
                Some(b'\r') if name == 0 && line.get(1) == Some(&b'\n') => break,
                _ => return None,
            }
            let blanks = line[name + 1..].iter().take_while(|&&byte| byte == b' ').count();
            let mut value = name + 1 + blanks;
            let mut end = value + text(&line[value..], b' ');
            if !line[end..].starts_with(b"\r\n") {
                return None;
            }
            let next = at + end + 2;
            while end > value && line[end - 1] == b' ' {
                end -= 1;
            }
            if end == value {
                // An empty value has the place that `fill` gives it.
                (value, end) = (name + 1, name + 1);
            }
            self.add(Field {
                name: Span::new(at, at + name),
                value: Span::new(at + value, at + end),
                end: next as u32,
                kind: Kind::of(&line[..name]),
                secret: false,
            });
            at = next;
        }
        Some(at + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{Request, Response};
    use crate::settings::Limits;

    #[test]
    fn usual_heads_are_plain_and_others_are_not() {
        let limits = Limits { headers: 3, ..Limits::default() };
        let request = |head: &str| Request::default().read_plain(head.as_bytes(), &limits).is_some();
        let response = |head: &str| Response::default().read_plain(head.as_bytes(), &limits).is_some();
        assert!(request("GET /a?b=%20 HTTP/1.1\r\nHost: a\r\nAccept:*/*\r\nX-Empty:  \r\n\r\n and a body"));
        assert!(response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") && response("HTTP/1.1 204 \r\n\r\n"));
        for other in [
            "",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\n: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA:\tb\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
        ] {
            assert!(!request(other) && !response(other), "{other:?}");
        }
    }

    proptest::proptest! {
        /// What is looked at eight bytes at a time is what a look at each byte finds.
        #[test]
        fn text_ends_at_the_first_byte_that_is_none(
            usual in "[ -~]{0,40}",
            strange in proptest::collection::vec((0_usize..40, proptest::num::u8::ANY), 0..4),
            least in 0x20_u8..0x22,
        ) {
            let mut bytes = usual.into_bytes();
            for (at, byte) in strange {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            let end = bytes.iter().position(|byte| !(least..=b'~').contains(byte)).unwrap_or(bytes.len());
            proptest::prop_assert_eq!(text(&bytes, least), end);
        }
    }
}
