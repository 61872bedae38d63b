//! Descriptors handed from one process to another over a Unix socket (SCM_RIGHTS, unix(7)).
//!
//! The sockets are of type SOCK_SEQPACKET: a message arrives as a whole, with the descriptors that were sent with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, recvmsg, sendmsg, socket_with,
    socketpair, sockopt,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::process::Command;

/// Most descriptors of one message. The kernel's own limit (SCM_MAX_FD) is 253.
pub const DESCRIPTORS: usize = 64;

/// Name of a [`Door`] in its directory.
const DOOR: &str = "replace.sock";

/// Longest message, bytes.
pub const MESSAGE: usize = 16 * 1024;

/// A message, and the descriptors that came with it.
#[derive(Debug, Default)]
pub struct Message {
    /// What was said; empty when the other end is gone.
    pub bytes: Vec<u8>,
    /// Ours now.
    pub descriptors: Vec<OwnedFd>,
}

/// Two connected sockets; neither is inherited by children.
///
/// # Errors
/// No descriptor is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends `bytes` with `descriptors`, without waiting for room.
///
/// # Errors
/// The other end is gone, or reads nothing and its buffer is full (`WouldBlock`).
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS || bytes.is_empty() || bytes.len() > MESSAGE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message; `Message::bytes` is empty at the end. Waits for one unless the socket does not block.
///
/// # Errors
/// What the system says. Of a message that is cut off because it is too long, nothing is kept.
pub fn receive(socket: impl AsFd) -> io::Result<Message> {
    let mut bytes = vec![0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(several) = message {
            descriptors.extend(several);
        }
    }
    let cut = rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC;
    if received.flags.intersects(cut) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message with descriptors was cut off"));
    }
    bytes.truncate(received.bytes);
    Ok(Message { bytes, descriptors })
}

/// One end, waited for by a runtime; the runtime's type is the nearest there is, and is only asked to wait.
#[derive(Debug)]
pub struct Channel(UnixDatagram);

impl Channel {
    /// Takes over a socket of [`pair`]. Call it inside the runtime that will wait for it. Every holder of the same socket
    /// sees it not block from now on.
    ///
    /// # Errors
    /// It is no socket that can be waited for.
    pub fn new(socket: OwnedFd) -> io::Result<Channel> {
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Channel(UnixDatagram::from_std(socket)?))
    }

    /// See [`send`].
    ///
    /// # Errors
    /// See [`send`].
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.0, bytes, descriptors)
    }

    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// See [`receive`].
    pub async fn receive(&self) -> io::Result<Message> {
        self.0.async_io(Interest::READABLE, || receive(&self.0)).await
    }
}

/// Where a process that is to be replaced is found: a socket in a directory that only its user may enter.
#[derive(Debug)]
pub struct Door(UnixDatagram);

impl Door {
    /// Opens one in `directory`, in place of one that is there. Call it inside the runtime that will wait at it.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn open(directory: &Path) -> io::Result<Door> {
        let (folder, name) = short(directory)?;
        let socket = seqpacket()?;
        match std::fs::remove_file(directory.join(DOOR)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        bind(&socket, &SocketAddrUnix::new(&name)?)?;
        rustix::net::listen(&socket, 1)?;
        drop(folder);
        // As for `Channel`, the runtime's type only waits.
        Ok(Door(UnixDatagram::from_std(socket.into())?))
    }

    /// The next process that comes. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<Channel> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Channel::new(self.0.async_io(Interest::READABLE, || Ok(accept_with(&self.0, flags)?)).await?)
    }
}

/// Goes to the process whose [`Door`] is in `directory`. Call it inside the runtime that will wait for what it says.
///
/// # Errors
/// There is none, or it has ended.
pub fn knock(directory: &Path) -> io::Result<Channel> {
    let (_folder, name) = short(directory)?;
    let socket = seqpacket()?;
    connect(&socket, &SocketAddrUnix::new(&name)?)?;
    Channel::new(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

/// A path of the door that is short whatever the directory's is: a socket's may have 108 bytes. It holds while the file is open.
fn short(directory: &Path) -> io::Result<(std::fs::File, String)> {
    let folder = std::fs::File::open(directory)?;
    let name = format!("/proc/self/fd/{}/{DOOR}", folder.as_raw_fd());
    Ok((folder, name))
}

/// Lets `command`'s process inherit `descriptor` under its own number, which is returned for the command line. It is held by
/// `command`, and inherited by none of our other children.
#[allow(unsafe_code, reason = "pre_exec has no safe form; argued at its use")]
pub fn inherit(command: &mut Command, descriptor: OwnedFd) -> RawFd {
    let number = descriptor.as_raw_fd();
    let keep = move || {
        fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: `keep` runs between fork and exec, where only async-signal-safe work is allowed: it makes one system call on a
    // descriptor that it owns, and an `io::Error` made of an errno allocates nothing.
    unsafe { command.pre_exec(keep) };
    number
}

/// The descriptor that whoever started this process handed over by [`inherit`]. Call it at most once a number, before
/// anything else is opened.
///
/// # Errors
/// There is no socket of that number.
#[allow(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= nix::libc::STDERR_FILENO {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} is not a socket's")));
    }
    // SAFETY: the caller promises that nothing of this process has opened a descriptor yet, so whatever has this number came
    // from the process that started this one and belongs to nobody here. If there is none, or it is something else, the check
    // below fails, and the number is given up unclosed.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    match sockopt::socket_type(&descriptor) {
        Ok(SocketType::SEQPACKET) => {
            fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            Ok(descriptor)
        }
        Ok(_) | Err(_) => {
            let _ = descriptor.into_raw_fd();
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} is not a hand-over socket")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_come_with_their_message() {
        let (ours, theirs) = pair().unwrap();
        let (mut left, right) = UnixStream::pair().unwrap();
        send(&ours, b"first", &[right.as_fd()]).unwrap();
        send(&ours, b"second", &[]).unwrap();
        drop(right);
        let first = receive(&theirs).unwrap();
        assert_eq!(first.bytes, b"first");
        let [descriptor] = <[OwnedFd; 1]>::try_from(first.descriptors).unwrap();
        left.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(descriptor).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        let second = receive(&theirs).unwrap();
        assert!(second.bytes == b"second" && second.descriptors.is_empty());
        drop(ours);
        assert!(receive(&theirs).unwrap().bytes.is_empty());
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_directory_however_long_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("d".repeat(120));
        std::fs::create_dir(&directory).unwrap();
        assert!(knock(&directory).is_err(), "nobody is there");
        let old = Door::open(&directory).unwrap();
        let door = Door::open(&directory).unwrap();
        drop(old);
        let theirs = knock(&directory).unwrap();
        let ours = door.accept().await.unwrap();
        theirs.send(b"hello", &[]).unwrap();
        assert_eq!(ours.receive().await.unwrap().bytes, b"hello");
        drop(door);
        assert!(knock(&directory).is_err(), "it has gone");
    }

    #[test]
    fn more_than_fits_is_refused() {
        let (ours, _theirs) = pair().unwrap();
        let many = vec![ours.as_fd(); DESCRIPTORS + 1];
        assert_eq!(send(&ours, b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&ours, &[0; MESSAGE + 1], &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&ours, b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_child_inherits_what_it_is_given_and_nobody_else_does() {
        let (ours, theirs) = pair().unwrap();
        let channel = Channel::new(ours).unwrap();
        let mut command = Command::new("sh");
        let number = inherit(&mut command, theirs);
        command.arg("-c").arg(format!("readlink /proc/self/fd/{number} >/dev/null")).kill_on_drop(true);
        assert!(command.status().await.unwrap().success());
        let other = Command::new("readlink").arg(format!("/proc/self/fd/{number}")).output().await.unwrap();
        assert!(!other.status.success());
        drop(command);
        assert!(channel.receive().await.unwrap().bytes.is_empty(), "the last holder of the other end is gone");
    }

    #[test]
    fn a_number_that_is_no_hand_over_socket_is_refused() {
        assert!(inherited(0).is_err());
        assert!(inherited(9_999).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(inherited(file.as_raw_fd()).is_err());
        file.metadata().expect("it was not closed");
    }
}
