//! What the command line takes and what it refuses.

use super::*;
use clap::CommandFactory;
use clap::error::ErrorKind;

fn parse(line: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("kith").chain(line.iter().copied()))
}

fn refused(line: &[&str]) -> (ErrorKind, i32, String) {
    let error = parse(line).unwrap_err();
    (error.kind(), error.exit_code(), error.to_string())
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn without_arguments_it_helps_and_counts_as_wrong_usage() {
    let (kind, code, help) = refused(&[]);
    assert_eq!((kind, code), (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, 2));
    for command in ["dev", "serve", "status", "import", "settings"] {
        assert!(help.contains(command), "{help}");
    }
}

#[test]
fn asking_for_help_is_no_error() {
    let (kind, code, help) = refused(&["put", "--help"]);
    assert_eq!((kind, code), (ErrorKind::DisplayHelp, 0));
    assert!(help.contains("kith put greeting hello"), "{help}");
}

#[test]
fn wrong_usage_has_the_code_2_and_names_what_is_wrong() {
    let cases: [(&[&str], &str); 19] = [
        (&["gett", "a"], "get"),
        (&["get"], "<KEY>"),
        (&["put", "a"], "<VALUE>"),
        (&["put", "a", "b", "--ttl", "1w"], "length of time"),
        (&["get", "a", "--level", "most"], "is not a level"),
        (&["dev", "--members", "0"], "0 is not in 1..=9"),
        (&["dev", "--members", "10"], "10 is not in 1..=9"),
        (&["scan", "--limit", "0"], "above 0"),
        (&["init", "replication_factor"], "NAME=VALUE"),
        (&["init", "--partitions", "100"], "--partitions"),
        (&["init", "--partitions", "8192"], "power of two"),
        (&["put", "a", "b", "--after", "x"], "--after"),
        (&["delete", "a", "--after", "x"], "--after"),
        (&["join", "nonsense"], "write HOST:PORT"),
        (&["placement", "--collection", "c"], "<KEY>"),
        (&["serve"], "--config"),
        (&["remove"], "<NAME>"),
        (&["settings", "set"], "NAME=VALUE"),
        (&["settings", "set", "replication_factor"], "NAME=VALUE"),
    ];
    for (line, part) in cases {
        let (_, code, text) = refused(line);
        assert_eq!(code, 2, "{line:?}");
        assert!(text.contains(part), "{line:?}: {text}");
    }
}

#[test]
fn what_the_unit_of_systemd_starts_is_a_member() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/systemd/kith.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/kith ")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    assert!(matches!(parse(&words).unwrap().command, Command::Serve(_)), "{line}");
    // Wrong usage is the one failure that no time helps.
    assert!(unit.contains("\nRestart=on-failure\nRestartPreventExitStatus=2\n"));
    assert_eq!(refused(&["serve"]).1, 2);
}

#[test]
fn for_programs_wrong_usage_is_told_without_the_word_error_before_it() {
    let told = |line: &[&str]| usage_message(&parse(line).unwrap_err());
    assert!(told(&["gett", "a"]).starts_with("unrecognized subcommand 'gett'"), "{}", told(&["gett", "a"]));
    assert!(told(&["get"]).starts_with("the following required"), "{}", told(&["get"]));
}

#[tokio::test]
async fn a_collection_that_can_not_be_one_ends_every_command_alike() {
    let client = Client::new(["127.0.0.1:1"]).unwrap();
    for line in [&["get", "a", "-c", "no good"][..], &["import", "-", "-c", "no good"]] {
        let command = parse(line).unwrap().command;
        let error = ask(command, &client, 1, Output { json: true }).await.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("bad_key", 1), "{line:?}: {error}");
    }
}

#[test]
fn global_options_stand_anywhere() {
    for line in
        [["--json", "get", "a", "--address", "h:1,i:2"], ["get", "a", "--address", "h:1,i:2", "--json"]]
    {
        let cli = parse(&line).unwrap();
        assert!(cli.json);
        assert_eq!(cli.address, ["h:1", "i:2"]);
    }
}

#[test]
fn a_value_may_look_like_an_option() {
    let Command::Put(args) = parse(&["put", "temperature", "-5"]).unwrap().command else { panic!() };
    assert!(format!("{args:?}").contains("\"-5\""), "{args:?}");
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    let error: CliError = Client::new(["nowhere"]).unwrap_err().into();
    assert_eq!(error.exit_code(), 2);
    let error = CliError::Failed(String::new());
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_change_of_the_cluster_is_told_in_one_line() {
    use crate::node::handle::status::{Change, Transition};
    let copies = Transition {
        change: Change::ReplicationFactor,
        member: None,
        collection: None,
        from: Some("2".to_owned()),
        to: Some("3".to_owned()),
        waits: false,
        partitions: 200,
        partitions_done: 17,
        reason: None,
    };
    let told = departure::describe_transition(&copies);
    assert_eq!(told, "replication factor from 2 to 3: 17 of 200 partitions ready");
    let of_one = Transition { collection: Some("shop".to_owned()), ..copies.clone() };
    let told = departure::describe_transition(&of_one);
    assert_eq!(told, "replication factor of the collection shop from 2 to 3: 17 of 200 partitions ready");
    let zone = Transition {
        change: Change::Zone,
        member: Some("m".to_owned()),
        from: Some(String::new()),
        to: Some("b".to_owned()),
        waits: true,
        reason: Some("another change is under way".to_owned()),
        ..copies
    };
    let told = departure::describe_transition(&zone);
    assert_eq!(told, "zone of m from none to b, waits: another change is under way");
}
