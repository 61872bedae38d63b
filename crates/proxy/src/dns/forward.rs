//! Questions for others: the servers that this machine asks.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one server may take: all of them together must have had their turn when clients give up, after five seconds.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Servers that are asked, one after the other, as the system's resolver does (MAXNS).
const SERVERS: usize = 3;

/// The port of DNS.
const PORT: u16 = 53;

/// Longest datagram that there can be. What was cut off would look like a whole answer; how long one may be, the client says
/// itself (RFC 6891, 6.2.3).
const DATAGRAM: usize = 65_535;

/// Length of a message's header.
const HEADER: usize = 12;

/// Codes of answers that are no answers, so that the next server is asked, as the system's resolver does: SERVFAIL, NOTIMP and
/// REFUSED (RFC 1035, 4.1.1).
const NOT_ANSWERED: [u8; 3] = [2, 4, 5];

/// Whether `answer`, one of [`Servers::ask`], says that there is no such name (NXDOMAIN; RFC 1035, 4.1.1).
pub(super) fn denies(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| flags & 0x0f == 3)
}

/// This machine's servers.
pub(super) struct Servers {
    file: PathBuf,
    read: Mutex<Read>,
}

/// What was read, and when the file was written then.
#[derive(Default)]
struct Read {
    done: bool,
    written: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Servers {
    /// Those that `file` names.
    pub(super) fn new(file: PathBuf) -> Servers {
        Servers { file, read: Mutex::default() }
    }

    /// These, whatever any file says.
    #[cfg(test)]
    pub(super) fn fixed(servers: Vec<SocketAddr>) -> Servers {
        Servers { file: PathBuf::new(), read: Mutex::new(Read { done: true, written: None, servers }) }
    }

    /// The first answer that a server has to `question`, else what the first said that refused one; none when no one says
    /// anything.
    pub(super) async fn ask(&self, question: &[u8], stream: bool) -> Option<Vec<u8>> {
        let mut refused = None;
        for server in self.current() {
            let asking = async {
                match stream {
                    true => over_tcp(server, question).await,
                    false => over_udp(server, question).await,
                }
            };
            match tokio::time::timeout(PATIENCE, asking).await {
                Ok(Ok(answer)) if NOT_ANSWERED.contains(&(answer[3] & 0x0f)) => refused = refused.or(Some(answer)),
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a server of names does not answer"),
                Err(_) => tracing::debug!(%server, "a server of names does not answer within {PATIENCE:?}"),
            }
        }
        refused
    }

    /// The servers as the file names them now: a laptop changes networks.
    fn current(&self) -> Vec<SocketAddr> {
        let written = std::fs::metadata(&self.file).and_then(|file| file.modified()).ok();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if !read.done || read.written != written {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            *read = Read { done: true, written, servers: servers(&text) };
        }
        read.servers.clone()
    }
}

/// The servers of a resolv.conf(5); this machine where it names none, as the system's resolver has it.
fn servers(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        // A zone is the number or the name of a device; without it a link-local address cannot be reached.
        Some(SocketAddr::new(server.parse().ok()?, PORT))
    });
    let servers: Vec<SocketAddr> = named.take(SERVERS).collect();
    match servers.is_empty() {
        true => vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)],
        false => servers,
    }
}

/// Asks from a port of its own under a number of its own, so that nobody else can know what an answer must look like.
async fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let own = (RandomState::new().hash_one(()) as u16).to_be_bytes();
    let mut asked = question.to_vec();
    asked[..2].copy_from_slice(&own);
    socket.send(&asked).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        let is_ours = length >= HEADER && answer[..2] == own && answer[2] & 0x80 != 0;
        if is_ours {
            answer.truncate(length);
            answer[..2].copy_from_slice(&question[..2]);
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut asked = length.to_be_bytes().to_vec();
    asked.extend_from_slice(question);
    stream.write_all(&asked).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    match answer.len() >= HEADER && answer[..2] == question[..2] {
        true => Ok(answer),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_system_reads_them() {
        let text = "# nameserver 9.9.9.9\nsearch a\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    nameserver x\nnameserver 10.0.0.2 # two\nnameserver 10.0.0.3\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"]);
        assert_eq!(servers(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let others = Servers::new(file.clone());
        assert_eq!(others.current(), ["127.0.0.1:53".parse().unwrap()], "there is none yet");
        std::fs::write(&file, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(others.current(), ["10.0.0.1:53".parse().unwrap()]);
    }
}
