//! Messages about what people wrote: place, cause and a way out.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::object::ObjectKey;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong; something was skipped.
    Notice,
    /// It works, but probably not as meant.
    Warning,
    /// The object cannot be used.
    Error,
}

impl Severity {
    /// The word that people see.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One message about one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The object it is about, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectKey>,
    /// The file, as it was named to the parser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// From 1; 0 where there is no line.
    pub line: u32,
    /// From 1, in characters; 0 where there is no column.
    pub column: u32,
    /// Path of the field (`spec.rules[0].matches[1].path.type`); empty for the whole object or file.
    pub field: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it; empty where the message says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub help: String,
    /// The line as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_line: Option<String>,
}

impl Diagnostic {
    /// A message that is not about a place yet.
    pub fn new(severity: Severity, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity,
            object: None,
            file: None,
            line: 0,
            column: 0,
            field: String::new(),
            message: message.into(),
            help: String::new(),
            source_line: None,
        }
    }

    /// The same with a way out.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = help.into();
        self
    }

    /// Whether the object cannot be used because of this.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// As a compiler would say it, several lines, without a line end after the last; with ANSI colours if `color`.
    pub fn render(&self, color: bool) -> String {
        let paint = Paint(color);
        let mut out = String::new();
        let tint = match self.severity {
            Severity::Error => RED,
            Severity::Warning => YELLOW,
            Severity::Notice => CYAN,
        };
        let _ = write!(out, "{}{}", paint.with(tint, self.severity.name()), paint.with(BOLD, ": "));
        if !self.field.is_empty() {
            let _ = write!(out, "{}", paint.with(BOLD, &format!("{}: ", self.field)));
        }
        out.push_str(&paint.with(BOLD, &self.message));
        let gutter = self.line.to_string().len();
        if let Some(file) = &self.file {
            let _ = write!(out, "\n{:gutter$}{} {file}", "", paint.with(BLUE, "-->"));
            if self.line > 0 {
                let _ = write!(out, ":{}:{}", self.line, self.column);
            }
            if let Some(object) = &self.object {
                let _ = write!(out, " ({object})");
            }
        } else if let Some(object) = &self.object {
            let _ = write!(out, "\n{:gutter$}{} {object}", "", paint.with(BLUE, "-->"));
        }
        if let (Some(source), true) = (&self.source_line, self.line > 0) {
            let (source, column) = excerpt(source, self.column);
            let bar = paint.with(BLUE, "|");
            let _ = write!(out, "\n{:gutter$} {bar}", "");
            let _ = write!(out, "\n{} {bar} {source}", paint.with(BLUE, &self.line.to_string()));
            let _ = write!(out, "\n{:gutter$} {bar} {:column$}{}", "", "", paint.with(tint, "^"));
        }
        if !self.help.is_empty() {
            let _ = write!(out, "\n{:gutter$} {} help: {}", "", paint.with(BLUE, "="), self.help);
        }
        out
    }
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const CYAN: &str = "\x1b[1;36m";
const BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";

/// Wraps text in ANSI colours, or does not.
struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("{code}{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A source line is cut to this many characters around its column: minified JSON is one line of megabytes.
const EXCERPT: usize = 160;

/// What is shown of `source`, and how many columns of it stand before the caret. Tabs count as one blank; control
/// characters are never sent to a terminal.
fn excerpt(source: &str, column: u32) -> (String, usize) {
    let column = (column as usize).saturating_sub(1);
    let start = if column < EXCERPT - 20 { 0 } else { column - EXCERPT / 2 };
    let shown: String = source
        .chars()
        .skip(start)
        .take(EXCERPT)
        .map(|c| {
            if c == '\t' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    (shown, column - start)
}

#[cfg(test)]
mod tests;
