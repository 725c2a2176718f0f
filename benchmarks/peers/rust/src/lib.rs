//! What the echo servers share: a port from the command line, one thread, TCP_NODELAY.

use std::future::Future;
use tokio::net::{TcpListener, TcpStream};

/// Serves every connection with `echo` until killed.
pub fn serve<F, E>(echo: F) -> !
where
    F: Fn(TcpStream) -> E,
    E: Future<Output = ()> + 'static,
{
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("TCP_NODELAY");
            tokio::task::spawn_local(echo(stream));
        }
    })
}
