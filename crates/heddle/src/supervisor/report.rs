//! Who is told what the supervisor does.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::output::{Label, Sink};
use crate::console;

/// Lines that [`Kind::Kept`] keeps.
const KEPT: usize = 100;

/// Who is told, and whether everything is ending.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    kind: Kind,
    ending: Arc<AtomicBool>,
}

/// Where notes and children's lines go.
#[derive(Clone, Debug)]
enum Kind {
    Printed(Sink),
    Kept(Arc<Mutex<VecDeque<String>>>),
    Quiet,
}

impl Reporter {
    fn new(kind: Kind) -> Reporter {
        Reporter { kind, ending: Arc::default() }
    }

    /// Prints as it comes, to standard output or, where that is for a program to read, to standard error.
    pub(crate) fn printed(sink: Sink) -> Reporter {
        Reporter::new(Kind::Printed(sink))
    }

    /// Keeps the last notes for a display of its own, and drops children's lines.
    pub(crate) fn kept() -> Reporter {
        Reporter::new(Kind::Kept(Arc::default()))
    }

    /// Prints warnings and errors only (`exec`, `run`).
    pub(crate) fn quiet() -> Reporter {
        Reporter::new(Kind::Quiet)
    }

    /// Everything ends from now on.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether everything ends.
    pub(crate) fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Whether notes may be coloured.
    pub(crate) fn colours(&self) -> bool {
        matches!(self.kind, Kind::Printed(Sink::Output)) && console::colours()
    }

    /// Something happened that a person may want to know.
    pub(crate) fn note(&self, text: impl Display) {
        match &self.kind {
            Kind::Printed(sink) => Label::heddle(*sink).print(&text.to_string()),
            Kind::Kept(lines) => keep(lines, text.to_string()),
            Kind::Quiet => {}
        }
    }

    /// Something is not as it could be, and a person should know.
    pub(crate) fn warn(&self, text: impl Display) {
        match &self.kind {
            Kind::Printed(_) | Kind::Kept(_) => self.note(text),
            Kind::Quiet => console::note(text),
        }
    }

    /// Something is wrong.
    pub(crate) fn problem(&self, text: impl Display) {
        match &self.kind {
            Kind::Printed(_) | Kind::Kept(_) => self.note(text),
            Kind::Quiet => console::error(text),
        }
    }

    /// The label of a child's lines.
    pub(crate) fn label(&self, name: &str, service: &str) -> Label {
        match &self.kind {
            Kind::Printed(sink) => Label::new(name, service, *sink),
            Kind::Kept(_) => Label::new(name, service, Sink::Nowhere),
            Kind::Quiet => Label::new(name, service, Sink::Error),
        }
    }

    /// The notes since they were taken last.
    pub(crate) fn take(&self) -> Vec<String> {
        match &self.kind {
            Kind::Kept(lines) => lines.lock().expect("no panic while the lock is held").drain(..).collect(),
            Kind::Printed(_) | Kind::Quiet => Vec::new(),
        }
    }

    /// The newest notes, oldest first.
    pub(crate) fn last(&self, n: usize) -> Vec<String> {
        match &self.kind {
            Kind::Kept(lines) => {
                let lines = lines.lock().expect("no panic while the lock is held");
                lines.iter().skip(lines.len().saturating_sub(n)).cloned().collect()
            }
            Kind::Printed(_) | Kind::Quiet => Vec::new(),
        }
    }
}

fn keep(lines: &Mutex<VecDeque<String>>, text: String) {
    let mut lines = lines.lock().expect("no panic while the lock is held");
    if lines.len() == KEPT {
        lines.pop_front();
    }
    lines.push_back(text);
}
