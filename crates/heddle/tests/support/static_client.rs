//! A program such as Go makes them: linked statically, with a resolver of its own, and blind to `HTTP_PROXY`.
//! `static_client HOST PORT` asks the first server of `/etc/resolv.conf` for HOST, connects, and prints the answer's body.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

fn address(host: &str) -> Ipv4Addr {
    let file = std::fs::read_to_string("/etc/resolv.conf").expect("there is a resolv.conf");
    let server = file.lines().find_map(|line| line.strip_prefix("nameserver ")).expect("it names a server").trim();
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    socket.connect((server, 53)).expect("a way to the server");
    socket.send(&question).expect("it is sent");
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).expect("an answer");
    assert!(answer[3] & 15 == 0 && answer[7] == 1, "{:?}", &answer[..length]);
    // One record, which ends in four bytes of address.
    let bytes: [u8; 4] = answer[length - 4..length].try_into().expect("four bytes");
    bytes.into()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (host, port) = (&arguments[1], arguments[2].parse::<u16>().expect("a port"));
    let address = address(host);
    let mut stream = TcpStream::connect((address, port)).expect("a connection");
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    println!("{address} {} {body}", head.lines().next().unwrap_or_default());
}
