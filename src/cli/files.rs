//! Preparing a member's files: the secret and the configuration.

use super::error::CliError;
use super::output::Output;
use crate::config::{MemberConfig, unknown_variables};
use crate::security::secret::Secret;
use crate::security::tls::Door;
use serde_json::json;
use std::path::Path;

/// A new secret from the operating system's randomness.
pub(super) fn new_secret() -> Result<String, CliError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::Failed(format!("the operating system gives no randomness: {error}")))?;
    Ok(Secret::generate(random))
}

/// `kith secret`
pub(super) fn secret(output: Output) -> Result<(), CliError> {
    let secret = new_secret()?;
    output.show(&json!({ "secret": secret }), || secret.clone())
}

/// `kith check-config FILE`
pub(super) fn check_config(file: &Path, output: Output) -> Result<(), CliError> {
    let config = MemberConfig::load(file)?;
    if let Some(files) = &config.tls {
        let tried = Door::open(&files.certificate, &files.key, 1);
        tried.map_err(|error| CliError::Failed(format!("{}: TLS for clients: {error}", file.display())))?;
    }
    for doubt in doubts() {
        output.warn(&doubt);
    }
    let document = json!({
        "name": config.name,
        "cluster": config.cluster,
        "data_dir": config.data_dir,
        "peers": config.listen_peers,
        "http": config.listen_http,
        "resp": config.listen_resp,
    });
    output.show(&document, || {
        let (name, cluster, data) = (&config.name, &config.cluster, config.data_dir.display());
        let resp = config.listen_resp.map_or_else(|| "off".to_owned(), |address| address.to_string());
        let (peers, http) = (config.listen_peers, config.listen_http);
        format!("{} is fine: member `{name}` of cluster `{cluster}`\ndata {data}, members {peers}, HTTP {http}, RESP {resp}", file.display())
    })
}

/// What in the environment is probably meant for a member's file and is not understood.
pub(super) fn doubts() -> impl Iterator<Item = String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    unknown_variables(names).into_iter().map(|(name, nearest)| {
        format!("the environment's {name} is no key of a member's file and changes nothing; the nearest is {nearest}")
    })
}
