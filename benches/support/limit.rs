//! A server that answers OK and does nothing: what the load, the sockets and the scheduler allow on this machine.

use anyhow::Result;
use std::net::{Ipv4Addr, TcpListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Answers OK to every command without looking at it, in a thread that ends with this value.
pub struct OkServer {
    pub port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OkServer {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener) => {}
                }
            });
        });
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for OkServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        _ = stream.set_nodelay(true);
        tokio::spawn(answer(stream));
    }
}

/// Every command has exactly one `*`, for the keys and values of the loads have none.
async fn answer(mut stream: tokio::net::TcpStream) {
    let (mut buffer, mut replies) = (vec![0; 16 << 10], Vec::new());
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
        let commands = buffer.iter().take(bytes).filter(|byte| **byte == b'*').count();
        replies.clear();
        for _ in 0..commands {
            replies.extend_from_slice(b"+OK\r\n");
        }
        if stream.write_all(&replies).await.is_err() {
            return;
        }
    }
}
