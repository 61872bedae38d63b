//! Requests to the kernel over netlink(7), as far as a namespace needs them: [`route`] and [`nft`].
//!
//! Written here because it is little: the libraries that exist bring a runtime of their own, need a C library, or start the
//! `nft` program, which need not be installed.

pub(crate) mod nft;
pub(crate) mod route;

use std::io;
use std::os::fd::OwnedFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Length of `struct nlmsghdr` and of the part of `struct nlmsgerr` before the request.
const HEADER: usize = 16;

/// Bit of an attribute's type that says that its value is attributes.
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// A request that is being written.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// One of type `kind`, with `flags` besides "request", numbered `sequence`; `fixed` comes before the attributes.
    pub(crate) fn new(kind: u16, flags: i32, sequence: u32, fixed: &[u8]) -> Request {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).expect("netlink flags are 16 bits");
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(fixed);
        let mut request = Request { bytes };
        request.pad();
        request
    }

    /// Adds an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes here are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Adds a name, with the zero at its end.
    pub(crate) fn put_name(&mut self, kind: u16, name: &str) {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value);
    }

    /// Adds a number in network order, as nf_tables has them.
    pub(crate) fn put_be(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Adds an attribute whose value is the attributes that `fill` adds.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Request)) {
        let start = self.bytes.len();
        self.put(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes here are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The request with its length.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a request is short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// A conversation with one part of the kernel.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens one.
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Socket> {
        Ok(Socket(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Sends `requests`, of which `asked` want to be acknowledged, and waits until they are. The first refusal ends it.
    pub(crate) fn transact(&self, requests: &[u8], mut asked: usize) -> io::Result<()> {
        nix::unistd::write(&self.0, requests)?;
        let mut buffer = vec![0; 32 * 1024];
        while asked > 0 {
            let n = nix::unistd::read(&self.0, &mut buffer)?;
            let mut rest = &buffer[..n];
            while let Some((kind, payload, next)) = split(rest) {
                rest = next;
                if i32::from(kind) != libc::NLMSG_ERROR {
                    continue;
                }
                let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
                asked = asked.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// Type and payload of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let payload = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, payload, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut request = Request::new(24, libc::NLM_F_ACK, 7, &[9, 9]);
        request.put_name(1, "lo");
        request.nest(4, |list| list.put_be(2, 0x0102_0304));
        let bytes = request.finish();
        let mut expected = Vec::new();
        expected.extend_from_slice(&40_u32.to_ne_bytes());
        expected.extend_from_slice(&24_u16.to_ne_bytes());
        expected.extend_from_slice(&5_u16.to_ne_bytes());
        expected.extend_from_slice(&7_u32.to_ne_bytes());
        expected.extend_from_slice(&[0, 0, 0, 0, 9, 9, 0, 0]);
        expected.extend_from_slice(&7_u16.to_ne_bytes());
        expected.extend_from_slice(&1_u16.to_ne_bytes());
        expected.extend_from_slice(b"lo\0\0");
        expected.extend_from_slice(&12_u16.to_ne_bytes());
        expected.extend_from_slice(&0x8004_u16.to_ne_bytes());
        expected.extend_from_slice(&8_u16.to_ne_bytes());
        expected.extend_from_slice(&2_u16.to_ne_bytes());
        expected.extend_from_slice(&[1, 2, 3, 4]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn answers_that_are_cut_off_are_not_read() {
        let whole = Request::new(2, 0, 1, &[1, 2, 3, 4]).finish();
        let (kind, payload, rest) = split(&whole).unwrap();
        assert_eq!((kind, payload, rest), (2, &[1_u8, 2, 3, 4][..], &[][..]));
        for end in 0..whole.len() {
            assert_eq!(split(&whole[..end]), None, "{end}");
        }
        assert_eq!(split(&[0; 16]), None, "a length below the header's");
    }

    #[test]
    fn a_refusal_is_an_error() {
        // Whoever runs this, there is no device of this number.
        let socket = Socket::open(SockProtocol::NetlinkRoute).unwrap();
        assert!(route::up(&socket, 0x7fff_ffff).is_err());
    }
}
