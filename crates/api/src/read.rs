//! Reading fields of a tree: every reader knows its place, reports what is wrong there and lets the others go on.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Severity};
use crate::node::{Entry, Node, Position, Scalar, Value, shorten};
use crate::text;

/// Most errors that are reported of one object; a file that is something else altogether would drown its reader.
const MAX_ERRORS: usize = 50;

/// Most unknown fields of one mapping that are looked at.
const MAX_UNKNOWN: usize = 1000;

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    /// By number.
    Number(u16),
    /// By name, to be looked up among the ports of each instance.
    Name(String),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortRef::Number(n) => n.fmt(f),
            PortRef::Name(n) => n.fmt(f),
        }
    }
}

/// Collects what is wrong with one object.
#[derive(Default)]
pub(crate) struct Problems {
    found: RefCell<Vec<(Position, Diagnostic)>>,
    errors: Cell<usize>,
}

impl Problems {
    fn add(&self, severity: Severity, at: Position, field: &str, message: String, help: String) {
        if severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
            if self.errors.get() > MAX_ERRORS {
                return;
            }
        }
        let mut diagnostic = Diagnostic::new(severity, message).with_help(help);
        field.clone_into(&mut diagnostic.field);
        self.found.borrow_mut().push((at, diagnostic));
    }

    /// How many errors there were so far.
    pub(crate) fn errors(&self) -> usize {
        self.errors.get()
    }

    /// Everything that was found, with its place.
    pub(crate) fn into_found(self) -> Vec<(Position, Diagnostic)> {
        self.found.into_inner()
    }
}

/// How unknown fields are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// As errors: kinds of our own, and routes.
    Refused,
    /// As something that does not concern the mesh, unless it looks like a misspelt field that does: core kinds.
    Ignored,
}

/// A value at its place.
#[derive(Clone)]
pub(crate) struct At<'a> {
    problems: &'a Problems,
    pub(crate) node: &'a Node,
    pub(crate) path: String,
    unknown: Unknown,
}

impl<'a> At<'a> {
    /// The root of a document.
    pub(crate) fn root(problems: &'a Problems, node: &'a Node, unknown: Unknown) -> At<'a> {
        At { problems, node, path: String::new(), unknown }
    }

    fn report(&self, severity: Severity, message: impl Into<String>, help: impl Into<String>) {
        self.problems.add(severity, self.node.at, &self.path, message.into(), help.into());
    }

    /// The same value with another way to take unknown fields in it.
    pub(crate) fn taking(self, unknown: Unknown) -> At<'a> {
        At { unknown, ..self }
    }

    /// Reports an error here.
    pub(crate) fn error(&self, message: impl Into<String>) {
        self.report(Severity::Error, message, "");
    }

    /// Reports an error here, and a way out.
    pub(crate) fn error_help(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Error, message, help);
    }

    /// Reports something here that probably is not as meant.
    pub(crate) fn warn(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Warning, message, help);
    }

    /// Reports something here that was skipped.
    pub(crate) fn notice(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Notice, message, help);
    }

    fn expected(&self, what: &str, help: impl Into<String>) {
        self.error_help(format!("expected {what}, found {}", self.node.describe()), help);
    }

    /// How many errors the object has so far.
    pub(crate) fn errors(&self) -> usize {
        self.problems.errors()
    }

    /// A mapping whose fields are to be read.
    pub(crate) fn map(&self) -> Option<Map<'a>> {
        match &self.node.value {
            Value::Map(entries) => Some(Map { at: self.clone(), entries, known: BTreeSet::new() }),
            _ => {
                self.expected("a mapping", "");
                None
            }
        }
    }

    /// The items of a list of at most `max`.
    pub(crate) fn list(&self, max: usize) -> Vec<At<'a>> {
        let Value::List(list) = &self.node.value else {
            self.expected(
                "a list",
                if self.node.is_null() { "" } else { "write it as `[…]` or with `- ` before each item" },
            );
            return Vec::new();
        };
        if list.len() > max {
            self.error(format!("has {} items; at most {max} are allowed", list.len()));
        }
        let item = |(i, node)| At { node, path: format!("{}[{i}]", self.path), ..self.clone() };
        list.iter().take(max).enumerate().map(item).collect()
    }

    /// A list read item by item; items with errors are left out.
    pub(crate) fn each<T>(&self, max: usize, mut read: impl FnMut(&At<'a>) -> Option<T>) -> Vec<T> {
        self.list(max).iter().filter_map(&mut read).collect()
    }

    fn scalar(&self, what: &str) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => {
                self.expected(what, "");
                None
            }
        }
    }

    /// A text. Numbers and truth values must be quoted, as Kubernetes demands.
    pub(crate) fn string(&self) -> Option<&'a str> {
        let scalar = self.scalar("a text")?;
        if self.node.is_null() {
            self.expected("a text", "");
            None
        } else if scalar.is_bool() || scalar.is_number() {
            self.expected("a text", format!("write it in quotes: \"{}\"", shorten(&scalar.text)));
            None
        } else {
            Some(&scalar.text)
        }
    }

    /// A text with a grammar of its own.
    pub(crate) fn parse<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string()?;
        read(text).map_err(|why| self.error(format!("\"{}\" {why}", shorten(text)))).ok()
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let scalar = self.scalar("a whole number")?;
        let (low, high) = (range.start(), range.end());
        match scalar.text.parse::<i64>() {
            Ok(n) if !scalar.plain => {
                self.expected("a whole number", format!("write it without quotes: {n}"));
                None
            }
            Ok(n) => {
                let fits = u32::try_from(n).ok().filter(|n| range.contains(n));
                if fits.is_none() {
                    self.error(format!("{n} is out of range: {low} to {high} is allowed"));
                }
                fits
            }
            Err(_) => {
                self.expected(&format!("a whole number from {low} to {high}"), "");
                None
            }
        }
    }

    /// A port number.
    pub(crate) fn port(&self) -> Option<u16> {
        self.integer(1..=65535).and_then(|n| u16::try_from(n).ok())
    }

    /// A port by number or by name.
    pub(crate) fn port_ref(&self) -> Option<PortRef> {
        let scalar = self.scalar("a port's number or name")?;
        if scalar.plain && scalar.text.parse::<i64>().is_ok() {
            return self.port().map(PortRef::Number);
        }
        self.parse(text::port_name).map(PortRef::Name)
    }

    /// A length of time (GEP-2257).
    pub(crate) fn duration(&self) -> Option<Duration> {
        if let Value::Scalar(scalar) = &self.node.value
            && scalar.is_number()
        {
            self.expected("a length of time", format!("give it a unit: {0}s or {0}ms", shorten(&scalar.text)));
            return None;
        }
        self.parse(text::duration)
    }

    /// A length of time that is not zero.
    pub(crate) fn positive_duration(&self) -> Option<Duration> {
        let duration = self.duration()?;
        if duration.is_zero() {
            self.error("must be longer than zero");
            return None;
        }
        Some(duration)
    }

    /// An IP address.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.parse(|t| t.parse().map_err(|_| "is not an IP address".to_owned()))
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let part = || names.iter().copied().find(|n| text.len() > 2 && n.to_lowercase().contains(&text.to_lowercase()));
        let help = match text::closest(text, names.iter().copied()).or_else(part) {
            Some(close) => format!("did you mean \"{close}\"?"),
            None => String::new(),
        };
        self.error_help(format!("\"{}\" is not one of: {}", shorten(text), names.join(", ")), help);
        None
    }

    /// `true`, which is the only thing that can be said.
    pub(crate) fn choice_of_true(&self) -> Option<()> {
        match self.scalar("true")? {
            scalar if scalar.plain && scalar.text == "true" => Some(()),
            _ => {
                self.expected("true", "remove the field where it does not apply");
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.scalar("true or false")? {
            scalar if scalar.is_bool() => Some(scalar.text.eq_ignore_ascii_case("true")),
            _ => {
                self.expected("true or false", "");
                None
            }
        }
    }

    /// A mapping of texts.
    pub(crate) fn texts(&self) -> BTreeMap<String, String> {
        let Some(map) = self.map() else {
            return BTreeMap::new();
        };
        map.items().filter_map(|(key, at)| at.string().map(|text| (key.to_owned(), text.to_owned()))).collect()
    }

    /// A mapping of labels.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let Some(map) = self.map() else {
            return BTreeMap::new();
        };
        let mut labels = BTreeMap::new();
        for (key, at) in map.items() {
            if let Err(why) = text::label_key(key) {
                at.error(format!("the label's name \"{}\" {why}", shorten(key)));
            }
            if let Some(text) = at.string() {
                if let Err(why) = text::label_value(text) {
                    at.error(format!("the label's value \"{}\" {why}", shorten(text)));
                } else if let Err(why) = text::mesh_label(key, text) {
                    at.error(format!("\"{}\" {why}", shorten(text)));
                }
                labels.insert(key.to_owned(), text.to_owned());
            }
        }
        labels
    }
}

/// A mapping that is being read. [`Map::finish`] must be called when every field was asked for.
pub(crate) struct Map<'a> {
    at: At<'a>,
    entries: &'a [Entry],
    known: BTreeSet<&'static str>,
}

impl<'a> Map<'a> {
    /// The mapping itself.
    pub(crate) fn at(&self) -> &At<'a> {
        &self.at
    }

    fn value(&self, entry: &'a Entry) -> At<'a> {
        let dot = if self.at.path.is_empty() { "" } else { "." };
        At { node: &entry.value, path: format!("{}{dot}{}", self.at.path, entry.key), ..self.at.clone() }
    }

    /// Every key and value, for mappings whose keys people choose.
    pub(crate) fn items(&self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), self.value(entry)))
    }

    /// A field, if it is written and not null.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<At<'a>> {
        self.written(name).filter(|at| !at.node.is_null())
    }

    /// A field, if it is written, even if it is null: for fields whose absence would let more through.
    pub(crate) fn written(&mut self, name: &'static str) -> Option<At<'a>> {
        self.known.insert(name);
        self.entries.iter().find(|e| e.key == name).map(|e| self.value(e))
    }

    /// A field that must be written.
    pub(crate) fn require(&mut self, name: &'static str) -> Option<At<'a>> {
        let found = self.get(name);
        if found.is_none() {
            // A misspelt field is not missing; finish() reports it with a suggestion.
            let misspelt = self.entries.iter().any(|e| text::closest(&e.key, [name]).is_some() && e.key != name);
            if !misspelt {
                self.at.error(format!("the field {name} is missing"));
            }
        }
        found
    }

    /// Fields that the specification has and the mesh does not implement: errors where they stand.
    pub(crate) fn not_yet(&mut self, names: &[&'static str]) {
        for name in names {
            if let Some(field) = self.get(name) {
                field.error_help("not implemented yet", "remove the field");
            }
        }
    }

    /// Fields that do not concern the mesh.
    pub(crate) fn ignore(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Reports the fields that nobody asked for.
    pub(crate) fn finish(self) {
        let missing: Vec<&str> =
            self.known.iter().copied().filter(|k| !self.entries.iter().any(|e| e.key == *k)).collect();
        let unknown = self.entries.iter().filter(|e| !self.known.contains(e.key.as_str()));
        for entry in unknown.take(MAX_UNKNOWN) {
            let help = match (text::closest(&entry.key, missing.iter().copied()), self.at.unknown) {
                (Some(close), _) => format!("did you mean \"{close}\"?"),
                (None, Unknown::Ignored) => continue,
                (None, Unknown::Refused) => {
                    let known: Vec<&str> = self.known.iter().copied().collect();
                    format!("the fields here are: {}", known.join(", "))
                }
            };
            let message = format!("there is no field \"{}\" here", shorten(&entry.key));
            self.at.problems.add(Severity::Error, entry.at, &self.value(entry).path, message, help);
        }
    }
}
