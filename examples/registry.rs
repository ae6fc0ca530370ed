//! A service registry: services register for as long as they live, and everybody keeps a live list of them.
//!
//! A registration is a key with a time to live that its service renews, so what dies or is cut off is gone from all
//! lists within seconds and nobody has to clean up; a service that ends in order takes its own away at once. Whoever
//! looks for services keeps the list that a watch gives, on whichever member it is.
//!
//! ```text
//! kith dev                                                       # in a terminal of its own
//! cargo run --example registry -- watch                          # the live list, in another one
//! cargo run --example registry -- serve web 10.0.0.5:8080        # registered until Ctrl-C, or killed
//! cargo run --example registry -- list                           # who is there, and how often services started
//! ```
//!
//! `KITH_ADDRESS` names the members' HTTP addresses; without it, those of `kith dev`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use kith::Client;
use kith::client::{ClientError, ListingQuery, WatchEvent, WriteOptions};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// Where services are registered, as `name/address`.
const SERVICES: &str = "services";
/// Where their starts are counted, by name.
const STARTS: &str = "starts";
/// How long a registration lasts that nobody renews.
const TTL: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), ClientError> {
    let addresses = std::env::var("KITH_ADDRESS");
    let addresses = addresses.as_deref().unwrap_or("127.0.0.1:7401,127.0.0.1:7411,127.0.0.1:7421");
    let client = Client::new(addresses.split(','))?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name, address] => serve(&client, name, address).await,
        ["watch"] => watch(&client).await,
        ["list"] => list(&client).await,
        _ => {
            println!("usage: registry serve NAME ADDRESS | watch | list");
            Ok(())
        }
    }
}

/// Keeps a service registered until Ctrl-C.
async fn serve(client: &Client, name: &str, address: &str) -> Result<(), ClientError> {
    let key = format!("{name}/{address}");
    // Starts at several members at once all count.
    let starts = client.increment(STARTS, name.as_bytes(), 1, &WriteOptions::default()).await?;
    println!("start {} of {name}, registered as {key}", starts.number);
    let for_a_while = WriteOptions { ttl: Some(TTL), ..WriteOptions::default() };
    let mut beat = tokio::time::interval(TTL / 3);
    // One for all rounds, and heard first: a signal that comes during a renewal is not lost.
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            _ = beat.tick() => {
                // A renewal that failed, even one of unknown fate, is made up for by the next one.
                let state = format!("pid {}", std::process::id());
                if let Err(error) = client.put(SERVICES, key.as_bytes(), state.into(), &for_a_while).await {
                    println!("not renewed: {error}");
                }
            }
        }
    }
    client.delete(SERVICES, key.as_bytes(), &WriteOptions::default()).await?;
    println!("{key} is taken away");
    Ok(())
}

/// Keeps the list of services, and shows it whenever one comes or goes.
async fn watch(client: &Client) -> Result<(), ClientError> {
    let mut services: BTreeMap<String, String> = BTreeMap::new();
    let (mut events, mut is_whole) = (client.watch(SERVICES, b"", true), false);
    while let Some(event) = events.next().await {
        let before: Vec<String> = services.keys().cloned().collect();
        let was_whole = is_whole;
        match event? {
            // What is not listed again is gone; until all is listed the list is not whole.
            WatchEvent::Reset { .. } => {
                services.clear();
                is_whole = false;
            }
            WatchEvent::Put(item) => {
                services.insert(text(&item.key), text(&item.value.unwrap_or_default()));
            }
            WatchEvent::Delete { key, .. } => drop(services.remove(&text(&key))),
            WatchEvent::Synced => is_whole = true,
            WatchEvent::Interrupted { reason } => println!("the list may be old: {reason}"),
            _ => {}
        }
        // A renewal is an event, too, and changes nothing here.
        if is_whole && (!was_whole || !before.iter().eq(services.keys())) {
            let now: Vec<&str> = services.keys().map(String::as_str).collect();
            println!("services: {}", if now.is_empty() { "none".to_owned() } else { now.join(", ") });
        }
    }
    Ok(())
}

/// Shows who is there now.
async fn list(client: &Client) -> Result<(), ClientError> {
    let mut services = client.scan(SERVICES, ListingQuery::default());
    while let Some(service) = services.next().await.transpose()? {
        let (key, state) = (text(&service.key), text(&service.value.unwrap_or_default()));
        println!("{key}  {state}  for {} ms more", service.ttl.unwrap_or_default().as_millis());
    }
    let mut starts = client.scan(STARTS, ListingQuery::default());
    while let Some(counter) = starts.next().await.transpose()? {
        println!("{} was started {} times", text(&counter.key), text(&counter.value.unwrap_or_default()));
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
