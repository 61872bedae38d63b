//! A connection as those see it who open streams on it.

use std::cell::RefCell;
use std::rc::Rc;

use super::memory::Memory;
use super::state::Inner;
use super::stream::Stream;
use crate::settings::Limits;

/// One HTTP/2 connection, which [`super::drive`] drives.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) inner: Rc<RefCell<Inner>>,
}

impl Connection {
    /// One that we open streams on.
    pub(crate) fn client(limits: &Limits, memory: &Rc<Memory>) -> Rc<Connection> {
        Connection::new(false, limits, memory)
    }

    /// One that a peer opens streams on.
    pub(crate) fn server(limits: &Limits, memory: &Rc<Memory>) -> Rc<Connection> {
        Connection::new(true, limits, memory)
    }

    fn new(is_server: bool, limits: &Limits, memory: &Rc<Memory>) -> Rc<Connection> {
        let inner = Inner::new(is_server, limits.streams, limits.head_bytes, Rc::clone(memory));
        Rc::new(Connection { inner: Rc::new(RefCell::new(inner)) })
    }

    /// A place for a stream, which it opens with its request's head; `None` while there is none, or when the connection takes no
    /// more.
    pub(crate) fn place(&self) -> Option<Stream> {
        let mut inner = self.inner.borrow_mut();
        if !inner.takes_streams() || inner.in_use() >= inner.most.min(inner.peer.streams) as usize {
            return None;
        }
        let slot = inner.occupy();
        Some(Stream::new(&self.inner, slot))
    }

    /// Whether new streams can be opened, now or when others have ended.
    pub(crate) fn is_usable(&self) -> bool {
        self.inner.borrow().takes_streams()
    }

    /// Whether nobody has a place.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.borrow().in_use() == 0
    }

    /// Nobody asks for places any more: the connection ends with the last stream.
    pub(crate) fn leave(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.leaving = true;
        inner.wake_driver();
    }
}
