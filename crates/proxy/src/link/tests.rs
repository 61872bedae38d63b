use proptest::prelude::*;

use super::frame::Malformed;
use super::incoming::Incoming;
use super::*;
use crate::conn::Conn;
use crate::end::{Encoding, End};
use crate::io::Io;

/// Both ends of a link, with memory for a connection.
struct Pair {
    client: Rc<Link>,
    server: Rc<Link>,
    forth: Incoming,
    back: Incoming,
    accepted: Vec<Stream>,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            client: Link::new(Rc::default()),
            server: Link::new(Rc::default()),
            forth: Incoming::default(),
            back: Incoming::default(),
            accepted: Vec::new(),
        }
    }

    /// Carries what either has to say, in pieces of `piece` bytes; a frame that is cut waits for the next piece.
    fn carry(&mut self, piece: usize) -> Result<(), Malformed> {
        let bytes = said(&self.client);
        let mut accept = |stream| self.accepted.push(stream);
        deliver(&mut self.forth, &self.server, &bytes, piece, &mut Role::Server(&mut accept))?;
        let bytes = said(&self.server);
        deliver(&mut self.back, &self.client, &bytes, piece, &mut Role::Client)
    }
}

/// What an end has to say, as its driver takes it.
fn said(link: &Rc<Link>) -> Vec<u8> {
    let mut said = Vec::new();
    link.inner.borrow_mut().take_output(&mut said);
    said
}

fn deliver(
    incoming: &mut Incoming,
    link: &Rc<Link>,
    bytes: &[u8],
    piece: usize,
    role: &mut Role<'_>,
) -> Result<(), Malformed> {
    for piece in bytes.chunks(piece) {
        incoming.take(link, piece, role)?;
    }
    assert!(incoming.held().is_empty(), "whole frames leave nothing");
    Ok(())
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn write(stream: &mut Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(stream).poll_write(&mut cx(), bytes)
}

fn read(stream: &mut Stream, most: usize) -> Poll<io::Result<Vec<u8>>> {
    let mut memory = vec![0; most];
    let mut room = ReadBuf::new(&mut memory);
    match Pin::new(stream).poll_read(&mut cx(), &mut room) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(room.filled().to_vec())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

/// Reads all that there is by taking its memory.
fn take(stream: &Stream) -> Poll<io::Result<Vec<u8>>> {
    let mut input = Buffer::default();
    stream.poll_take(&cx(), &mut input).map_ok(|n| {
        assert_eq!(n, input.len());
        input.bytes().to_vec()
    })
}

fn got(poll: Poll<io::Result<Vec<u8>>>) -> Vec<u8> {
    match poll {
        Poll::Ready(Ok(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is written, however it is cut on the way and read, each stream's bytes arrive whole and in order, and then
    /// its end.
    #[test]
    fn streams_arrive_whole_and_in_order(
        writes in prop::collection::vec((0..4_usize, 1..40_000_usize), 1..40),
        piece in 1..70_000_usize,
        most in 1..50_000_usize,
    ) {
        let mut pair = Pair::new();
        let mut streams: Vec<Stream> = (0..4).map(|_| pair.client.open().unwrap()).collect();
        let mut sent = vec![Vec::new(); 4];
        let mut heard = vec![Vec::new(); 4];
        for (which, length) in writes {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + which) as u8).collect();
            let mut left = bytes.as_slice();
            while !left.is_empty() {
                if let Poll::Ready(n) = write(&mut streams[which], left) {
                    left = &left[n.unwrap()..];
                }
                pair.carry(piece).unwrap();
                for stream in &mut pair.accepted {
                    let number = stream.number as usize;
                    let mut hear = || if most.is_multiple_of(2) { read(stream, most) } else { take(stream) };
                    while let Poll::Ready(bytes) = hear() {
                        heard[number].extend(bytes.unwrap());
                    }
                }
                pair.carry(piece).unwrap();
            }
            sent[which].extend(bytes);
        }
        prop_assert_eq!(&heard, &sent);
        for stream in &mut streams {
            let _ = Pin::new(stream).poll_shutdown(&mut cx());
        }
        pair.carry(piece).unwrap();
        for stream in &mut pair.accepted {
            prop_assert_eq!(got(read(stream, 8)), b"");
        }
    }

    /// Hostile bytes are refused or taken, but nothing breaks and nothing is kept beyond the windows.
    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(prop_oneof![0..6_u8, any::<u8>()], 0..1_000),
        piece in 1..1_000_usize,
    ) {
        let link = Link::new(Rc::default());
        let mut accepted = Vec::new();
        let mut accept = |stream| accepted.push(stream);
        let mut incoming = Incoming::default();
        for piece in bytes.chunks(piece) {
            if incoming.take(&link, piece, &mut Role::Server(&mut accept)).is_err() {
                break;
            }
        }
        prop_assert!(link.inner.borrow().streams.len() <= STREAMS);
    }
}

#[test]
fn a_reader_that_is_slow_stops_its_own_writer_alone() {
    let mut pair = Pair::new();
    let (mut slow, mut other) = (pair.client.open().unwrap(), pair.client.open().unwrap());
    let mut sent = 0;
    loop {
        match write(&mut slow, &[1; 10_000]) {
            Poll::Ready(n) => sent += n.unwrap(),
            Poll::Pending if sent < WINDOW as usize => {}
            Poll::Pending => break,
        }
        pair.carry(100_000).unwrap();
    }
    assert_eq!(sent, WINDOW as usize);
    assert!(matches!(write(&mut other, b"hello"), Poll::Ready(Ok(5))));
    pair.carry(100_000).unwrap();
    assert_eq!(got(read(&mut pair.accepted[1], 100)), b"hello");
    // Half of the window read: as much may follow.
    let mut left = WINDOW as usize / 2;
    while left > 0 {
        left -= got(read(&mut pair.accepted[0], left)).len();
    }
    pair.carry(100_000).unwrap();
    assert!(matches!(write(&mut slow, &[1; 10_000]), Poll::Ready(Ok(10_000))));
}

#[test]
fn writers_wait_while_the_connection_takes_nothing() {
    let mut pair = Pair::new();
    let mut streams: Vec<Stream> = (0..2).map(|_| pair.client.open().unwrap()).collect();
    while write(&mut streams[0], &[0; 16_000]).is_ready() {}
    assert!(write(&mut streams[1], b"x").is_pending());
    assert!(pair.client.inner.borrow().output.len() <= OUTPUT + 16 * 1024);
    pair.carry(100_000).unwrap();
    assert!(write(&mut streams[1], b"x").is_ready());
}

/// A waker of its own for each writer, for a queue holds each of them once.
fn wakers(count: usize) -> Vec<Waker> {
    struct Own(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Own {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    (0..count).map(|_| std::sync::Arc::new(Own(false.into())).into()).collect()
}

/// Many long bodies, asked in the order in which they wait, as their tasks are; each writes whenever it can. Later somebody has a
/// short word to say.
#[test]
fn writers_take_turns_and_a_short_word_waits_for_one_round_of_them() {
    const BULK: usize = 9;
    const JOINS: usize = 5;
    let mut pair = Pair::new();
    let mut streams: Vec<Stream> = (0..=BULK).map(|_| pair.client.open().unwrap()).collect();
    let wakers = wakers(BULK + 1);
    pair.carry(usize::MAX).unwrap();
    let mut sent = [0; BULK];
    let mut said_at = None;
    let mut queue: Vec<usize> = (0..BULK).collect();
    for turn in 0..12 {
        if turn == JOINS {
            queue.push(BULK);
        }
        for &which in &queue {
            let mut cx = Context::from_waker(&wakers[which]);
            let mut write = |bytes: &[u8]| Pin::new(&mut streams[which]).poll_write(&mut cx, bytes);
            if which == BULK {
                said_at = write(b"x").is_ready().then_some(turn);
                continue;
            }
            while let Poll::Ready(n) = write(&[0; LARGEST]) {
                // In the first turn nobody waits yet, so whoever comes first may fill it.
                sent[which] += if turn == 0 { 0 } else { n.unwrap() };
            }
        }
        let inner = pair.client.inner.borrow();
        let place = |waker: &Waker| wakers.iter().position(|own| own.will_wake(waker)).unwrap();
        queue = inner.waiting.iter().chain(&inner.served).map(place).collect();
        drop(inner);
        assert!(queue.len() >= BULK, "each has more to say");
        pair.carry(usize::MAX).unwrap();
    }
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(most - least <= 2 * LARGEST && *least >= 4 * LARGEST, "{sent:?}");
    // A turn of OUTPUT is four frames or five.
    assert!(said_at.is_some_and(|turn| turn <= JOINS + BULK.div_ceil(4)), "{said_at:?}");
}

#[test]
fn a_stream_that_is_dropped_is_cut_off_behind_what_was_written() {
    let mut pair = Pair::new();
    let mut stream = pair.client.open().unwrap();
    assert!(write(&mut stream, b"half of it").is_ready());
    drop(stream);
    pair.carry(5).unwrap();
    let mut accepted = pair.accepted.pop().unwrap();
    assert_eq!(got(read(&mut accepted, 100)), b"half of it");
    assert!(matches!(read(&mut accepted, 100), Poll::Ready(Err(_))));
    assert!(matches!(write(&mut accepted, b"x"), Poll::Ready(Err(_))));
    drop(accepted);
    assert!(pair.client.is_idle() && pair.server.is_idle());
}

#[test]
fn a_stream_whose_halves_are_over_says_no_more() {
    let mut pair = Pair::new();
    let mut stream = pair.client.open().unwrap();
    assert!(write(&mut stream, b"question").is_ready());
    let _ = Pin::new(&mut stream).poll_shutdown(&mut cx());
    pair.carry(100).unwrap();
    let mut accepted = pair.accepted.pop().unwrap();
    assert_eq!(got(read(&mut accepted, 100)), b"question");
    assert_eq!(got(read(&mut accepted, 100)), b"");
    assert!(write(&mut accepted, b"answer").is_ready());
    let _ = Pin::new(&mut accepted).poll_shutdown(&mut cx());
    drop(accepted);
    pair.carry(100).unwrap();
    assert_eq!(got(read(&mut stream, 100)), b"answer");
    assert_eq!(got(read(&mut stream, 100)), b"");
    drop(stream);
    assert!(pair.client.inner.borrow().output.is_empty(), "nothing is left to be said");
}

#[test]
fn the_end_of_a_link_is_the_end_of_its_streams() {
    let pair = Pair::new();
    let mut stream = pair.client.open().unwrap();
    pair.client.end();
    assert!(matches!(read(&mut stream, 1), Poll::Ready(Err(_))));
    assert!(matches!(write(&mut stream, b"x"), Poll::Ready(Err(_))));
    assert!(pair.client.open().is_none() && !pair.client.is_usable());
}

#[test]
fn a_link_that_leaves_or_is_full_opens_no_stream() {
    let mut pair = Pair::new();
    let streams: Vec<Stream> = (0..FULL).map(|_| pair.client.open().unwrap()).collect();
    assert!(pair.client.open().is_none() && pair.client.is_usable());
    drop(streams);
    assert!(pair.client.open().is_some());
    pair.server.inner.borrow_mut().put(Kind::Leave, 0);
    pair.carry(100).unwrap();
    assert!(pair.client.open().is_none() && !pair.client.is_usable());
}

fn frame(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, length: payload.len(), stream };
    [header.encode().as_slice(), payload].concat()
}

fn open(stream: u32) -> Vec<u8> {
    frame(Kind::Open, stream, b"")
}

/// What a server says to `frames`; the streams live on meanwhile.
fn tell(frames: &[Vec<u8>]) -> Result<(usize, Vec<u8>), Malformed> {
    let link = Link::new(Rc::default());
    let mut accepted = Vec::new();
    let mut accept = |stream| accepted.push(stream);
    Incoming::default().take(&link, &frames.concat(), &mut Role::Server(&mut accept))?;
    let said = link.inner.borrow().output.clone();
    Ok((accepted.len(), said))
}

#[test]
fn a_peer_that_breaks_the_rules_is_refused() {
    let window = u32::to_be_bytes;
    let full = frame(Kind::Data, 0, &[0; LARGEST]);
    let mut too_much = vec![full; WINDOW as usize / LARGEST];
    too_much.insert(0, open(0));
    assert!(tell(&too_much).is_ok());
    too_much.push(frame(Kind::Data, 0, &[0; 1_000]));
    let broken = [
        too_much,
        vec![open(0), frame(Kind::Window, 0, &window(1))],
        vec![open(0), frame(Kind::Window, 0, &window(u32::MAX))],
        vec![open(0), frame(Kind::End, 0, b""), frame(Kind::Data, 0, b"x")],
        vec![open(0), frame(Kind::Data, 0, b"")],
        vec![open(0), frame(Kind::Data, 0, &[0; LARGEST + 1])],
        vec![open(0), frame(Kind::End, 0, b"x")],
        vec![open(0), frame(Kind::Window, 0, b"123")],
        vec![open(0), open(0)],
        vec![open(1), open(0)],
        vec![open(u32::MAX)],
        vec![frame(Kind::Data, 0, b"x")],
        vec![frame(Kind::Reset, 0, b"")],
        vec![open(0), frame(Kind::Refuse, 0, b"")],
        vec![vec![7; 8]],
    ];
    for frames in broken {
        assert!(tell(&frames).is_err(), "{:?}", frames.last());
    }
    let mut client = Incoming::default();
    assert!(client.take(&Link::new(Rc::default()), &open(0), &mut Role::Client).is_err());
}

#[test]
fn a_server_takes_so_many_streams_and_no_more() {
    let mut frames: Vec<Vec<u8>> = (0..STREAMS as u32).map(open).collect();
    assert_eq!(tell(&frames), Ok((STREAMS, Vec::new())));
    frames.push(open(STREAMS as u32));
    frames.push(frame(Kind::Data, STREAMS as u32, b"more of it"));
    assert_eq!(tell(&frames), Ok((STREAMS, frame(Kind::Refuse, STREAMS as u32, b""))));
}

#[test]
fn a_stream_that_was_not_taken_is_told_from_one_that_was_cut_off() {
    for (kind, expected) in
        [(Kind::Refuse, io::ErrorKind::ConnectionRefused), (Kind::Reset, io::ErrorKind::ConnectionReset)]
    {
        let link = Link::new(Rc::default());
        let mut stream = link.open().unwrap();
        Incoming::default().take(&link, &frame(kind, 0, b""), &mut Role::Client).unwrap();
        match read(&mut stream, 1) {
            Poll::Ready(Err(error)) => assert_eq!(error.kind(), expected),
            other => panic!("{other:?}"),
        }
        assert!(matches!(write(&mut stream, b"x"), Poll::Ready(Err(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_keep_the_laws(
        client in any::<u8>(),
        frames in prop::collection::vec((0..8_u8, 0..4_u32, prop::collection::vec(any::<u8>(), 0..9)), 0..12),
    ) {
        let mut data = vec![client];
        for (kind, stream, payload) in frames {
            data.extend([kind, 0, 0, payload.len() as u8]);
            data.extend(stream.to_be_bytes());
            data.extend(payload);
        }
        fuzzing::link(&data);
    }
}

/// Streams borrow memory only while something is unread; whoever takes all of it takes the memory too, and opens the window.
#[test]
fn memory_is_borrowed_while_something_is_unread() {
    let mut pair = Pair::new();
    let mut stream = pair.client.open().unwrap();
    let mut say = |pair: &mut Pair| {
        assert!(matches!(write(&mut stream, &[5; 10_000]), Poll::Ready(Ok(10_000))));
        pair.carry(usize::MAX).unwrap();
        assert!(pair.accepted[0].half.borrow().input.is_allocated());
    };
    say(&mut pair);
    assert_eq!(got(read(&mut pair.accepted[0], 20_000)), [5; 10_000]);
    assert!(!pair.accepted[0].half.borrow().input.is_allocated());
    for _ in 0..2 * WINDOW / 10_000 {
        say(&mut pair);
        assert_eq!(got(take(&pair.accepted[0])), [5; 10_000]);
        assert!(!pair.accepted[0].half.borrow().input.is_allocated() && pair.accepted[0].is_quiet());
        pair.carry(usize::MAX).unwrap();
    }
    assert!(take(&pair.accepted[0]).is_pending());
    drop(stream);
    pair.carry(usize::MAX).unwrap();
    assert!(matches!(take(&pair.accepted[0]), Poll::Ready(Err(_))) && !pair.accepted[0].is_quiet());
}

#[test]
fn a_body_goes_into_one_frame_with_the_head_before_it_and_small_pieces_are_collected() {
    let link = Link::new(Rc::default());
    let mut conn = Conn::new(Io::Stream(link.open().unwrap()), Buffer::default());
    conn.output.extend_from_slice(b"head");
    said(&link);
    let mut end = End::H1(Box::new(conn));
    let mut accept = |piece: &[u8]| match end.poll_accept(&mut cx(), piece, &mut Encoding::Raw, false) {
        Poll::Ready(Ok(accepted)) => assert_eq!(accepted.bytes, piece.len()),
        other => panic!("{other:?}"),
    };
    accept(&[7; 100]);
    assert!(said(&link).is_empty());
    accept(&[7; 1_000]);
    let expected = [b"head".as_slice(), &[7; 1_100]].concat();
    assert_eq!(said(&link), frame(Kind::Data, 0, &expected));
}

/// Many streams that nobody reads: what they hold is bounded by their windows, not by twice as much.
#[test]
fn a_window_is_all_the_memory_that_a_stream_takes() {
    let mut pair = Pair::new();
    let mut stream = pair.client.open().unwrap();
    for length in (1..1_000).cycle() {
        if write(&mut stream, &vec![7; length]).is_pending() {
            break;
        }
        pair.carry(usize::MAX).unwrap();
    }
    let held = pair.accepted[0].half.borrow();
    assert_eq!((held.input.len(), held.input.memory()), (WINDOW as usize, WINDOW as usize));
}
