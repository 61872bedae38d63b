use std::collections::HashMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;

use engine::balance::{Backend, Dial, Endpoint, EndpointSet, Load, Locality};
use engine::edit::HeaderEdits;
use engine::policy::{BalancePolicy, TrafficPolicy};
use engine::retry::RetryBudget;
use engine::route::{Backends, Rule};
use engine::snapshot::{DestinationPort, Slot, TcpRule};
use engine::{Protocol, SeriesId};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, TYPE};

use super::*;

/// Names that nobody says anything of.
const SILENT: [&str; 3] = ["silent", "silent.example.org", "silent.shop"];

/// Knows some names, says that there are no others, and says nothing of [`SILENT`] ones.
struct Names {
    known: HashMap<&'static str, Arc<Slot>>,
    alone: bool,
}

impl Discover for Names {
    fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        let slot = self.known.get(name).cloned().unwrap_or_default();
        if !SILENT.contains(&name) && !self.known.contains_key(name) {
            slot.set(Resolution::NotFound);
        }
        Some(slot)
    }

    fn alone(&self) -> bool {
        self.alone
    }

    fn backends(&self) -> Vec<Arc<Backend>> {
        Vec::new()
    }

    fn resolved(&self, name: &str, _: Arc<Slot>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        assert!(SILENT.contains(&name), "{name}: every other name is known at once");
        Box::pin(std::future::pending())
    }
}

fn endpoint(host: u8, health: Health) -> Arc<Endpoint> {
    let address = Ipv4Addr::new(127, 16, 0, host);
    Arc::new(Endpoint {
        workload: format!("shop/db-{host:03}").into(),
        address: address.into(),
        dial: Dial::Plain((address, 5432).into()),
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        health,
        load: Load::new(),
    })
}

fn destination(addresses: &[&str], endpoints: Vec<Arc<Endpoint>>) -> Resolution {
    let set = EndpointSet::new(endpoints, BalancePolicy::default(), &Locality::default());
    let backend = Arc::new(Backend::new("shop/db", 5432, Protocol::Tcp, set));
    let policy = Arc::new(TrafficPolicy::default());
    let none = || Backends { list: [].into_iter().collect(), total: 0 };
    let implicit = Rule {
        name: "".into(),
        redirect: None,
        rewrite: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        backends: none(),
        budget: Arc::new(RetryBudget::new(&policy.retry)),
        policy: Arc::clone(&policy),
        series: SeriesId(0),
    };
    let tcp = TcpRule { name: "".into(), backends: none(), policy, series: SeriesId(0) };
    let port = DestinationPort {
        port: 5432,
        protocol: Protocol::Tcp,
        http: None,
        tcp: Arc::new(tcp),
        implicit: Arc::new(implicit),
        backend,
    };
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Resolution::Found(Arc::new(Destination { name: "shop/db".into(), addresses, ports: vec![port] }))
}

fn server(others: Servers) -> Server {
    server_of(others, false)
}

/// A server that has no control plane.
fn alone(others: Servers) -> Server {
    server_of(others, true)
}

fn server_of(others: Servers, alone: bool) -> Server {
    let slot = |resolution| {
        let slot = Arc::new(Slot::default());
        slot.set(resolution);
        slot
    };
    let some = vec![endpoint(1, Health::Ready), endpoint(2, Health::NotReady), endpoint(3, Health::Ready)];
    let many = (1..=200).map(|host| endpoint(host, Health::Ready)).collect();
    let known = HashMap::from([
        ("cart.shop.svc.cluster.local", slot(destination(&["240.1.2.3"], Vec::new()))),
        ("cart", slot(destination(&["240.1.2.3", "fd00::3"], Vec::new()))),
        ("db", slot(destination(&[], some))),
        ("many", slot(destination(&[], many))),
    ]);
    Server {
        discover: Arc::new(Names { known, alone }),
        clock: Clock::start(),
        workload: "shop/cart-0".to_owned(),
        drain: net::drain::channel().1,
        others,
        slots: Arc::new(Semaphore::new(QUESTIONS)),
        turn: AtomicUsize::new(0),
    }
}

fn nobody() -> Servers {
    Servers::fixed(vec![])
}

/// What starts such a server with these sockets.
fn options(server: Server, udp: Vec<UdpSocket>, tcp: Vec<TcpListener>) -> Options {
    let Server { discover, clock, workload, drain, .. } = server;
    Options { udp, tcp, discover, clock, workload, drain, resolv_conf: "/nonexistent".into() }
}

fn question(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).unwrap();
    packet.questions.push(simple_dns::Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().unwrap()
}

fn addresses(packet: &Packet<'_>) -> Vec<String> {
    let of = |data: &RData<'_>| match data {
        RData::A(a) => Ipv4Addr::from(a.address).to_string(),
        RData::AAAA(a) => std::net::Ipv6Addr::from(a.address).to_string(),
        other => panic!("{other:?}"),
    };
    packet.answers.iter().map(|record| of(&record.rdata)).collect()
}

async fn ask(server: &Server, name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
    let bytes = server.answer(&question(name, kind), false).await.unwrap();
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.id(), 77);
    assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
    assert_eq!(packet.questions.len(), 1);
    (packet.rcode(), addresses(&packet))
}

#[tokio::test]
async fn a_service_means_its_address_in_every_form() {
    let server = server(nobody());
    let found = (RCODE::NoError, vec!["240.1.2.3".to_owned()]);
    assert_eq!(ask(&server, "cart.shop.svc.cluster.local", TYPE::A).await, found);
    assert_eq!(ask(&server, "Cart", TYPE::A).await, found, "names have no case");
    assert_eq!(ask(&server, "cart", TYPE::AAAA).await, (RCODE::NoError, vec!["fd00::3".to_owned()]));
    // The name exists, though it has nothing of this kind: NXDOMAIN would end the search for its other addresses.
    assert_eq!(ask(&server, "cart.shop.svc.cluster.local", TYPE::AAAA).await, (RCODE::NoError, vec![]));
    assert_eq!(ask(&server, "cart", TYPE::TXT).await, (RCODE::NoError, vec![]));
    assert_eq!(ask(&server, "localhost", TYPE::A).await, (RCODE::NoError, vec!["127.0.0.1".to_owned()]));
}

#[tokio::test]
async fn a_headless_service_means_its_ready_instances_in_turn() {
    let server = server(nobody());
    assert_eq!(ask(&server, "db", TYPE::A).await.1, ["127.16.0.1", "127.16.0.3"]);
    assert_eq!(ask(&server, "db", TYPE::A).await.1, ["127.16.0.3", "127.16.0.1"]);
}

#[tokio::test]
async fn names_that_only_the_mesh_can_have_are_known_not_to_be() {
    let server = server(nobody());
    for name in ["none.shop.svc.cluster.local", "none.shop.svc", "x.cluster.local", "3.2.1.240.in-addr.arpa"] {
        assert_eq!(ask(&server, name, TYPE::A).await, (RCODE::NameError, vec![]), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobodys_word_is_no_answer_of_not_found() {
    let server = server(nobody());
    assert_eq!(ask(&server, "silent", TYPE::A).await.0, RCODE::ServerFailure);
    assert_eq!(ask(&server, "example.org", TYPE::A).await.0, RCODE::ServerFailure, "no server answers");
}

#[tokio::test]
async fn without_a_control_plane_others_say_what_a_foreign_name_is_but_not_that_it_is_nothing() {
    let found = says(RCODE::NoError, 1).await;
    let server = alone(Servers::fixed(vec![found]));
    assert_eq!(ask(&server, "silent.example.org", TYPE::A).await.0, RCODE::NoError);
    for own in ["silent", "silent.shop"] {
        assert_eq!(ask(&server, own, TYPE::A).await.0, RCODE::ServerFailure, "{own} may be the mesh's");
    }
    let server = alone(Servers::fixed(vec![says(RCODE::NameError, 0).await]));
    assert_eq!(ask(&server, "silent.example.org", TYPE::A).await.0, RCODE::ServerFailure, "the mesh may have it");
    let server = alone(Servers::fixed(vec![says(RCODE::NameError, 0).await]));
    assert_eq!(ask(&server, "example.org", TYPE::A).await.0, RCODE::NameError, "the mesh has said that it has not");
}

#[tokio::test]
async fn other_names_are_asked_of_others_under_another_number() {
    let other = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = server(Servers::fixed(vec![other.local_addr().unwrap()]));
    let answering = async {
        let mut buffer = [0; 512];
        let (length, from) = other.recv_from(&mut buffer).await.unwrap();
        let asked = Packet::parse(&buffer[..length]).unwrap();
        assert_eq!(asked.questions[0].qname.to_string(), "example.org");
        // Whoever guesses wrong is not heard.
        let wrong = Packet::new_reply(asked.id().wrapping_add(1)).build_bytes_vec().unwrap();
        other.send_to(&wrong, from).await.unwrap();
        let mut answer = asked.clone().into_reply();
        *answer.rcode_mut() = RCODE::NameError;
        answer.set_flags(PacketFlag::RECURSION_DESIRED);
        other.send_to(&answer.build_bytes_vec().unwrap(), from).await.unwrap();
    };
    let ((code, _), ()) = tokio::join!(ask(&server, "example.org", TYPE::A), answering);
    assert_eq!(code, RCODE::NameError);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_is_followed_by_the_next() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = server(Servers::fixed(vec![silent.local_addr().unwrap(); 2]));
    let began = tokio::time::Instant::now();
    assert_eq!(ask(&server, "example.org", TYPE::A).await.0, RCODE::ServerFailure);
    assert!(began.elapsed() < Duration::from_secs(5), "before the client gives up: {:?}", began.elapsed());
}

/// Answers one question with `code`, and with `answers` addresses.
async fn says(code: RCODE, answers: u16) -> SocketAddr {
    let other = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (length, from) = other.recv_from(&mut buffer).await.unwrap();
        let mut answer = Packet::parse(&buffer[..length]).unwrap().into_reply();
        *answer.rcode_mut() = code;
        answer.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new_unchecked("example.org");
        for number in 0..answers {
            let data = RData::A(simple_dns::rdata::A { address: 0xc000_0200 + u32::from(number) });
            answer.answers.push(simple_dns::ResourceRecord::new(name.clone(), CLASS::IN, 60, data));
        }
        other.send_to(&answer.build_bytes_vec().unwrap(), from).await.unwrap();
    });
    address
}

#[tokio::test]
async fn a_server_that_refuses_is_followed_by_the_next() {
    for code in [RCODE::ServerFailure, RCODE::NotImplemented, RCODE::Refused] {
        let server = server(Servers::fixed(vec![says(code, 0).await, says(RCODE::NoError, 1).await]));
        let found = (RCODE::NoError, vec!["192.0.2.0".to_owned()]);
        assert_eq!(ask(&server, "example.org", TYPE::A).await, found, "{code:?}");
    }
    // That there is no such name is an answer.
    let server = server(Servers::fixed(vec![says(RCODE::NameError, 0).await, says(RCODE::NoError, 1).await]));
    assert_eq!(ask(&server, "example.org", TYPE::A).await.0, RCODE::NameError);
}

#[tokio::test]
async fn who_refuses_is_heard_when_nobody_answers() {
    let server = server(Servers::fixed(vec![says(RCODE::Refused, 0).await, says(RCODE::ServerFailure, 0).await]));
    assert_eq!(ask(&server, "example.org", TYPE::A).await.0, RCODE::Refused);
}

#[tokio::test]
async fn a_long_datagram_is_not_cut() {
    let server = server(Servers::fixed(vec![says(RCODE::NoError, 1_000).await]));
    assert_eq!(ask(&server, "example.org", TYPE::A).await.1.len(), 1_000);
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_comes_over_tcp() {
    let server = server(nobody());
    let bytes = server.answer(&question("many", TYPE::A), false).await.unwrap();
    let packet = Packet::parse(&bytes).unwrap();
    assert!(bytes.len() <= 512 && packet.has_flags(PacketFlag::TRUNCATION) && packet.answers.is_empty());
    let bytes = server.answer(&question("many", TYPE::A), true).await.unwrap();
    assert_eq!(Packet::parse(&bytes).unwrap().answers.len(), ADDRESSES);
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_not_answered() {
    let server = server(nobody());
    assert_eq!(server.answer(b"", false).await, None);
    assert_eq!(server.answer(&[0; 11], false).await, None);
    let mut answer = question("cart", TYPE::A);
    answer[2] |= 0x80;
    assert_eq!(server.answer(&answer, false).await, None, "two servers would answer each other for ever");
    let rcode = |bytes: Vec<u8>| Packet::parse(&bytes).unwrap().rcode();
    let mut cut_off = question("cart", TYPE::A);
    cut_off.truncate(15);
    assert_eq!(rcode(server.answer(&cut_off, false).await.unwrap()), RCODE::FormatError);
    assert_eq!(
        rcode(server.answer(&Packet::new_query(1).build_bytes_vec().unwrap(), false).await.unwrap()),
        RCODE::FormatError
    );
    let mut update = question("cart", TYPE::A);
    update[2] = 5 << 3;
    assert_eq!(rcode(server.answer(&update, false).await.unwrap()), RCODE::NotImplemented);
}

#[tokio::test]
async fn questions_come_one_after_the_other_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = server(nobody());
    start(options(server, Vec::new(), vec![listener])).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let question = question("cart", TYPE::A);
        stream.write_u16(question.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(addresses(&Packet::parse(&answer).unwrap()), ["240.1.2.3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_question_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = server(nobody());
    start(options(server, Vec::new(), vec![listener])).unwrap();
    let mut idle = Vec::new();
    for _ in 0..=CONNECTIONS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    // The last one waits until another is closed, and is answered then.
    let mut last = idle.pop().unwrap();
    let question = question("cart", TYPE::A);
    last.write_u16(question.len().try_into().unwrap()).await.unwrap();
    last.write_all(&question).await.unwrap();
    assert!(last.read_u16().await.unwrap() > 0);
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_beyond_the_limit_are_dropped_over_udp_and_wait_over_tcp() {
    let server = Arc::new(server(nobody()));
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(socket.local_addr().unwrap()).await.unwrap();
    tokio::spawn(Arc::clone(&server).datagrams(Arc::new(socket)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let serving = Arc::clone(&server);
    tokio::spawn(async move { serving.connection(accepted).await });

    let under_way = server.slots.acquire_many(QUESTIONS.try_into().unwrap()).await.unwrap();
    let (dropped, mut answered) = (question("cart", TYPE::A), question("cart", TYPE::A));
    answered[1] = dropped[1] + 1;
    client.send(&dropped).await.unwrap();
    stream.write_u16(dropped.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&dropped).await.unwrap();
    let (mut byte, mut buffer) = ([0], [0; 512]);
    // This clock goes on when there is nothing left to do.
    let first = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut byte)).await;
    assert!(first.is_err(), "{first:?}");
    drop(under_way);
    client.send(&answered).await.unwrap();
    client.recv(&mut buffer).await.unwrap();
    assert_eq!(buffer[..2], answered[..2], "the other one was dropped");
    assert!(stream.read_u16().await.unwrap() > 0);
}

/// Another server, which takes its time.
async fn slow(delay: Duration) -> SocketAddr {
    let socket = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = Packet::parse(&buffer[..length]).unwrap().into_reply().build_bytes_vec().unwrap();
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                socket.send_to(&answer, from).await.unwrap();
            });
        }
    });
    address
}

#[tokio::test]
async fn who_is_replaced_answers_what_it_was_asked_and_takes_nothing_more() {
    const COUNT: u8 = 60;
    let long = Duration::from_secs(30);
    let upstream = slow(Duration::from_millis(300)).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let (replaced, drain) = net::drain::channel();
    let serve = |server: Server| {
        let socket = tokio::net::UdpSocket::from_std(socket.try_clone().unwrap()).unwrap();
        tokio::spawn(Arc::new(server).datagrams(Arc::new(socket)))
    };
    let old = serve(Server { drain, ..server(Servers::fixed(vec![upstream])) });
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(socket.local_addr().unwrap()).await.unwrap();
    let asking = async {
        for number in 0..COUNT {
            let mut bytes = question("example.org", TYPE::A);
            bytes[1] = number;
            client.send(&bytes).await.unwrap();
            if number == COUNT / 2 {
                drop(serve(server(Servers::fixed(vec![upstream]))));
                replaced.leave(long);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let hearing = async {
        let (mut heard, mut buffer) = (std::collections::HashSet::new(), [0; 512]);
        while heard.len() < COUNT.into() {
            client.recv(&mut buffer).await.unwrap();
            heard.insert(buffer[1]);
        }
    };
    let all = async { tokio::join!(asking, hearing) };
    tokio::time::timeout(long, all).await.expect("every question is answered, though it is asked once");
    assert_eq!(replaced.emptied().await, 0);
    tokio::time::timeout(long, old).await.expect("the old one hears no more").unwrap();
}

proptest::proptest! {
    #[test]
    fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        if let Ok(question) = Question::read(&bytes) {
            question.answer(Answer::Addresses(&[Ipv4Addr::LOCALHOST.into()]), false);
        }
    }

    #[test]
    fn questions_with_a_broken_byte_do_no_harm(at in 0usize..40, byte: u8) {
        let mut bytes = question("cart.shop.svc.cluster.local", TYPE::A);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(question) = Question::read(&bytes) {
            question.answer(Answer::NoSuchName, true);
        }
    }
}
