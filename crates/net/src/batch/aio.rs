//! The system's own asynchronous I/O, of which sockets do what they are asked before [`Context::send`] returns.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::null;

use rustix::net::SendFlags;

use super::MOST;

/// `struct iocb` of linux/aio_abi.h, little endian.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Control {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    bytes: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    control: u64,
    result: i64,
    result2: i64,
}

/// IOCB_CMD_PWRITE of linux/aio_abi.h.
const WRITE: u16 = 1;

/// A context of the system's.
#[derive(Debug)]
pub(super) struct Context(usize);

#[allow(unsafe_code, reason = "system calls without a safe form; each argued")]
impl Context {
    pub(super) fn new(most: usize) -> io::Result<Context> {
        let mut context = 0_usize;
        // SAFETY: the kernel writes the one word that `context` is.
        match unsafe { nix::libc::syscall(nix::libc::SYS_io_setup, most, &raw mut context) } {
            0 => Ok(Context(context)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Does up to [`MOST`] writes; `results` says for each how many bytes, or the negative error.
    pub(super) fn send<'a>(&mut self, sends: impl Iterator<Item = (RawFd, &'a [u8])>, results: &mut [i64; MOST]) {
        let mut controls = [Control::default(); MOST];
        let mut pointers = [null::<Control>(); MOST];
        let mut count = 0;
        for (fd, bytes) in sends.take(MOST) {
            controls[count] = Control {
                data: count as u64,
                opcode: WRITE,
                fd: fd as u32,
                bytes: bytes.as_ptr() as u64,
                length: bytes.len() as u64,
                ..Control::default()
            };
            pointers[count] = &raw const controls[count];
            count += 1;
        }
        results[..count].fill(-i64::from(nix::libc::EAGAIN));
        let mut events = [Event::default(); MOST];
        // SAFETY: the pointers and what they point to live until the call returns, and so do the bytes, which `sends` borrows: a socket that
        // does not block has done its write, or failed, when io_submit returns.
        let submitted = unsafe { nix::libc::syscall(nix::libc::SYS_io_submit, self.0, count, pointers.as_ptr()) };
        if submitted <= 0 {
            return;
        }
        // SAFETY: room for `submitted` events, at most MOST.
        let done = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_io_getevents,
                self.0,
                submitted,
                submitted,
                events.as_mut_ptr(),
                null::<nix::libc::timespec>(),
            )
        };
        for event in events.iter().take(usize::try_from(done).unwrap_or(0)) {
            if let Some(result) = results.get_mut(event.data as usize) {
                *result = event.result;
            }
        }
    }
}

#[allow(unsafe_code, reason = "system calls without a safe form; each argued")]
impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing is under way.
        unsafe { nix::libc::syscall(nix::libc::SYS_io_destroy, self.0) };
    }
}

/// Sends what fits now, and says nothing of it.
#[allow(unsafe_code, reason = "the connection is known by its number")]
pub(super) fn send_at_once(fd: RawFd, bytes: &[u8]) {
    // SAFETY: who handed the write over keeps the connection open until the ticket is gone.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}
