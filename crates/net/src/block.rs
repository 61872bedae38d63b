//! The loopback addresses of a mesh on one machine: `127.N.0.0/16`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;

use crate::listen::abstract_lock;

/// The smallest `N`. Lower ones are used by others: `127.0.0.1` by everybody, `127.0.1.1` by Debian for the host's name.
pub const FIRST: u8 = 16;
/// The largest `N`.
pub const LAST: u8 = 250;

/// A block that is ours until this is dropped or the process ends.
#[derive(Debug)]
pub struct Block {
    second_octet: u8,
    _lock: UnixDatagram,
}

/// Why no block could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every one is held.
    #[error(
        "all 235 blocks from 127.{FIRST}.0.0/16 to 127.{LAST}.0.0/16 are held by other meshes on this machine; end one of them"
    )]
    AllHeld,
    /// The system refused the lock.
    #[error("locking a block of loopback addresses: {0}")]
    Io(#[from] io::Error),
}

/// The `N` of the block that `seed` gets if nobody else holds it.
pub fn preferred(seed: &str) -> u8 {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    let offset = hasher.finish() % (u64::from(LAST - FIRST) + 1);
    FIRST + u8::try_from(offset).expect("there are fewer than 256 blocks")
}

/// Claims a free block. The same `seed` (the mesh's name) gets the same one as long as nobody else holds it.
///
/// # Errors
/// See [`Error`].
pub fn claim(seed: &str) -> Result<Block, Error> {
    let first = preferred(seed);
    for second_octet in (first..=LAST).chain(FIRST..first) {
        if let Some(lock) = abstract_lock(&format!("heddle-block-127.{second_octet}"))? {
            return Ok(Block { second_octet, _lock: lock });
        }
    }
    Err(Error::AllHeld)
}

impl Block {
    /// The `N` of `127.N.0.0/16`.
    pub fn second_octet(&self) -> u8 {
        self.second_octet
    }

    /// The `host`-th address of the block: `127.N.host/256.host%256`.
    pub fn address(&self, host: u16) -> Ipv4Addr {
        let [third, fourth] = host.to_be_bytes();
        Ipv4Addr::new(127, self.second_octet, third, fourth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_two_meshes_of_one_name_different_blocks_and_a_freed_one_again() {
        let seed = format!("block-test-{}", std::process::id());
        let one = claim(&seed).unwrap();
        let two = claim(&seed).unwrap();
        assert_ne!(one.second_octet(), two.second_octet());
        assert!((FIRST..=LAST).contains(&one.second_octet()));
        let octet = one.second_octet();
        assert_eq!(one.address(258), Ipv4Addr::new(127, octet, 1, 2));
        drop(one);
        assert_eq!(claim(&seed).unwrap().second_octet(), octet);
    }
}
