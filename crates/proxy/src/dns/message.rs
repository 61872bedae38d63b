//! Questions and answers (RFC 1035, with EDNS as in RFC 6891).

use std::net::IpAddr;

use simple_dns::rdata::{A, AAAA, OPT, RData, SOA};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};

/// How long an answer may be kept, seconds: an instance or a service that has changed is seen soon. CoreDNS says the same for a
/// cluster.
const TTL: u32 = 5;

/// What fits a datagram where the client does not say (RFC 1035, 4.2.1).
const DATAGRAM: u16 = 512;

/// What we say that we take in a datagram (the size that DNS servers agreed on in 2020).
const OWN_DATAGRAM: u16 = 1_232;

/// Length of a message's header.
const HEADER: usize = 12;

/// One question.
pub(super) struct Question<'a> {
    /// What it is about, in lower case without a final dot.
    pub(super) name: String,
    packet: Packet<'a>,
}

/// What is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer<'a> {
    /// The name means these.
    Addresses(&'a [IpAddr]),
    /// There is no such name.
    NoSuchName,
    /// Nobody knows now.
    Failure,
}

impl Question<'_> {
    /// Reads a message. `Err`: what is to be said to it, if anything.
    pub(super) fn read(bytes: &[u8]) -> Result<Question<'_>, Option<Vec<u8>>> {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            // Of what is not understood the number is repeated, unless it is an answer.
            Err(_) if bytes.len() >= HEADER && bytes[2] & 0x80 == 0 => {
                let mut reply = Packet::new_reply(u16::from_be_bytes([bytes[0], bytes[1]]));
                *reply.rcode_mut() = RCODE::FormatError;
                return Err(reply.build_bytes_vec().ok());
            }
            Err(_) => return Err(None),
        };
        if packet.has_flags(PacketFlag::RESPONSE) {
            return Err(None);
        }
        let problem = match (packet.opcode(), packet.questions.as_slice()) {
            (OPCODE::StandardQuery, [_]) => None,
            (OPCODE::StandardQuery, _) => Some(RCODE::FormatError),
            _ => Some(RCODE::NotImplemented),
        };
        if let Some(problem) = problem {
            let mut reply = Packet::new_reply(packet.id());
            *reply.rcode_mut() = problem;
            return Err(reply.build_bytes_vec().ok());
        }
        let name = packet.questions[0].qname.to_string().to_ascii_lowercase();
        Ok(Question { name, packet })
    }

    /// Whether addresses of IPv6 alone are asked for.
    pub(super) fn wants_v6(&self) -> bool {
        self.packet.questions[0].qtype == QTYPE::TYPE(TYPE::AAAA)
    }

    /// The message that says `answer`, cut off at what the client takes unless it goes over a stream.
    pub(super) fn answer(&self, answer: Answer<'_>, stream: bool) -> Vec<u8> {
        let mut reply = self.reply();
        match answer {
            Answer::Addresses(addresses) => {
                reply.answers = self.records(addresses);
                if reply.answers.is_empty() {
                    reply.name_servers.push(authority());
                }
            }
            Answer::NoSuchName => {
                *reply.rcode_mut() = RCODE::NameError;
                reply.name_servers.push(authority());
            }
            Answer::Failure => *reply.rcode_mut() = RCODE::ServerFailure,
        }
        let bytes = written(&reply);
        let most = self.packet.opt().map_or(DATAGRAM, |opt| opt.udp_packet_size.max(DATAGRAM));
        if stream || bytes.len() <= most.into() {
            return bytes;
        }
        // The client asks again over TCP.
        let mut short = self.reply();
        short.set_flags(PacketFlag::TRUNCATION);
        written(&short)
    }

    /// An empty answer to this question.
    fn reply(&self) -> Packet<'_> {
        let mut reply = Packet::new_reply(self.packet.id());
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::AUTHORITATIVE_ANSWER);
        if self.packet.has_flags(PacketFlag::RECURSION_DESIRED) {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        reply.questions.clone_from(&self.packet.questions);
        if self.packet.opt().is_some() {
            *reply.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: OWN_DATAGRAM, version: 0 });
        }
        reply
    }

    /// Those of `addresses` that are asked for.
    fn records(&self, addresses: &[IpAddr]) -> Vec<ResourceRecord<'_>> {
        let question = &self.packet.questions[0];
        if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
            return Vec::new();
        }
        let (v4, v6) = match question.qtype {
            QTYPE::TYPE(TYPE::A) => (true, false),
            QTYPE::TYPE(TYPE::AAAA) => (false, true),
            QTYPE::ANY => (true, true),
            _ => (false, false),
        };
        let wanted = addresses.iter().filter(|address| if address.is_ipv4() { v4 } else { v6 });
        let record = |address: &IpAddr| {
            let data = match address {
                IpAddr::V4(address) => RData::A(A::from(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA::from(*address)),
            };
            ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data)
        };
        wanted.map(record).collect()
    }
}

/// Who says that there is nothing, and for how long (RFC 2308, 5).
fn authority<'a>() -> ResourceRecord<'a> {
    let soa = SOA {
        mname: Name::new_unchecked("ns.dns.cluster.local"),
        rname: Name::new_unchecked("hostmaster.cluster.local"),
        serial: 1,
        refresh: 7_200,
        retry: 1_800,
        expire: 86_400,
        minimum: TTL,
    };
    ResourceRecord::new(Name::new_unchecked("cluster.local"), CLASS::IN, TTL, RData::SOA(soa))
}

fn written(reply: &Packet<'_>) -> Vec<u8> {
    reply.build_bytes_vec_compressed().expect("names that were read or are our own can be written, and memory takes it")
}
