//! Tokens: create, list, revoke; and what the command line shows of its own.

use super::MEMBER;
use super::error::CliError;
use super::output::{Output, duration, table};
use crate::client::{Client, ClientBuilder};
use crate::config::MemberConfig;
use crate::model::token::{Grant, Role};
use crate::node::handle::tokens::{TokenRequest, TokenRow};
use crate::security::{ClusterKeys, Secret, operator};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of the largest file with a token or with certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What the command line shows to members, and whom it trusts.
#[derive(Debug, Args)]
pub(super) struct AccessArgs {
    /// Token to show; others on this machine see it here, so rather use KITH_TOKEN or --token-file
    #[arg(long, global = true, help_heading = MEMBER, env = "KITH_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// File that holds the token to show
    #[arg(long, global = true, help_heading = MEMBER, env = "KITH_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<OsString>,
    /// Certificates (PEM) of who vouches for the members, for https:// addresses [default: the system's]
    #[arg(long, global = true, help_heading = MEMBER, env = "KITH_CA_FILE", value_name = "FILE")]
    ca_file: Option<OsString>,
}

impl AccessArgs {
    /// A client of these members that asks each of them once: who types a command waits for no member.
    pub(super) fn client(&self, addresses: Vec<String>) -> Result<Client, CliError> {
        Ok(self.builder(addresses)?.build()?)
    }

    fn builder(&self, addresses: Vec<String>) -> Result<ClientBuilder, CliError> {
        let mut builder = Client::builder(addresses).patience(Duration::ZERO);
        // Of an empty variable nothing is meant.
        let given = |file: &Option<OsString>| file.clone().filter(|file| !file.is_empty()).map(PathBuf::from);
        if let Some(file) = given(&self.ca_file) {
            builder = builder.authorities(read(&file)?);
        }
        match (&self.token, given(&self.token_file)) {
            (Some(token), _) if !token.is_empty() => Ok(builder.token(token.trim())),
            (_, Some(file)) => Ok(builder.token(String::from_utf8_lossy(&read(&file)?).trim())),
            _ => Ok(builder),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    let fail = |source| CliError::io(format!("can't read {}", file.display()), source);
    let mut bytes = Vec::new();
    File::open(file).map_err(fail)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it; it is shown this once
    #[command(after_help = "Examples:\n  \
        kith token create admin --role admin                          # the first one\n  \
        kith token create shop --role write --collections 'shop.*'    # shop.users, shop.carts, ...\n  \
        kith token create web --role read --collections 'shop.*' --also write=sessions\n\n\
        A role includes those before it: read, write, admin. With --collections it holds in the collection of that\n\
        name, or with * at the end in all whose names begin like that; else everywhere. An admin makes and revokes\n\
        tokens of the same collections; one of all collections may do everything, also to the cluster.\n\
        If no admin's token is left, whoever can read a member's file on its machine makes a new one:\n  \
        kith token create admin2 --role admin --config /etc/kith/member.toml")]
    Create {
        /// Its name, unique in the cluster
        name: String,
        /// What it allows: read, write or admin
        #[arg(long, value_parser = parse_role)]
        role: Role,
        /// A collection, or with * at the end all whose names begin like that [default: all collections]
        #[arg(long, value_name = "COLLECTION")]
        collections: Vec<String>,
        /// A role in further collections
        #[arg(long, value_name = "ROLE=COLLECTION", value_parser = parse_grant)]
        also: Vec<Grant>,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Show the tokens and what they allow
    List {
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Take a token back, on all members
    Revoke {
        /// Its name
        name: String,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

/// Asking as who knows the cluster secret.
#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    /// Ask the member of this file, and show that its secret is known instead of a token
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn parse_role(text: &str) -> Result<Role, String> {
    text.parse::<Role>().map_err(|error| error.to_string())
}

fn parse_grant(text: &str) -> Result<Grant, String> {
    let (role, collections) =
        text.split_once('=').ok_or("write ROLE=COLLECTION, such as read=sessions or read=shared.*")?;
    Ok(Grant { role: parse_role(role)?, collections: collections.to_owned() })
}

impl TokenCommand {
    const fn operator(&self) -> &OperatorArgs {
        match self {
            Self::Create { operator, .. } | Self::List { operator } | Self::Revoke { operator, .. } => {
                operator
            }
        }
    }

    /// The client to ask with: the operator's, if the command names a member's file.
    pub(super) fn client(&self, access: &AccessArgs, addresses: Vec<String>) -> Result<Client, CliError> {
        self.operator().client(access, addresses)
    }
}

impl OperatorArgs {
    /// The client to ask with: the operator's, if a member's file is named.
    pub(super) fn client(&self, access: &AccessArgs, addresses: Vec<String>) -> Result<Client, CliError> {
        let Some(file) = &self.config else { return access.client(addresses) };
        operators_client(file, |addresses| access.builder(addresses))
    }
}

/// A client of the member of this file that shows that its secret is known.
pub(super) fn operators_client(
    file: &Path,
    builder: impl FnOnce(Vec<String>) -> Result<ClientBuilder, CliError>,
) -> Result<Client, CliError> {
    let config = MemberConfig::load(file)?;
    let failed = |error: crate::security::SecretError| CliError::Failed(error.to_string());
    let secret = Secret::parse(&String::from_utf8_lossy(config.secret.expose())).map_err(failed)?;
    let keys = ClusterKeys::derive(&secret, &config.cluster).map_err(failed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let proof = operator::prove(&keys, now.as_secs());
    Ok(builder(vec![own_address(&config)])?.token(proof).build()?)
}

/// Where a command on a member's machine reaches it.
fn own_address(config: &MemberConfig) -> String {
    if config.tls.is_some() {
        // The certificate is for the name under which others know it.
        return format!("https://{}", config.advertise_http);
    }
    let ip = match config.listen_http.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, config.listen_http.port()).to_string()
}

/// `kith token …`
pub(super) async fn run(client: &Client, command: TokenCommand, output: Output) -> Result<(), CliError> {
    match command {
        TokenCommand::Create { name, role, collections, also, operator: _ } => {
            let named = collections.into_iter().map(|collections| Grant { role, collections });
            let mut grants: Vec<Grant> = named.collect();
            if grants.is_empty() {
                grants.push(Grant::everywhere(role));
            }
            grants.extend(also);
            let request = TokenRequest { name, grants };
            let created = client.create_token(&request).await?;
            output.show(&created, || created.token.expose().to_owned())?;
            if !output.json {
                output.note("this is shown only now; who has it may do what it allows");
            }
            Ok(())
        }
        TokenCommand::List { operator: _ } => {
            let list = client.tokens().await?;
            output.show(&list, || {
                if list.tokens.is_empty() {
                    return "no tokens: each member serves the clients of its own machine".to_owned();
                }
                table(&["NAME", "ALLOWS", "AGE"], list.tokens.iter().map(columns))
            })
        }
        TokenCommand::Revoke { name, operator: _ } => {
            let before = client.tokens().await.map(|list| list.tokens).unwrap_or_default();
            let row = client.revoke_token(&name).await?;
            output.show(&row, || format!("token `{name}` is revoked"))?;
            if before.iter().all(|row| row.name == name) && !before.is_empty() {
                output.note(
                    "if no other token is left, each member serves all clients of its own machine again, and no others",
                );
            }
            Ok(())
        }
    }
}

fn columns(row: &TokenRow) -> Vec<String> {
    let grants: Vec<String> = row.grants.iter().map(ToString::to_string).collect();
    let allows = if row.unreadable { "unreadable: revoke it".to_owned() } else { grants.join(", ") };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let age = row.created_ms.map(|created_ms| duration(now_ms.saturating_sub(created_ms)));
    vec![row.name.clone(), allows, age.unwrap_or_else(|| "-".to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_can_not_be_read_is_not_shown_as_one_that_allows_nothing() {
        let (name, grants) = ("broken".to_owned(), Vec::new());
        let row = TokenRow { name, grants, created_ms: None, unreadable: true };
        assert_eq!(columns(&row), ["broken", "unreadable: revoke it", "-"]);
    }
}
