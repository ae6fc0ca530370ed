//! What people see of members that hold different things, until they hold the same.

use crate::load::{Load, check, import};
use crate::members::{Group, PATIENCE, Plan, until};
use kith::model::settings::Level;
use std::process::Output;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn waiting_names_the_member_that_stands_still_and_ends_when_all_hold_the_same() {
    let group = Group::ready(3, &Plan::default().setting("replication_factor", "3")).await;
    let equal = group[0].kith(&["status", "--wait"]);
    assert!(equal.status.success(), "{equal:?}");
    assert!(stdout(&equal).contains("3 members"), "{equal:?}");

    group[2].signal("STOP");
    let model = import(&group[0].client(), "meanwhile", 300).await;
    let waited = group[1].kith(&["status", "--wait", "--timeout", "2s"]);
    assert_eq!(waited.status.code(), Some(1), "{waited:?}");
    assert!(stderr(&waited).contains("member3 does not answer"), "{waited:?}");
    let told = group[1].kith(&["status", "--wait", "--timeout", "1s", "--json"]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let document: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(document["converged"], false, "{document}");
    // Not only who is asked, but also who keeps something for it, says so in the end.
    until("somebody keeps hints for it or has records under way to it", PATIENCE, async || {
        let told = group[0].client().convergence().await.map_err(|error| error.to_string())?;
        let behind = told.peers.iter().find(|peer| peer.name == "member3");
        let is_behind = behind.is_some_and(|peer| peer.hints + peer.records_under_way > 0);
        if is_behind { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;

    group[2].signal("CONT");
    let equal = group[1].kith(&["status", "--wait"]);
    assert!(equal.status.success(), "{equal:?}");
    for member in &group.members {
        check(member, Level::One, &model).await.unwrap();
    }
    let shown = stdout(&group[1].kith(&["status"]));
    assert!(shown.contains("COMPARED") && shown.contains("member3"), "{shown}");
    let lost = group[1].kith(&["status", "--superseded"]);
    assert!(lost.status.success(), "{lost:?}");
    let wrong = group[1].kith(&["status", "--timeout", "5s"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_ends_also_while_clients_go_on_writing() {
    let group = Group::ready(3, &Plan::default().setting("replication_factor", "3")).await;
    let clients: Vec<_> = group.members.iter().map(|member| vec![member.http.to_string()]).collect();
    let load = Load::start(&clients);
    load.until_more(500).await;
    let equal = group[1].kith(&["status", "--wait", "--timeout", "2m"]);
    assert!(equal.status.success(), "{equal:?}");
    load.until_more(500).await;
    assert_eq!(load.errors(), Vec::<String>::new());
    load.stop().await;
}
