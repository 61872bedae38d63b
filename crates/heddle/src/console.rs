//! Where everything that people read is printed. A reader that went away (`heddle get | head`) is no error.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

/// Colours of the prefixes of children's output; readable on dark and on light grounds.
const PALETTE: [&str; 6] = ["36", "33", "32", "35", "34", "31"];

/// Writes one line to standard output.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes text as it is to standard output, and sends it on its way.
pub(crate) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Writes one line for people to standard error, so that standard output stays clean for what a command produces.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes an error for people, marked as such.
pub(crate) fn error(text: impl Display) {
    note(format_args!("{} {text}", paint_error("error:", "1;31")));
}

/// Whether standard output shows colours: a terminal, and the user has not said `NO_COLOR` (no-color.org).
pub(crate) fn colours() -> bool {
    static YES: OnceLock<bool> = OnceLock::new();
    *YES.get_or_init(|| wants_colour() && std::io::stdout().is_terminal())
}

/// Whether standard error shows colours.
pub(crate) fn error_colours() -> bool {
    static YES: OnceLock<bool> = OnceLock::new();
    *YES.get_or_init(|| wants_colour() && std::io::stderr().is_terminal())
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// `text` in the ANSI style `code` when standard output shows colours.
pub(crate) fn paint(text: &str, code: &str) -> String {
    if colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn paint_error(text: &str, code: &str) -> String {
    if error_colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Columns and rows of the terminal; wide and high where there is none.
pub(crate) fn size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        Some((width, height)) => (width.0.into(), height.0.into()),
        None => (200, 100),
    }
}

/// The colour that belongs to a name: always the same one.
pub(crate) fn colour_of(name: &str) -> &'static str {
    let hash = name.bytes().fold(0u32, |hash, b| hash.wrapping_mul(31).wrapping_add(u32::from(b)));
    PALETTE[hash as usize % PALETTE.len()]
}

/// Lays rows out under headings, columns two spaces apart, without trailing spaces.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heading: Vec<String> = headings.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_no_trailing_spaces() {
        let text = table(&["NAME", "N"], &[vec!["é".into(), "10".into()], vec!["longer".into(), "2".into()]]);
        assert_eq!(text, "NAME    N\né       10\nlonger  2\n");
    }

    #[test]
    fn a_name_keeps_its_colour() {
        assert_eq!(colour_of("cart"), colour_of("cart"));
        assert!(PALETTE.contains(&colour_of("")));
    }
}
