//! The `h2` crate on the other end: what it encodes we decode, what we encode it decodes.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::{Decoder, Encoder};
use crate::h2::frame::{self, HEADER, Header, Kind, PREFACE, flag};

/// The next frame.
async fn next(io: &mut DuplexStream) -> (Header, Vec<u8>) {
    let mut header = [0; HEADER];
    io.read_exact(&mut header).await.unwrap();
    let header = Header::parse(&header);
    header.check(frame::DEFAULT_MAX_FRAME).unwrap();
    let mut payload = vec![0; header.length as usize];
    io.read_exact(&mut payload).await.unwrap();
    (header, payload)
}

/// The next header block and its stream. SETTINGS are acknowledged on the way.
async fn block(io: &mut DuplexStream) -> (u32, Vec<u8>) {
    loop {
        let (header, payload) = next(io).await;
        match header.kind {
            Kind::Settings if !header.has(flag::ACK) => {
                let mut out = Vec::new();
                frame::write_settings_ack(&mut out);
                io.write_all(&out).await.unwrap();
            }
            Kind::Headers => {
                assert!(header.has(flag::END_HEADERS));
                let (block, _) = frame::block_of(header.flags, &payload).unwrap();
                return (header.stream, block.to_vec());
            }
            _ => {}
        }
    }
}

/// Fields that repeat from call to call, and one that does not.
fn fields(n: u32) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = [
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.66.0 (linux; amd64)"),
        ("te", "trailers"),
        ("x-unusual", "~!@#$%^&*()[]{}<>|\\`'\""),
        ("cookie", "session=0123456789abcdef"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    fields.push(("x-request-id".to_owned(), format!("{:08x}-é", n.wrapping_mul(0x9e37_79b9))));
    // Every third call has many fields of its own, which push the others out of the table.
    fields.extend((0..if n % 3 == 2 { 40 } else { 0 }).map(|i| (format!("x-{n}-{i}"), "v".repeat(100))));
    fields
}

fn put(headers: &mut HeaderMap, n: u32) {
    for (name, value) in fields(n) {
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
}

fn sorted(mut fields: Vec<(String, String)>) -> Vec<(String, String)> {
    fields.sort();
    fields
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
    let fields = super::decode(decoder, block).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    fields.into_iter().map(|(name, value, _)| (text(name), text(value))).collect()
}

#[tokio::test]
async fn a_client_of_another_make_is_understood_and_understands() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let calls = tokio::spawn(async move {
        let (client, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        for n in 0..10 {
            let mut request = Request::builder().method("POST").uri("http://cart:80/shop.Cart/Get").body(()).unwrap();
            put(request.headers_mut(), n);
            let mut client = client.clone().ready().await.unwrap();
            let (answer, _) = client.send_request(request, true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            let mut wanted = HeaderMap::new();
            put(&mut wanted, n);
            assert_eq!(answer.headers(), &wanted, "call {n}");
        }
    });
    let mut preface = [0; PREFACE.len()];
    far.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, PREFACE);
    let mut out = Vec::new();
    frame::write_settings(&[], &mut out);
    let (mut decoder, mut encoder) = (Decoder::new(4096), Encoder::new());
    for n in 0..10 {
        far.write_all(&out).await.unwrap();
        let (stream, block) = block(&mut far).await;
        let mut got = decode(&mut decoder, &block);
        let pseudo = got.iter().take_while(|(name, _)| name.starts_with(':')).count();
        let pseudo = sorted(got.drain(..pseudo).collect());
        let wanted = [(":authority", "cart:80"), (":method", "POST"), (":path", "/shop.Cart/Get"), (":scheme", "http")];
        assert_eq!(pseudo, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(sorted(got), sorted(fields(n)), "call {n}");
        out.clear();
        let start = frame::open_block(&mut out);
        encoder.begin(&mut out);
        encoder.status(200, &mut out);
        fields(n).iter().for_each(|(name, value)| encoder.field(name.as_bytes(), value.as_bytes(), false, &mut out));
        frame::close_block(start, stream, true, frame::DEFAULT_MAX_FRAME, &mut out);
    }
    far.write_all(&out).await.unwrap();
    calls.await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_make_is_understood_and_understands() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(async move {
        // A small table: our encoder has to say so and live with it.
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.header_table_size(300).handshake::<_, Bytes>(near).await.unwrap();
        let mut n = 0;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri(), "http://cart:80/shop.Cart/Get");
            let mut wanted = HeaderMap::new();
            put(&mut wanted, n);
            assert_eq!(request.headers(), &wanted, "call {n}");
            let mut answer = Response::new(());
            put(answer.headers_mut(), n);
            respond.send_response(answer, true).unwrap();
            n += 1;
        }
        n
    });
    let (mut decoder, mut encoder) = (Decoder::new(4096), Encoder::new());
    let mut out = PREFACE.to_vec();
    frame::write_settings(&[], &mut out);
    far.write_all(&out).await.unwrap();
    let (header, payload) = next(&mut far).await;
    assert_eq!(header.kind, Kind::Settings);
    for (name, value) in frame::settings(&payload) {
        if name == frame::setting::HEADER_TABLE_SIZE {
            encoder.set_max_table_size(value);
        }
    }
    out.clear();
    frame::write_settings_ack(&mut out);
    for n in 0..10 {
        let stream = 2 * n + 1;
        let start = frame::open_block(&mut out);
        encoder.begin(&mut out);
        let head = [(":method", "POST"), (":scheme", "http"), (":authority", "cart:80"), (":path", "/shop.Cart/Get")];
        for (name, value) in head {
            encoder.field(name.as_bytes(), value.as_bytes(), false, &mut out);
        }
        fields(n).iter().for_each(|(name, value)| encoder.field(name.as_bytes(), value.as_bytes(), false, &mut out));
        // Small frames: CONTINUATION is needed.
        frame::close_block(start, stream, true, 1000, &mut out);
        far.write_all(&out).await.unwrap();
        out.clear();
        let (answered, block) = block(&mut far).await;
        assert_eq!(answered, stream);
        let mut got = decode(&mut decoder, &block);
        assert_eq!(got.remove(0), (":status".to_owned(), "200".to_owned()));
        assert_eq!(sorted(got), sorted(fields(n)), "call {n}");
    }
    drop(far);
    assert_eq!(server.await.unwrap(), 10);
}
