//! What a member's file may say, and what it is told when it says something else.

use super::*;
use crate::config::KEYS;
use proptest::prelude::*;

const GOOD: &str = r#"
name = "member1"
data_dir = "data"
secret = "0123456789abcdef"
[listen]
peers = "127.0.0.1:7400"
"#;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<MemberConfig, ConfigErrors> {
    let lookup = |variable: &str| {
        environment.iter().find(|(name, _)| *name == variable).map(|(_, value)| (*value).to_owned())
    };
    MemberConfig::from_text(text, Path::new("/etc/kith/member.toml"), &lookup)
}

/// The problems' keys, lines and messages for a good file and these lines after it.
fn problems(more: &str) -> Vec<(String, Option<usize>, String)> {
    let text = format!("{more}\n{GOOD}");
    let errors = parse(&text, &[]).unwrap_err();
    errors.problems.into_iter().map(|problem| (problem.key, problem.line, problem.message)).collect()
}

#[test]
fn a_small_file_is_filled_up_with_the_defaults() {
    let config = parse(GOOD, &[]).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/kith/data"));
    assert_eq!(config.listen_http, "127.0.0.1:7401".parse().unwrap());
    assert_eq!(config.listen_resp, Some("127.0.0.1:7402".parse().unwrap()));
    assert_eq!((config.advertise_peers.as_str(), config.cluster.as_str()), ("127.0.0.1:7400", "kith"));
    assert_eq!((config.memory.table_bytes, config.create.partition_bits), (512 << 20, 8));
    assert_eq!(config.memory.journal_bytes, None, "it follows the records");
    assert!(!config.bootstrap && config.seeds.is_empty() && config.create.settings.is_empty());
}

#[test]
fn one_address_can_not_take_all_places_for_handshakes_by_default() {
    let places = parse(GOOD, &[]).unwrap().limits.pending_handshakes;
    assert_eq!(places, crate::security::limits::MAX_PENDING_HANDSHAKES);
    assert!(places > crate::security::limits::MAX_PENDING_PER_ADDRESS);
}

#[test]
fn clients_never_take_the_files_that_a_member_needs_itself() {
    let limits = parse(GOOD, &[]).unwrap().limits;
    let all = |limits: Limits| limits.http_connections + limits.resp_connections + limits.pending_handshakes;
    assert_eq!(limits.within(u64::MAX), limits);
    assert_eq!(limits.within(all(limits) as u64 + 512), limits);
    for (files, own) in [(all(limits) + 511, 512), (4_096, 512), (1_024, 512), (256, 100), (64, 16)] {
        let lowered = limits.within(files as u64);
        assert!(all(lowered) <= files - own && lowered != limits, "{files}: {lowered:?}");
        assert!(lowered.http_connections >= 8 && lowered.pending_handshakes >= 8, "{files}: {lowered:?}");
        assert!(lowered.resp_connections >= lowered.http_connections, "{files}: {lowered:?}");
    }
    let few = Limits { http_connections: 1, ..limits };
    assert_eq!(few.within(256).http_connections, 1, "none is raised");
}

#[test]
fn the_environment_wins_over_the_file() {
    let environment = [
        ("KITH_NAME", "other"),
        ("KITH_SEEDS", "a:1, b:2"),
        ("KITH_MEMORY_TABLE_BYTES", "1GiB"),
        ("KITH_LISTEN_RESP", "off"),
        ("KITH_SECRET", "fedcba9876543210"),
    ];
    let config = parse(GOOD, &environment).unwrap();
    assert_eq!((config.name.as_str(), config.memory.table_bytes), ("other", 1 << 30));
    assert_eq!((config.seeds, config.listen_resp), (vec!["a:1".to_owned(), "b:2".to_owned()], None));
    assert_eq!(config.secret.expose(), b"fedcba9876543210");
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    let errors = parse(GOOD, &[("KITH_BOOTSTRAP", "maybe")]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "environment KITH_BOOTSTRAP: `bootstrap`: `maybe` is neither `true` nor `false`"
    );
}

#[test]
fn each_wrong_value_is_told_with_its_key_and_line() {
    for (line, key, part) in [
        ("zone = \"a b\"", "zone", "can't be a name"),
        ("cluster = \"\"", "cluster", "can't be a name"),
        ("seeds = \"a:1\"", "seeds", "must be a list"),
        ("seeds = [\"nowhere\"]", "seeds", "no address to connect to"),
        ("bootstrap = 3", "bootstrap", "neither `true` nor `false`"),
        ("bootstrap = [true]", "bootstrap", "is a list"),
        ("log.format = \"xml\"", "log.format", "use `text` or `json`"),
        ("log.level = \"loud\"", "log.level", "is no level"),
        ("memory.table_bytes = \"1MB\"", "memory.table_bytes", "is no size"),
        ("memory.journal_bytes = 1", "memory.journal_bytes", "out of bounds; use 16MiB to"),
        ("limits.http_connections = 0", "limits.http_connections", "from 1 to"),
        ("create.partitions = 3", "create.partitions", "a power of two"),
        ("advertise.peers = \"0.0.0.0:1\"", "advertise.peers", "nobody can connect"),
        ("secret_file = \"x\"", "secret", "keep one of them"),
        ("log = 1", "log", "is a table"),
        ("nmae = \"x\"", "nmae", "the nearest is `name`"),
        ("memory.tabel_bytes = 1", "memory.tabel_bytes", "the nearest is `memory.table_bytes`"),
        ("create.settings.replication_facto = 1", "create.settings.replication_facto", "replication_factor"),
        ("create.settings.replication_factor = 99", "create.settings.replication_factor", "from 1 to"),
        ("create.settings.sync = []", "create.settings.sync", "plain value"),
    ] {
        let found = problems(line);
        let fits = |(k, _, message): &&(String, Option<usize>, String)| k == key && message.contains(part);
        assert!(found.iter().any(|problem| fits(&problem)), "{line}: {found:?}");
        let at = found.iter().find(fits).and_then(|(_, at, _)| *at);
        assert!(at == Some(1) || key == "secret", "{line}: {found:?}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let errors =
        parse("data_dir = \"\"\nbootstrap = 7\ncolour = 1\n[listen]\nhttp = \"x\"", &[]).unwrap_err();
    let keys: Vec<&str> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        ["colour", "name", "data_dir", "bootstrap", "secret_file", "listen.http", "advertise.peers"]
    );
    assert_eq!(errors.to_string().lines().count(), keys.len());
    assert!(errors.to_string().starts_with("/etc/kith/member.toml:3: `colour`: "), "{errors}");
}

#[test]
fn an_address_for_all_interfaces_must_be_advertised() {
    let errors = parse(&GOOD.replace("127.0.0.1:7400", "0.0.0.0:7400"), &[]).unwrap_err();
    assert!(errors.to_string().contains("`advertise.peers`: is missing"), "{errors}");
    let text = format!("{}\nhttp = \"0.0.0.0:7401\"\n[advertise]\npeers = \"m1:7400\"", GOOD);
    assert_eq!(parse(&text, &[]).unwrap().advertise_http, "m1:7401");
}

#[test]
fn two_services_on_one_address_are_refused() {
    let errors = parse(&format!("{GOOD}\nhttp = \"127.0.0.1:7400\""), &[]).unwrap_err();
    assert!(errors.to_string().contains("already taken by `listen.peers`"), "{errors}");
    let free = format!("{GOOD}\nhttp = \"127.0.0.1:0\"\nresp = \"127.0.0.1:0\"");
    assert!(parse(&free, &[]).is_ok());
}

#[test]
fn broken_syntax_is_told_with_its_line() {
    let errors = parse("name = \"a\"\nzone = = 3\n", &[]).unwrap_err();
    assert_eq!(errors.problems.first().and_then(|problem| problem.line), Some(2), "{errors}");
}

#[test]
fn settings_to_create_with_are_stored_in_canonical_form() {
    let text = format!("{GOOD}\n[create.settings]\nreplication_factor = 2\nsync = \"interval\"");
    let settings = parse(&text, &[]).unwrap().create.settings;
    assert_eq!(settings.get("replication_factor").map(String::as_str), Some("2"));
    assert_eq!(settings.get("sync").map(String::as_str), Some("interval"));
}

#[test]
fn the_secret_is_read_from_its_file_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("member.toml");
    let text = GOOD.replace("secret = \"0123456789abcdef\"", "secret_file = \"cluster.secret\"");
    let load = || MemberConfig::from_text(&text, &path, &|_| None);
    assert!(load().unwrap_err().to_string().contains("kith secret"), "a missing file says what to do");
    std::fs::write(directory.path().join("cluster.secret"), "tooshortsecret\n").unwrap();
    let refused = load().unwrap_err();
    assert!(refused.to_string().contains("14 bytes") && !format!("{refused:?}").contains("tooshort"));
    std::fs::write(directory.path().join("cluster.secret"), "0123456789abcdefgh\n").unwrap();
    let config = load().unwrap();
    assert_eq!(config.secret.expose(), b"0123456789abcdefgh");
    assert_eq!(
        config.secret_file,
        Some(directory.path().join("cluster.secret")),
        "where it is looked at again"
    );
    let environment =
        |variable: &str| (variable == "KITH_SECRET").then(|| "one of the environment".to_owned());
    let config_of_environment = MemberConfig::from_text(&text, &path, &environment).unwrap();
    assert_eq!(config_of_environment.secret_file, None);
    assert!(!format!("{config:?}").contains("0123456789abcdefgh"));
}

#[test]
fn the_committed_files_load_once_their_secret_is_made() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("cluster.secret"), "a secret only for this test").unwrap();
    let mut ports = Vec::new();
    for number in 1..=3 {
        let text = std::fs::read_to_string(committed.join(format!("member{number}.toml"))).unwrap();
        let path = directory.path().join(format!("member{number}.toml"));
        let config = MemberConfig::from_text(&text, &path, &|_| None).unwrap();
        assert_eq!((config.name, config.bootstrap), (format!("member{number}"), true));
        assert!(!config.seeds.contains(&config.advertise_peers), "its seeds are the others");
        assert_eq!(config.seeds.len(), 2);
        ports.push(config.listen_peers.port());
    }
    assert_eq!(ports, [7400, 7410, 7420]);
}

#[test]
fn every_default_fits_its_key() {
    let config = parse(GOOD, &[]).unwrap();
    let given: Vec<(String, &str)> =
        KEYS.iter().filter_map(|key| Some((key.variable(), key.default?))).collect();
    let lookup = |variable: &str| {
        let own = given.iter().find(|(name, _)| name == variable && name != "KITH_LISTEN_PEERS");
        own.map(|(_, value)| (*value).to_owned())
    };
    assert_eq!(MemberConfig::from_text(GOOD, Path::new("/etc/kith/member.toml"), &lookup), Ok(config));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,300}") {
        let _ = parse(&text, &[]);
    }

    #[test]
    fn arbitrary_values_never_panic(
        index in 0..KEYS.len(),
        value in prop_oneof![
            ".{0,40}".prop_map(|text| format!("{text:?}")),
            "[-0-9a-z\\[\\]{}\"=.,: \n]{0,40}",
        ],
    ) {
        let path = KEYS[index].path;
        let _ = parse(&format!("{path} = {value}\n{GOOD}"), &[]);
        let _ = parse(GOOD, &[(KEYS[index].variable().as_str(), value.as_str())]);
    }
}
