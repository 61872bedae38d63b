//! A positioned tree of one YAML document, and how a file is cut into documents.
//!
//! Documents are cut apart before they are parsed: a line that begins with `---` or `...` ends a document wherever it
//! stands (YAML 1.2.2, 9.1.2), so a syntax error in one document leaves the others readable.

use std::collections::{HashMap, hash_map};

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// Deepest nesting of lists and mappings, aliases expanded. Kubernetes' own deepest schemas stay below 30.
pub(crate) const MAX_DEPTH: usize = 64;
/// Most keys and values in one document, aliases expanded, 128 bytes of text counting as one more; bounds what a document
/// of aliases of aliases can grow to.
pub(crate) const MAX_NODES: usize = 100_000;

/// Line and column, both from 1, the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// Text, and whether it was written without quotes, so that it may stand for a number, a truth value or null.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) plain: bool,
}

/// One key of a mapping. Keys are unique, in the order written.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) value: Node,
}

/// What is wrong with the text of a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Position,
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

impl Fault {
    fn new(at: Position, message: impl Into<String>) -> Fault {
        Fault { at, message: message.into(), help: "" }
    }
}

/// What became of one document: its tree, if it has one, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) root: Option<Node>,
    pub(crate) faults: Vec<Fault>,
}

impl Node {
    /// Whether it is absent in all but name: `null`, `~` or nothing.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.plain && matches!(s.text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar(_) if self.is_null() => "nothing".to_owned(),
            Value::Scalar(s) if s.is_bool() => format!("the truth value {}", s.text),
            Value::Scalar(s) if s.is_number() => format!("the number {}", shorten(&s.text)),
            Value::Scalar(s) => format!("the text \"{}\"", shorten(&s.text)),
        }
    }
}

impl Scalar {
    /// Whether it is a truth value of the YAML 1.2 core schema.
    pub(crate) fn is_bool(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
    }

    /// Whether it is a number of the YAML 1.2 core schema, near enough: what begins like one and reads as one.
    pub(crate) fn is_number(&self) -> bool {
        let digits = self.text.trim_start_matches(['+', '-']);
        self.plain && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && self.text.parse::<f64>().is_ok()
    }
}

/// At most forty characters of a text that a message quotes, without control characters.
pub(crate) fn shorten(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(40).map(clean).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}

/// The parts of `text` that hold a document each, with the number of lines before each.
pub(crate) fn split(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut offset = 0;
    for (line, content) in (0u32..).zip(text.split_inclusive('\n')) {
        let marker =
            |m: &str| content.strip_prefix(m).is_some_and(|r| r.is_empty() || r.starts_with([' ', '\t', '\r', '\n']));
        if marker("---") {
            parts.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, line);
        }
        offset += content.len();
        if marker("...") {
            parts.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, line + 1);
        }
    }
    parts.push((start_line, &text[start..]));
    parts.retain(|(_, part)| part.lines().any(has_content));
    parts
}

/// Whether a line is more than a comment, a directive or a marker.
fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").or(line.strip_prefix("...")).unwrap_or(line).trim();
    !line.is_empty() && !line.starts_with(['#', '%'])
}

/// Parses one part of a file that begins after `lines` lines. More than one document comes out only where lone carriage
/// returns end lines.
pub(crate) fn parse(lines: u32, text: &str) -> Vec<Document> {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut documents = Vec::new();
    let mut builder = Builder::new(lines);
    for event in Parser::new_from_str_with_options(text, options) {
        let fault = match event {
            Ok((Event::DocumentEnd, _)) => {
                documents.push(std::mem::replace(&mut builder, Builder::new(lines)).finish());
                continue;
            }
            Ok((event, span)) => builder.take(event, span).err(),
            Err(error) => {
                let marker = error.marker();
                let at = position(lines, marker.line(), marker.col());
                Some(Fault {
                    at,
                    message: format!("this is not valid YAML: {}", error.info()),
                    help: hint(text, marker.line()),
                })
            }
        };
        if let Some(fault) = fault {
            builder.faults.push(fault);
            builder.root = None;
            documents.push(Document { root: None, faults: builder.faults });
            return documents;
        }
    }
    documents
}

/// What most often makes a line unreadable.
fn hint(text: &str, line: usize) -> &'static str {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if line.trim_start_matches(' ').starts_with('\t') {
        "indent with blanks, not with tabs"
    } else if line.contains(": {{") || line.contains("{%") {
        "this looks like a template; render it first"
    } else {
        "check the indentation of this line and of the one before it, and that every quote and bracket is closed"
    }
}

fn position(lines: u32, line: usize, column: usize) -> Position {
    let line = u32::try_from(line.max(1)).unwrap_or(u32::MAX);
    Position { line: lines.saturating_add(line), column: u32::try_from(column).unwrap_or(u32::MAX - 1) + 1 }
}

/// A collection that is not yet closed.
struct Open {
    node: Node,
    anchor: usize,
    /// A key that waits for its value.
    key: Option<(String, Position)>,
    /// The keys of a mapping, so that a large one takes no longer a key than a small one.
    keys: HashMap<String, Held>,
}

/// Where a mapping holds a key, and whether that only came with `<<`.
struct Held {
    index: usize,
    merged: bool,
}

/// A node that an alias can name.
struct Anchored {
    node: Node,
    nodes: usize,
    depth: usize,
}

/// Makes a tree of parser events.
struct Builder {
    lines: u32,
    stack: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    root: Option<Node>,
    faults: Vec<Fault>,
}

impl Builder {
    fn new(lines: u32) -> Builder {
        Builder { lines, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None, faults: Vec::new() }
    }

    fn finish(self) -> Document {
        Document { root: self.root, faults: self.faults }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let at = position(self.lines, span.start.line(), span.start.col());
        let open = |value| Node { at, value };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = tag.as_ref().is_some_and(|t| t.is_yaml_core_schema_tag("str"));
                self.tag(at, tag.as_deref())?;
                let plain = style == ScalarStyle::Plain && !quoted;
                self.count(at, weight(&text))?;
                let node = open(Value::Scalar(Scalar { text: text.into_owned(), plain }));
                self.value(node, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(at, tag.as_deref())?;
                self.open(open(Value::List(Vec::new())), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(at, tag.as_deref())?;
                self.open(open(Value::Map(Vec::new())), anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else {
                    return Ok(());
                };
                self.value(open.node, open.anchor)
            }
            Event::Alias(id) => {
                let Some(anchored) = self.anchors.get(&id) else {
                    return Err(Fault::new(at, "an alias cannot stand inside the value that it names"));
                };
                let (mut node, nodes, depth) = (anchored.node.clone(), anchored.nodes, anchored.depth);
                if self.stack.len() + depth > MAX_DEPTH {
                    return Err(too_deep(at));
                }
                self.count(at, nodes)?;
                node.at = at;
                self.value(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn tag(&self, at: Position, tag: Option<&granit_parser::Tag>) -> Result<(), Fault> {
        match tag {
            Some(tag) if tag.is_custom() => {
                Err(Fault::new(at, format!("the tag {} means nothing here", shorten(&tag.original()))))
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(node.at));
        }
        self.count(node.at, 1)?;
        self.stack.push(Open { node, anchor, key: None, keys: HashMap::new() });
        Ok(())
    }

    fn count(&mut self, at: Position, nodes: usize) -> Result<(), Fault> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Fault::new(
                at,
                format!("the document has more than {MAX_NODES} keys and values, aliases expanded"),
            ));
        }
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn value(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            let (nodes, depth) = measure(&node);
            // The copy that aliases are made from is memory too.
            self.count(node.at, nodes)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, depth });
        }
        let Some(parent) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut parent.node.value, parent.key.take()) {
            (Value::List(list), _) => list.push(node),
            (Value::Map(_), None) => match node.value {
                Value::Scalar(scalar) => parent.key = Some((scalar.text, node.at)),
                _ => {
                    return Err(Fault::new(node.at, "a key must be a text, not a list or a mapping"));
                }
            },
            (Value::Map(_), Some((key, at))) => self.faults.extend(parent.insert(key, at, node)),
            (Value::Scalar(_), _) => {}
        }
        Ok(())
    }
}

impl Open {
    /// Adds a key; the first of two wins. `<<` takes over the keys of the mapping that it names, which keys of this mapping
    /// override wherever they stand, as most readers of Kubernetes manifests do.
    fn insert(&mut self, key: String, at: Position, value: Node) -> Option<Fault> {
        let Value::Map(entries) = &mut self.node.value else {
            return None;
        };
        match value.value {
            Value::Map(merged) if key == "<<" => {
                for entry in merged {
                    if let hash_map::Entry::Vacant(vacant) = self.keys.entry(entry.key.clone()) {
                        vacant.insert(Held { index: entries.len(), merged: true });
                        entries.push(entry);
                    }
                }
                None
            }
            _ => match self.keys.entry(key.clone()) {
                hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(Held { index: entries.len(), merged: false });
                    entries.push(Entry { key, at, value });
                    None
                }
                hash_map::Entry::Occupied(mut held) if held.get().merged => {
                    entries[held.get().index] = Entry { key, at, value };
                    held.get_mut().merged = false;
                    None
                }
                hash_map::Entry::Occupied(held) => Some(Fault {
                    at,
                    message: format!(
                        "the key \"{}\" is written twice, first on line {}",
                        shorten(&key),
                        entries[held.get().index].at.line
                    ),
                    help: "keep one of the two",
                }),
            },
        }
    }
}

fn too_deep(at: Position) -> Fault {
    Fault::new(at, format!("lists and mappings are nested more than {MAX_DEPTH} deep"))
}

/// What a text counts for against [`MAX_NODES`]: one, and one more for every 128 bytes, which bounds memory too.
fn weight(text: &str) -> usize {
    1 + text.len() / 128
}

/// What a tree counts for against [`MAX_NODES`], and its depth.
fn measure(node: &Node) -> (usize, usize) {
    let add = |(nodes, depth): (usize, usize), (n, d): (usize, usize)| (nodes + n, depth.max(d + 1));
    match &node.value {
        Value::Scalar(scalar) => (weight(&scalar.text), 0),
        Value::List(list) => list.iter().map(measure).fold((1, 1), add),
        Value::Map(map) => map
            .iter()
            .map(|e| {
                let (nodes, depth) = measure(&e.value);
                (nodes + weight(&e.key), depth)
            })
            .fold((1, 1), add),
    }
}

#[cfg(test)]
mod tests;
