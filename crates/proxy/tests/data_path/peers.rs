//! HTTP/2 with clients that are not ours, `curl` and `h2load`, at sizes and windows where flow control decides.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use engine::Protocol;
use h2::RecvStream;
use http::{Request, Response};
use testkit::load::{Answer, curl, h2load};
use tokio::task::spawn_blocking;

use crate::http2::{app, test, write};
use crate::world::{Sidecar, World, listener};

/// Far more than every window and buffer on the way together.
const LARGE: usize = 100 << 20;

/// Of two sizes of frames.
const SMALL: usize = 20_000;

/// Of dozens of the smallest windows: each is a round trip through five programs, which takes long on a busy machine.
const TINY: usize = 2_000;

/// Each eight bytes are their own number, so that nothing can be lost, doubled or moved without notice.
static NUMBERED: LazyLock<Bytes> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(LARGE);
    for number in 0..LARGE as u64 / 8 {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.into()
});

/// Answers `/large`, `/small` and `/tiny` with numbered bytes, and everything else with the body of the request as it comes.
async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (parts, mut recv) = request.into_parts();
    if parts.method == "HEAD" {
        let head = Response::builder().header("content-length", LARGE).body(()).unwrap();
        respond.send_response(head, true).unwrap();
        return;
    }
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    match parts.uri.path() {
        "/large" => write(&mut send, NUMBERED.clone()).await,
        "/small" => write(&mut send, NUMBERED.slice(..SMALL)).await,
        "/tiny" => write(&mut send, NUMBERED.slice(..TINY)).await,
        _ => {
            while let Some(data) = recv.data().await {
                let data = data.unwrap();
                recv.flow_control().release_capacity(data.len()).unwrap();
                write(&mut send, data).await;
            }
        }
    }
    send.send_data(Bytes::new(), true).unwrap();
}

/// A client's sidecar with a listener for the application, and the application's sidecar.
fn road(world: &World, application: SocketAddr) -> (SocketAddr, [Sidecar; 2]) {
    let server = world.server(application, Protocol::Http2, Default::default());
    world.publish(Protocol::Http2, vec![server.endpoint(application.port())]);
    let mut at = None;
    let client = world.client(|settings| at = Some(listener(settings)));
    (at.unwrap(), [client, server])
}

/// Runs curl with HTTP/2 alone.
async fn get(url: String, options: &[&str]) -> Answer {
    let mut arguments = vec!["--http2-prior-knowledge".to_owned(), url];
    arguments.extend(options.iter().map(|&option| option.to_owned()));
    let answer = spawn_blocking(move || curl(arguments)).await.unwrap();
    assert_eq!((answer.status, answer.version.as_str()), (200, "2"));
    answer
}

#[test]
fn curl_sends_and_reads_bodies_far_larger_than_every_window() {
    test(async {
        let (application, accepted) = app(answer).await;
        let world = World::new();
        let (at, _sidecars) = road(&world, application);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &*NUMBERED).unwrap();
        let file = file.path().to_str().unwrap();

        // Nobody reads faster than curl does, which takes more than three seconds for this; others are not kept waiting by it.
        let slow = tokio::spawn(get(format!("http://{at}/large"), &["--limit-rate", "30M"]));
        for _ in 0..3 {
            assert!(get(format!("http://{at}/small"), &[]).await.body == NUMBERED[..SMALL]);
        }
        assert!(!slow.is_finished(), "it was to be slow");
        // Both directions at once, beside it on the same connection between the sidecars.
        assert!(get(format!("http://{at}/echo"), &["-T", file]).await.body == *NUMBERED);
        assert!(slow.await.unwrap().body == *NUMBERED);

        let head = get(format!("http://{at}/large"), &["--head"]).await;
        assert_eq!(head.header("content-length"), Some(LARGE.to_string().as_str()));
        assert_eq!(accepted.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn tiny_windows_and_tables_slow_h2load_down_and_break_nothing() {
    test(async {
        let (application, _) = app(answer).await;
        let world = World::new();
        let (at, _sidecars) = road(&world, application);
        let cases: [(&str, &[&str]); 4] = [
            // 255 bytes for a stream, 1,023 for the connection.
            ("small", &["-n40", "-c2", "-m20", "-w8", "-W10"]),
            // 31 bytes for each connection's streams together.
            ("tiny", &["-n10", "-c2", "-m5", "-w16", "-W5"]),
            ("small", &["-n300", "-c3", "-m50", "--header-table-size=0", "--encoder-header-table-size=0"]),
            // More at once than a connection may have open.
            ("small", &["-n600", "-c2", "-m300"]),
        ];
        for (path, case) in cases {
            let url = format!("http://{at}/{path}");
            let arguments: Vec<String> = case.iter().map(|&option| option.to_owned()).chain([url]).collect();
            let asked: u64 = case[0][2..].parse().unwrap();
            let report = spawn_blocking(move || h2load(arguments)).await.unwrap();
            assert_eq!((report.done, report.refused, report.failed), (asked, 0, 0), "{case:?}");
        }
    });
}
