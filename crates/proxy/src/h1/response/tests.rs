use super::*;

fn answer(asked: Asked, input: &str) -> Result<Response, Problem> {
    let mut head = Response::default();
    match head.parse(input.as_bytes(), asked, &Limits::default())? {
        Some(length) if length == input.len() => Ok(head),
        other => panic!("took {other:?} of {input:?}"),
    }
}

fn get(input: &str) -> Result<Response, Problem> {
    answer(Asked::new("GET", false), input)
}

#[test]
fn framing_follows_status_method_and_fields() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let five = "Content-Length: 5\r\n";
    let table = [
        ("GET", 200, "", Framing::UntilClose, false),
        ("GET", 200, five, Framing::Length(5), true),
        ("GET", 200, "Content-Length: 0\r\n", Framing::Length(0), true),
        ("GET", 200, chunked, Framing::Chunked, true),
        ("GET", 404, "Content-Length: 5\r\nConnection: close\r\n", Framing::Length(5), false),
        ("HEAD", 200, five, Framing::None, true),
        ("HEAD", 200, chunked, Framing::None, true),
        ("HEAD", 200, "", Framing::None, true),
        ("GET", 304, five, Framing::None, true),
        ("GET", 304, chunked, Framing::None, true),
        ("GET", 204, "", Framing::None, true),
        ("GET", 204, "Content-Length: 0\r\n", Framing::None, true),
        ("GET", 204, five, Framing::None, false),
        ("GET", 100, "", Framing::None, true),
        ("CONNECT", 200, "", Framing::Tunnel, false),
        ("CONNECT", 200, five, Framing::Tunnel, false),
        ("CONNECT", 200, chunked, Framing::Tunnel, false),
        ("CONNECT", 407, five, Framing::Length(5), true),
    ];
    for (method, status, lines, framing, keep_alive) in table {
        let head = answer(Asked::new(method, false), &format!("HTTP/1.1 {status} X\r\n{lines}\r\n")).unwrap();
        assert_eq!((head.framing(), head.keep_alive()), (framing, keep_alive), "{method} {status} {lines:?}");
    }
}

#[test]
fn malformed_heads_are_refused() {
    let table = [
        "HTTP/1.1 200 OK\nA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n\n",
        "HTTP/1.1 200 OK\rA: b\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        " HTTP/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 103 X\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for input in table {
        let reason = get(input).expect_err(input).reason;
        assert_eq!(reason, Reason::UpstreamProtocol, "{input:?}");
    }
}

#[test]
fn interim_responses_are_told_from_final_ones() {
    assert!(get("HTTP/1.1 100 Continue\r\n\r\n").unwrap().is_interim());
    assert!(get("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").unwrap().is_interim());
    let switched = answer(Asked::new("GET", true), "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert!(!switched.is_interim());
    assert_eq!(switched.framing(), Framing::Tunnel);
    assert!(!get("HTTP/1.1 200\r\n\r\n").unwrap().is_interim());
}

#[test]
fn http_1_0_servers_close_unless_they_say_otherwise() {
    assert!(!get("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n").unwrap().keep_alive());
    assert!(get("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n").unwrap().keep_alive());
}

#[test]
fn limits_hold() {
    let limits = Limits { head_bytes: 100, headers: 2, ..Limits::default() };
    let mut head = Response::default();
    let parse = |head: &mut Response, input: &str| head.parse(input.as_bytes(), Asked::default(), &limits);
    assert!(parse(&mut head, "HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\n\r\n").is_ok());
    assert!(parse(&mut head, "HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n").is_err());
    head.reset();
    assert!(parse(&mut head, &format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(100))).is_err());
    head.reset();
    assert!(parse(&mut head, &format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(100))).is_err());
    head.reset();
    assert_eq!(parse(&mut head, &format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(70))), Ok(None));
}

#[test]
fn how_long_a_server_keeps_a_connection_is_read() {
    let told = |value: &str| get(&format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{value}\r\n")).unwrap().keeps_for();
    let seconds = |seconds: u64| Some(Nanos::from_millis(seconds * 1_000));
    assert_eq!(told("Keep-Alive: timeout=5\r\n"), seconds(5));
    assert_eq!(told("keep-alive: max=1000 , TIMEOUT = 15\r\n"), seconds(15));
    assert_eq!(told("Keep-Alive: timeout=18446744073709551615\r\n"), seconds(86_400));
    for nothing in
        ["", "Keep-Alive: 5\r\n", "Keep-Alive: timeout=-1\r\n", "Keep-Alive: timeout=\r\n", "Keep-Alive:\r\n"]
    {
        assert_eq!(told(nothing), None, "{nothing}");
    }
}
