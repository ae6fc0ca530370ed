//! Talks to a cluster from a program: stores, reads on another member, follows what it saw.
//!
//! ```text
//! kith dev                                          # in another terminal
//! cargo run --example client 127.0.0.1:7401 127.0.0.1:7411
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use kith::client::{Client, ClientError, ListingQuery, WriteOptions};
use kith::model::settings::Level;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let mut addresses: Vec<String> = std::env::args().skip(1).collect();
    if addresses.is_empty() {
        addresses = vec!["127.0.0.1:7401".to_owned(), "127.0.0.1:7411".to_owned()];
    }
    // The first address that can be reached is asked, so a member may be down.
    let near = Client::new(addresses.clone())?;
    let far = Client::new(addresses.into_iter().rev())?;

    let options = WriteOptions { level: Some(Level::All), ttl_ms: Some(60_000), after: None };
    let written = near.put("example", b"color", "green".into(), &options).await?;
    println!("stored with {} copies", written.copies.unwrap_or_default());

    if let Some(found) = far.get("example", b"color", None).await? {
        println!("read {:?} elsewhere", found.value);
        // Passing on the timestamp makes this write follow the one that was read, whatever clocks say.
        let options = WriteOptions { after: Some(found.timestamp), ..WriteOptions::default() };
        far.put("example", b"color", "blue".into(), &options).await?;
    }

    let query = ListingQuery { prefix: Vec::new(), after: None, limit: 10, values: true, held: false };
    for entry in near.list("example", &query).await?.entries {
        println!("{:?} = {:?}", entry.key.unwrap_or_default(), entry.value.unwrap_or_default());
    }
    Ok(())
}
