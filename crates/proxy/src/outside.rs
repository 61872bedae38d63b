//! Hosts that the mesh does not know.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Poll, ready};

use engine::Reason;
use net::tls::Alpn;

use crate::buffer::{self, Buffer};
use crate::conn::Conn;
use crate::end::Fault;
use crate::h1;
use crate::reply::Refusal;
use crate::route;
use crate::target::Target;
use crate::upstream::{self, Route};
use crate::worker::Worker;

/// The address to dial for `target`: its own, or that of the forward proxy which outside destinations are reached through.
pub(crate) async fn address(worker: &Worker, target: &Target) -> Result<SocketAddr, Refusal> {
    if let Some(proxy) = &worker.shared.settings.upstream_proxy {
        return look_up(proxy.clone()).await;
    }
    match target.address() {
        Some(address) => Ok(address),
        None => look_up(format!("{}:{}", target.host, target.port)).await,
    }
}

/// Asks the system's resolver, on a thread of its own.
async fn look_up(name: String) -> Result<SocketAddr, Refusal> {
    let found = tokio::net::lookup_host(&name).await;
    let problem = match found.map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => return Ok(address),
        Ok(None) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Refusal::new(Reason::NameNotFound, format!("{name}: {problem}")))
}

/// A connection for opaque bytes to `target`: straight, or by CONNECT through the forward proxy.
pub(crate) async fn open(worker: &Worker, target: &Target) -> Result<Conn, Refusal> {
    route::outside(worker, target)?;
    let address = address(worker, target).await?;
    let limit = worker.defaults.connect_timeout.duration();
    let opening = async {
        let (io, _) = upstream::connect(worker, &Route::Address(address), Alpn::Tcp).await?;
        let mut conn = Conn::new(io, Buffer::default());
        if worker.shared.settings.upstream_proxy.is_some() {
            ask_proxy(worker, target, &mut conn).await?;
        }
        Ok(conn)
    };
    match tokio::time::timeout(limit, opening).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::new(Reason::ConnectFailed, format!("no connection to {target} within {limit:?}"))),
    }
}

/// CONNECT through the forward proxy at the other end of `conn`.
async fn ask_proxy(worker: &Worker, target: &Target, conn: &mut Conn) -> Result<(), Refusal> {
    conn.output.extend_from_slice(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes());
    let asked = h1::Asked { connect: true, ..Default::default() };
    let mut response = h1::Response::default();
    poll_fn(|cx| {
        ready!(conn.poll_flush(cx)).map_err(Fault::from)?;
        loop {
            if let Some(n) = response.parse(conn.input.bytes(), asked, worker.limits())? {
                conn.input.take(n);
                return Poll::Ready(Ok(()));
            }
            if ready!(conn.poll_fill(cx, worker, worker.limits().head_bytes + buffer::SIZE))? == 0 {
                return Poll::Ready(Err(Fault::Gone));
            }
        }
    })
    .await
    .map_err(|_| Refusal::new(Reason::ConnectFailed, "the forward proxy did not answer"))?;
    match response.framing() {
        h1::Framing::Tunnel => Ok(()),
        _ => Err(Refusal::new(
            Reason::ConnectFailed,
            format!("the forward proxy answered {} to CONNECT {target}", response.status()),
        )),
    }
}
