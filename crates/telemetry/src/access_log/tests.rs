use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn entry<'a>() -> Entry<'a> {
    Entry {
        time: SystemTime::UNIX_EPOCH + Duration::from_micros(1_790_000_000_123_456),
        direction: Direction::Inbound,
        identity: Some("spiffe://local/ns/shop/sa/front"),
        method: Some("GET"),
        path: Some("/a\"b\\"),
        authority: Some("cart:80"),
        status: 503,
        reason: Some(Reason::NoEndpoint),
        route: "HTTPRoute/shop/cart/0",
        endpoint: Some("shop/cart-1"),
        bytes_received: 12,
        bytes_sent: 34,
        duration: Nanos(5_678_900),
        attempts: 2,
        decision: None,
    }
}

fn line(entry: &Entry<'_>) -> String {
    let mut out = Vec::new();
    json::write(entry, &mut out);
    String::from_utf8(out).expect("UTF-8")
}

/// Gives every write to the test.
struct Out(Sender<Vec<u8>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Announces each write and waits until the test lets it go on.
struct Stuck {
    begun: Sender<Vec<u8>>,
    go: Receiver<()>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.begun.send(bytes.to_vec());
        self.go.recv().map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn one_object_with_every_field() {
    let value: serde_json::Value = serde_json::from_str(&line(&entry())).expect("JSON");
    let expected = serde_json::json!({
        "time": "2026-09-21T14:13:20.123456Z",
        "direction": "inbound",
        "identity": "spiffe://local/ns/shop/sa/front",
        "method": "GET",
        "authority": "cart:80",
        "path": "/a\"b\\",
        "status": 503,
        "reason": "no_endpoint",
        "route": "HTTPRoute/shop/cart/0",
        "endpoint": "shop/cart-1",
        "bytesReceived": 12,
        "bytesSent": 34,
        "durationMicros": 5678,
        "attempts": 2,
    });
    assert_eq!(value, expected);
}

#[test]
fn what_is_absent_is_left_out() {
    let entry = Entry {
        identity: None,
        method: None,
        path: None,
        authority: None,
        status: 0,
        reason: None,
        route: "",
        endpoint: None,
        ..entry()
    };
    let value: serde_json::Value = serde_json::from_str(&line(&entry)).expect("JSON");
    let names: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["attempts", "bytesReceived", "bytesSent", "direction", "durationMicros", "time"]);
}

#[test]
fn lines_arrive_whole_and_in_order_and_the_rest_is_written_at_the_end() {
    let (sender, written) = channel();
    let log = AccessLog::start(Out(sender)).expect("a thread");
    let (one, two) = (log.handle(), log.handle());
    for attempts in 0..500 {
        one.log(&Entry { attempts, ..entry() });
        two.log(&Entry { attempts, route: "two", ..entry() });
    }
    let dropped = Arc::clone(&log.dropped);
    drop((log, one, two));
    // Ends when the writer's thread, and with it the sender, is gone.
    let text: Vec<u8> = written.iter().flatten().collect();
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    let mut next = [0, 0];
    for line in String::from_utf8(text).expect("UTF-8").lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let handle = usize::from(value["route"] == "two");
        assert_eq!(value["attempts"], next[handle]);
        next[handle] += 1;
    }
    assert_eq!(next, [500, 500]);
}

#[test]
fn a_slow_writer_costs_lines_and_no_time() {
    let (begun, begins) = channel();
    let (go, waits) = channel();
    let log = AccessLog::with_limit(Stuck { begun, go: waits }, 4).expect("a thread");
    let handle = log.handle();
    handle.log(&entry());
    begins.recv().expect("the writer has taken the first line");
    for _ in 0..10 {
        handle.log(&entry());
    }
    assert_eq!(log.dropped(), 6, "four wait");
    go.send(()).expect("the writer waits");
    let rest = begins.recv().expect("the writer goes on");
    assert_eq!(rest.split(|&byte| byte == b'\n').count(), 5, "what waits is written at once: four lines and their end");
}

#[test]
fn flush_waits_for_the_writer_but_not_for_ever() {
    let (sender, written) = channel();
    let log = AccessLog::start(Out(sender)).expect("a thread");
    let handle = log.handle();
    handle.log(&entry());
    assert!(log.flush(Duration::from_secs(60)));
    let text: Vec<u8> = written.try_iter().flatten().collect();
    assert_eq!(String::from_utf8(text).expect("UTF-8"), line(&entry()));

    let (begun, _begins) = channel();
    let (_go, waits) = channel();
    let stuck = AccessLog::with_limit(Stuck { begun, go: waits }, 1).expect("a thread");
    let handle = stuck.handle();
    (0..5).for_each(|_| handle.log(&entry()));
    assert!(!stuck.flush(Duration::from_millis(10)));
}

#[test]
fn a_writer_that_fails_is_counted() {
    let (sender, written) = channel();
    drop(written);
    let log = AccessLog::start(Out(sender)).expect("a thread");
    let handle = log.handle();
    handle.log(&entry());
    assert!(log.flush(Duration::from_secs(60)));
    assert_eq!(log.dropped(), 1);
}

proptest! {
    #[test]
    fn any_text_survives(path: String, identity: String) {
        let text = line(&Entry { path: Some(&path), identity: Some(&identity), ..entry() });
        prop_assert_eq!(text.matches('\n').count(), 1);
        prop_assert!(!text.trim_end().contains(|c: char| c.is_ascii_control()));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        prop_assert_eq!(value["path"].as_str(), Some(&*path));
        prop_assert_eq!(value["identity"].as_str(), Some(&*identity));
    }

    #[test]
    fn times_are_those_of_the_calendar(seconds in 0u64..253_402_300_800) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let text = line(&Entry { time, ..entry() });
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let format = &time::format_description::well_known::Rfc3339;
        let read = time::OffsetDateTime::parse(value["time"].as_str().expect("text"), format).expect("RFC 3339");
        prop_assert_eq!(read.unix_timestamp(), seconds as i64);
    }
}
