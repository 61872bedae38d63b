//! Two connections of ours.

use super::*;

struct Pair {
    client: End,
    server: End,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair { client: End::client(), server: End::server() };
        pair.talk();
        pair
    }

    /// Carries what either has to say, until both are silent.
    fn talk(&mut self) {
        loop {
            let (to_server, to_client) = (self.client.output(), self.server.output());
            if to_server.is_empty() && to_client.is_empty() {
                return;
            }
            self.server.take(&to_server).unwrap();
            self.client.take(&to_client).unwrap();
        }
    }

    /// A stream with a request, at both ends.
    fn open(&mut self, last: bool, more: &[(&str, &str)]) -> (Stream, Stream) {
        let up = self.client.connection.place().unwrap();
        up.send_request(last, false, request(more)).unwrap();
        self.talk();
        (up, self.server.accepted.pop().unwrap())
    }
}

/// Reads what is there.
fn read(stream: &Stream, into: &mut Vec<u8>) {
    let n = {
        let body = stream.body(0);
        into.extend_from_slice(&body);
        body.len()
    };
    stream.consume(n);
}

#[test]
fn a_request_and_its_answer_with_bodies_and_trailers() {
    let mut pair = Pair::new();
    let (up, down) = pair.open(false, &[("x", "1")]);
    let mut head = Request::default();
    assert_eq!(down.take_request(&mut head), None);
    assert_eq!((head.method(), head.path(), head.authority()), ("GET", "/", "h"));
    assert_eq!(head.header("x"), Some(b"1".as_slice()));
    assert_eq!(now(up.poll_send(&cx(), b"ping", true)), 4);
    down.send_answer(false, answer(103)).unwrap();
    down.send_answer(false, answer(200)).unwrap();
    assert_eq!(now(down.poll_send(&cx(), b"pong!", false)), 5);
    let mut trailers = crate::h1::Fields::default();
    let receipt = trailers.receive(&Limits::default(), |block| {
        block.field(b"grpc-status", b"0", false);
        Ok::<(), ()>(())
    });
    assert_eq!(receipt, Ok(crate::h1::Receipt::Whole));
    down.finish(Some(&trailers)).unwrap();
    pair.talk();
    assert!(now(down.poll_body(&cx(), 0)) && *down.body(0) == *b"ping" && down.ended());
    down.consume(4);
    assert!(!now(down.poll_body(&cx(), 0)));
    let mut response = Response::default();
    now(up.poll_answer(&cx(), &mut response));
    assert_eq!(response.status(), 103);
    now(up.poll_answer(&cx(), &mut response));
    assert_eq!(response.status(), 200);
    assert!(*up.body(0) == *b"pong!" && !up.ended(), "trailers come behind it");
    up.consume(5);
    assert!(!now(up.poll_body(&cx(), 0)));
    assert_eq!(up.trailers().unwrap().get("grpc-status"), Some(b"0".as_slice()));
    drop((up, down));
    pair.talk();
    for end in [&pair.client, &pair.server] {
        assert_eq!((end.inner().borrow().open_streams(), end.inner().borrow().in_use()), (0, 0));
    }
}

#[test]
fn a_large_head_goes_in_continuation_frames() {
    let mut pair = Pair::new();
    let value = "v".repeat(60_000);
    let (_up, down) = pair.open(true, &[("x", &value)]);
    let mut head = Request::default();
    assert_eq!(down.take_request(&mut head), None);
    assert_eq!(head.header("x").map(<[u8]>::len), Some(60_000));
    assert!(down.is_bodiless());
}

#[test]
fn a_reader_that_is_slow_stops_its_own_sender_alone() {
    let mut pair = Pair::new();
    let (up, down) = pair.open(false, &[]);
    let (other_up, other_down) = pair.open(false, &[]);
    let mut sent = 0;
    while let Poll::Ready(Ok(n)) = up.poll_send(&cx(), &[7; 50_000], false) {
        sent += n;
        pair.talk();
    }
    assert_eq!(sent, STREAM_WINDOW as usize);
    assert_eq!(now(other_up.poll_send(&cx(), b"free", true)), 4);
    pair.talk();
    assert_eq!(&*other_down.body(0), b"free");
    // What is kept for another time counts as read, once.
    down.keep(100_000);
    down.keep(50_000);
    pair.talk();
    let mut more = 0;
    while let Poll::Ready(Ok(n)) = up.poll_send(&cx(), &[7; 50_000], false) {
        more += n;
        pair.talk();
    }
    assert_eq!(more, 100_000);
    assert_eq!(down.body(100_000).len(), sent);
    down.consume(100_000 + sent);
    pair.talk();
    assert!(up.poll_send(&cx(), &[7; 10], false).is_ready());
}

#[test]
fn what_is_not_wanted_any_more_is_reset() {
    let mut pair = Pair::new();
    let (up, down) = pair.open(false, &[]);
    drop(up);
    pair.talk();
    assert_eq!(reset(down.poll_body(&cx(), 0)).code, Code::Cancel);
    assert!(down.poll_reset(&cx()).is_ready());
    assert!(down.send_answer(true, answer(200)).is_err());
    drop(down);
    // An answer before the request has ended: the rest of that is not wanted, the answer is whole.
    let (up, down) = pair.open(false, &[]);
    down.send_answer(true, answer(200)).unwrap();
    drop(down);
    pair.talk();
    let mut response = Response::default();
    now(up.poll_answer(&cx(), &mut response));
    assert!(!now(up.poll_body(&cx(), 0)));
    assert_eq!(reset(up.poll_send(&cx(), b"x", true)).code, Code::NoError);
    drop(up);
    pair.talk();
    assert_eq!(pair.server.inner().borrow().in_use() + pair.client.inner().borrow().in_use(), 0);
    // What nobody has read of a stream does not make the connection's window smaller.
    for _ in 0..40 {
        let (up, down) = pair.open(false, &[]);
        while let Poll::Ready(Ok(_)) = up.poll_send(&cx(), &[7; 50_000], false) {
            pair.talk();
        }
        drop((up, down));
        pair.talk();
    }
}

#[test]
fn a_server_leaves_in_two_steps() {
    let mut pair = Pair::new();
    let (up, down) = pair.open(true, &[]);
    pair.server.inner().borrow_mut().leave();
    // A request that is on its way when the client hears of it is served.
    let late = pair.client.connection.place().unwrap();
    late.send_request(true, false, request(&[])).unwrap();
    pair.talk();
    let late_down = pair.server.accepted.pop().unwrap();
    assert!(pair.client.connection.place().is_none() && !pair.client.connection.is_usable());
    assert_eq!(pair.server.inner().borrow().final_stream, Some(3));
    late_down.send_answer(true, answer(200)).unwrap();
    down.send_answer(true, answer(200)).unwrap();
    pair.talk();
    let mut response = Response::default();
    now(up.poll_answer(&cx(), &mut response));
    now(late.poll_answer(&cx(), &mut response));
    drop((up, late, down, late_down));
    assert!(pair.server.inner().borrow().is_done() && pair.client.inner().borrow().is_done());
}

#[test]
fn streams_beyond_the_last_one_were_not_processed() {
    let mut pair = Pair::new();
    let reserved = pair.client.connection.place().unwrap();
    let (kept, _down) = pair.open(true, &[]);
    let late = pair.client.connection.place().unwrap();
    late.send_request(true, false, request(&[])).unwrap();
    // The server says that it leaves before it hears of the late one.
    pair.server.inner().borrow_mut().leave_now();
    pair.talk();
    let mut response = Response::default();
    assert!(reset(late.poll_answer(&cx(), &mut response)).unprocessed);
    assert!(kept.poll_answer(&cx(), &mut response).is_pending());
    assert!(matches!(reserved.send_request(true, false, request(&[])), Err(Fault::Reset(reset)) if reset.unprocessed));
    pair.client.finish();
    let gone = reset(kept.poll_answer(&cx(), &mut response));
    assert!(!gone.unprocessed, "{gone}");
}

#[test]
fn places_are_as_many_as_the_peer_takes() {
    let mut pair = Pair::new();
    let places: Vec<_> = std::iter::from_fn(|| pair.client.connection.place()).collect();
    assert_eq!(places.len(), Limits::default().streams as usize);
    drop(places);
    let mut settings = Vec::new();
    frame::write_settings(&[(setting::MAX_CONCURRENT_STREAMS, 2)], &mut settings);
    pair.client.take(&settings).unwrap();
    let places: Vec<_> = std::iter::from_fn(|| pair.client.connection.place()).collect();
    assert_eq!(places.len(), 2);
}

#[test]
fn a_window_can_shrink_below_zero() {
    let mut pair = Pair::new();
    let (up, down) = pair.open(false, &[]);
    assert_eq!(now(up.poll_send(&cx(), &[1; 1_000], false)), 1_000);
    let settings = |size| {
        let mut out = Vec::new();
        frame::write_settings(&[(setting::INITIAL_WINDOW_SIZE, size)], &mut out);
        out
    };
    pair.client.take(&settings(500)).unwrap();
    assert!(up.poll_send(&cx(), &[1; 1_000], false).is_pending());
    pair.client.take(&settings(1_001)).unwrap();
    assert_eq!(now(up.poll_send(&cx(), &[1; 1_000], false)), 1);
    let error = pair.client.take(&settings(1 << 31)).unwrap_err();
    assert_eq!(error.code, Code::FlowControl);
    drop(down);
}

/// What one end does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Sends so much on a stream.
    Send(usize, usize),
    /// Reads what is there of a stream.
    Read(usize),
    /// So many bytes cross in each direction.
    Cross(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_usize, 1..200_000_usize).prop_map(|(stream, n)| Step::Send(stream, n)),
        (0..4_usize).prop_map(Step::Read),
        (0..40_000_usize, 0..40_000_usize).prop_map(|(up, down)| Step::Cross(up, down)),
    ]
}

fn byte(stream: usize, at: usize) -> u8 {
    (stream * 31 + at % 251) as u8
}

/// One direction of one stream.
#[derive(Default)]
struct Flow {
    sent: usize,
    got: Vec<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However bytes are cut and whenever somebody reads, every stream's body arrives as it was sent, both ways.
    #[test]
    fn bodies_arrive_as_they_were_sent(steps in proptest::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new();
        let mut streams: Vec<(Stream, Stream)> = (0..4).map(|_| pair.open(false, &[])).collect();
        for (up, down) in &streams {
            down.send_answer(false, answer(200)).unwrap();
            pair.talk();
            now(up.poll_answer(&cx(), &mut Response::default()));
        }
        let mut flows: Vec<[Flow; 2]> = (0..4).map(|_| Default::default()).collect();
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let cross = |pair: &mut Pair, to_server: &mut Vec<u8>, to_client: &mut Vec<u8>, up: usize, down: usize| {
            to_server.extend(pair.client.output());
            to_client.extend(pair.server.output());
            pair.server.take(&to_server.drain(..up.min(to_server.len())).collect::<Vec<u8>>()).unwrap();
            pair.client.take(&to_client.drain(..down.min(to_client.len())).collect::<Vec<u8>>()).unwrap();
        };
        for step in steps {
            match step {
                Step::Send(stream, n) => {
                    let (up, down) = &streams[stream];
                    for (end, flow) in [up, down].into_iter().zip(&mut flows[stream]) {
                        let bytes: Vec<u8> = (flow.sent..flow.sent + n).map(|at| byte(stream, at)).collect();
                        if let Poll::Ready(n) = end.poll_send(&cx(), &bytes, false) {
                            flow.sent += n.unwrap();
                        }
                    }
                }
                Step::Read(stream) => {
                    let (up, down) = &streams[stream];
                    for (end, flow) in [down, up].into_iter().zip(&mut flows[stream]) {
                        read(end, &mut flow.got);
                    }
                }
                Step::Cross(up, down) => cross(&mut pair, &mut to_server, &mut to_client, up, down),
            }
        }
        for (up, down) in &streams {
            up.finish(None).unwrap();
            down.finish(None).unwrap();
        }
        for _ in 0..3 {
            cross(&mut pair, &mut to_server, &mut to_client, usize::MAX, usize::MAX);
        }
        for (at, ((up, down), flows)) in streams.drain(..).zip(&mut flows).enumerate() {
            for (end, flow) in [&down, &up].into_iter().zip(flows) {
                read(end, &mut flow.got);
                prop_assert!(!now(end.poll_body(&cx(), 0)));
                prop_assert_eq!(flow.got.len(), flow.sent);
                prop_assert!(flow.got.iter().enumerate().all(|(n, got)| *got == byte(at, n)));
            }
        }
        prop_assert_eq!(pair.client.inner().borrow().open_streams(), 0);
        prop_assert_eq!(pair.server.inner().borrow().open_streams(), 0);
    }
}
