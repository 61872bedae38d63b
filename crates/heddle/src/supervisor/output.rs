//! What children print, line by line, with the name of the child before each line.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::console;

/// A longer line is printed in pieces of this many bytes.
const MAX_LINE: usize = 8 * 1024;

/// Names are padded to this width; longer ones push their lines to the right.
const WIDTH: usize = 16;

/// Where lines end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
    /// Nobody reads them.
    Nowhere,
}

/// Where a child's lines go, with its name before each.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    prefix: Arc<str>,
    sink: Sink,
}

impl Label {
    /// `name | `, coloured by `service` on a terminal.
    pub(crate) fn new(name: &str, service: &str, sink: Sink) -> Label {
        let prefix = format!("{name:WIDTH$} |");
        let prefix = if sink == Sink::Output { console::paint(&prefix, console::colour_of(service)) } else { prefix };
        Label { prefix: prefix.into(), sink }
    }

    /// For what we say ourselves.
    pub(crate) fn heddle(sink: Sink) -> Label {
        let prefix = format!("{:WIDTH$} |", "heddle");
        let prefix = if sink == Sink::Output { console::paint(&prefix, "1") } else { prefix };
        Label { prefix: prefix.into(), sink }
    }

    /// Prints lines of text.
    pub(crate) fn print(&self, text: &str) {
        for line in text.split('\n') {
            match self.sink {
                Sink::Output => console::line(format_args!("{} {line}", self.prefix)),
                Sink::Error => console::note(format_args!("{} {line}", self.prefix)),
                Sink::Nowhere => {}
            }
        }
    }
}

/// Reads `stream` to its end and gives each line to `print`.
pub(crate) async fn copy_lines(mut stream: impl AsyncRead + Unpin, mut print: impl FnMut(&str)) {
    let mut splitter = Splitter::default();
    let mut chunk = vec![0; MAX_LINE];
    while let Ok(n) = stream.read(&mut chunk).await {
        if n == 0 {
            break;
        }
        splitter.push(&chunk[..n], &mut print);
    }
    splitter.finish(&mut print);
}

/// Cuts bytes into printable lines.
#[derive(Debug, Default)]
struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8], print: &mut impl FnMut(&str)) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let mut part = part;
            while self.pending.len() + part.len() > MAX_LINE {
                let (head, tail) = part.split_at(MAX_LINE - self.pending.len());
                self.pending.extend_from_slice(head);
                self.flush(print);
                part = tail;
            }
            self.pending.extend_from_slice(part);
            if self.pending.last() == Some(&b'\n') {
                self.flush(print);
            }
        }
    }

    fn finish(&mut self, print: &mut impl FnMut(&str)) {
        if !self.pending.is_empty() {
            self.flush(print);
        }
    }

    fn flush(&mut self, print: &mut impl FnMut(&str)) {
        let line = self.pending.strip_suffix(b"\n").unwrap_or(&self.pending);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        print(&printable(line));
        self.pending.clear();
    }
}

/// The text of a line: what is not UTF-8 is marked, and control characters other than tabs and colour sequences are left
/// out, so that a child cannot move the terminal's cursor.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour_sequence(rest) {
            if console::colours() {
                clean.push_str(colour);
            }
            rest = &rest[colour.len()..];
            continue;
        }
        if c == '\t' || !c.is_control() {
            clean.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    clean
}

/// The sequence `ESC [ digits and semicolons m` that `text` begins with.
fn colour_sequence(text: &str) -> Option<&str> {
    let body = text.strip_prefix("\x1b[")?;
    let end = body.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    body[end..].starts_with('m').then(|| &text[..2 + end + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut splitter = Splitter::default();
        for chunk in chunks {
            splitter.push(chunk, &mut |line: &str| seen.push(line.to_owned()));
        }
        splitter.finish(&mut |line: &str| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(lines(&[b"a", b"b\r\nc\n\nlast"]), ["ab", "c", "", "last"]);
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = vec![b'x'; 2 * MAX_LINE + 1];
        let seen = lines(&[&long, b"\nnext\n"]);
        assert_eq!(seen.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, 1, 4]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_line() {
        let mut exact = vec![b'x'; MAX_LINE - 1];
        exact.push(b'\n');
        assert_eq!(lines(&[&exact, b"y\n"]).len(), 2);
    }

    #[test]
    fn what_is_not_text_is_made_harmless() {
        assert_eq!(lines(&[b"\xff\x00ok\x1b[2J\ttab\x1b[31mred\x1b[0m\n"]), ["\u{fffd}ok[2J\ttabred"]);
    }
}
