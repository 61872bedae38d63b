//! Who is told what the supervisor does.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex};

use super::output::{Label, Sink};
use crate::console;

/// Lines that [`Reporter::Kept`] keeps.
const KEPT: usize = 100;

/// Where notes and children's lines go.
#[derive(Clone, Debug)]
pub(crate) enum Reporter {
    /// Printed as they come, to standard output or, where that is for a program to read, to standard error.
    Printed(Sink),
    /// Notes are kept for a display of its own, children's lines are dropped.
    Kept(Arc<Mutex<VecDeque<String>>>),
    /// Only errors are printed (`exec`, `run`).
    Quiet,
}

impl Reporter {
    /// A reporter that keeps the last notes.
    pub(crate) fn kept() -> Reporter {
        Reporter::Kept(Arc::default())
    }

    /// Something happened that a person may want to know.
    pub(crate) fn note(&self, text: impl Display) {
        match self {
            Reporter::Printed(sink) => Label::heddle(*sink).print(&text.to_string()),
            Reporter::Kept(lines) => keep(lines, text.to_string()),
            Reporter::Quiet => {}
        }
    }

    /// Something is wrong.
    pub(crate) fn problem(&self, text: impl Display) {
        match self {
            Reporter::Printed(_) | Reporter::Kept(_) => self.note(text),
            Reporter::Quiet => console::error(text),
        }
    }

    /// The label of a child's lines.
    pub(crate) fn label(&self, name: &str, service: &str) -> Label {
        match self {
            Reporter::Printed(sink) => Label::new(name, service, *sink),
            Reporter::Kept(_) => Label::new(name, service, Sink::Nowhere),
            Reporter::Quiet => Label::new(name, service, Sink::Error),
        }
    }

    /// The notes since they were taken last.
    pub(crate) fn take(&self) -> Vec<String> {
        match self {
            Reporter::Kept(lines) => lines.lock().expect("no panic while the lock is held").drain(..).collect(),
            Reporter::Printed(_) | Reporter::Quiet => Vec::new(),
        }
    }

    /// The newest notes, oldest first.
    pub(crate) fn last(&self, n: usize) -> Vec<String> {
        match self {
            Reporter::Kept(lines) => {
                let lines = lines.lock().expect("no panic while the lock is held");
                lines.iter().skip(lines.len().saturating_sub(n)).cloned().collect()
            }
            Reporter::Printed(_) | Reporter::Quiet => Vec::new(),
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
