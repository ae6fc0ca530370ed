//! The cluster secret is changed while everybody runs, while some are away, and by those who do it wrong.

use crate::load::{Load, until_everywhere};
use crate::members::{Group, Member, PATIENCE, Plan, until};
use crate::wires::{Cut, Wires};
use kith::node::handle::secrets::{SecretState, SecretStep};
use kith::security::{
    ClusterKeys, Credentials, HandshakeError, Identity, Keyring, ProtocolRange, Refusal, Role, Secret,
};
use kith::transport::LinkError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// Runs `kith secret` against a member.
fn secret(member: &Member, arguments: &[&str]) -> Output {
    member.kith(&[&["secret"], arguments].concat())
}

/// What a step that is taken tells.
fn done(member: &Member, arguments: &[&str]) -> String {
    let output = secret(member, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Why a step is refused.
fn refused(member: &Member, arguments: &[&str]) -> String {
    let output = secret(member, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn state(member: &Member) -> Result<SecretState, String> {
    let output = secret(member, &["status", "--json"]);
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Waits until every member tells that all are at this step of the same change.
async fn until_at(members: &[Member], step: SecretStep) -> SecretState {
    let mut last = None;
    for member in members {
        let at = until(&format!("all are at {step}, says {}", member.name), PATIENCE, async || {
            let at = state(member)?;
            let all = at.step == step && at.members.iter().all(|row| row.taken == Some(true));
            if all && at.members.len() == members.len() { Ok(at) } else { Err(format!("{at:?}")) }
        })
        .await;
        let same = |before: &SecretState| (before.uses.clone(), before.accepts.clone());
        assert!(last.as_ref().is_none_or(|before| same(before) == same(&at)), "{last:?} and {at:?}");
        last = Some(at);
    }
    last.unwrap()
}

fn text_in(file: &Path) -> String {
    fs::read_to_string(file).unwrap().trim().to_owned()
}

fn file_in(group: &Group, name: &str) -> (PathBuf, String) {
    let file = group.directory.path().join(name);
    let shown = file.display().to_string();
    (file, shown)
}

fn keys(secret: &str) -> ClusterKeys {
    ClusterKeys::derive(&Secret::parse(secret).unwrap(), &Plan::default().cluster).unwrap()
}

/// How a handshake with a member ends for a stranger who knows this secret.
async fn knock(member: &Member, secret: &str) -> Result<(), LinkError> {
    let (min, max) = kith::protocol::VERSIONS.into_inner();
    let credentials = Credentials {
        identity: Identity::generate([9; 32]).unwrap(),
        keyring: Keyring::new(keys(secret), None),
        cluster: Plan::default().cluster,
        protocol: ProtocolRange { min, max },
    };
    let to = member.peers.to_string();
    kith::transport::connect(&to, &credentials, Role::Joining, b"", Duration::from_secs(10)).await.map(drop)
}

/// No text of a secret stands where it does not belong.
fn assert_hidden(group: &Group, texts: &[&str]) {
    for member in &group.members {
        for text in texts {
            assert!(!member.log().contains(text), "a secret is in the log of {}", member.name);
        }
    }
}

/// How many links each member has made since it started. Metrics would tell it too, as of some time ago.
fn links_made(group: &Group) -> Vec<usize> {
    group.members.iter().map(|member| member.log().matches("link up").count()).collect()
}

#[tokio::test]
async fn the_secret_is_changed_under_writes_with_no_member_down_and_no_link_lost() {
    let old = Plan::default().secret;
    let mut group = Group::ready(3, &Plan { secret_file: true, ..Plan::default() }).await;
    let pids: Vec<_> = group.members.iter().map(Member::pid).collect();
    let addresses: Vec<String> = group.members.iter().map(|member| member.http.to_string()).collect();
    let load = Load::start(&[addresses.clone(), addresses]);
    load.until_more(300).await;
    let before = links_made(&group);

    assert!(refused(&group[1], &["use"]).contains("kith secret add"));
    let (file, shown) = file_in(&group, "new.secret");
    let told = done(&group[0], &["add", "--new", &shown]);
    assert!(told.contains("taken by 3 of 3 members"), "{told}");
    let new = text_in(&file);
    let added = until_at(&group.members, SecretStep::Added).await;
    let ids = [keys(&old).id().to_string(), keys(&new).id().to_string()];
    assert_eq!((added.uses.clone(), added.accepts), (ids[0].clone(), ids.to_vec()));
    assert!(refused(&group[2], &["retire"]).contains("kith secret use"));
    for secret in [&old, &new] {
        knock(&group[0], secret).await.unwrap();
    }
    load.until_more(300).await;

    assert!(done(&group[1], &["use"]).contains("taken by 3 of 3 members"));
    assert_eq!(until_at(&group.members, SecretStep::Used).await.uses, ids[1]);
    load.until_more(300).await;

    assert!(done(&group[2], &["retire"]).contains("taken by 3 of 3 members"));
    let retired = until_at(&group.members, SecretStep::Retired).await;
    assert_eq!((retired.uses, retired.accepts), (ids[1].clone(), vec![ids[1].clone()]));
    for member in &group.members {
        let refusal = knock(member, &old).await.unwrap_err();
        let reason = HandshakeError::RefusedByPeer(Refusal::RetiredSecret);
        assert!(matches!(&refusal, LinkError::Handshake(error) if *error == reason), "{refusal}");
        knock(member, &new).await.unwrap();
        until("it is published", PATIENCE, async || {
            let accepted = member.metric("kith_secrets_accepted").await?;
            let outdated = member.metric("kith_secret_file_outdated").await?;
            if accepted < 1.5 && outdated > 0.5 { Ok(()) } else { Err(format!("{accepted}, {outdated}")) }
        })
        .await;
    }
    load.until_more(300).await;
    assert_eq!(links_made(&group), before, "links were proved and not made anew");
    assert_eq!(group.members.iter().map(Member::pid).collect::<Vec<_>>(), pids);
    until("what was sealed is erased", PATIENCE, async || {
        let kept = group[0].kith(&["scan", "-c", "_system_secrets", "--json"]);
        let text = String::from_utf8_lossy(&kept.stdout).into_owned();
        if text.contains("retired") && !text.contains("sealed") { Ok(()) } else { Err(text) }
    })
    .await;
    let model = load.stop().await;
    until_everywhere(&group.members, &model).await;
    files_are_looked_at(&mut group, &old, &new).await;
    restart_and_join(&mut group, &old, &new).await;
    until_everywhere(&group.members, &model).await;
    assert_hidden(&group, &[&old, &new]);
}

/// Writes a secret into the file of every member.
fn write_files(group: &mut Group, secret: &str) {
    for member in &mut group.members {
        secret.clone_into(&mut member.plan.secret);
        member.write_config();
    }
}

/// What stands in the files is told while all run: a copy with a mistake, then the right one. In the end it is the old one.
async fn files_are_looked_at(group: &mut Group, old: &str, new: &str) {
    write_files(group, "this was never a secret of the cluster");
    until("copies with a mistake are told", PATIENCE, async || {
        let warnings = group[0].status().await?.warnings.join("; ");
        let told = "the file of `member1`, `member2`, `member3` holds a secret that is not known here";
        if warnings.contains(told) { Ok(()) } else { Err(warnings) }
    })
    .await;
    write_files(group, new);
    until("nobody's file is out of date", PATIENCE, async || {
        let warnings = group[0].status().await?.warnings;
        if warnings.is_empty() { Ok(()) } else { Err(warnings.join("; ")) }
    })
    .await;
    for member in &group.members {
        until("that is published", PATIENCE, async || {
            let outdated = member.metric("kith_secret_file_outdated").await?;
            if outdated < 0.5 { Ok(()) } else { Err(outdated.to_string()) }
        })
        .await;
    }
    write_files(group, old);
}

/// All start again with the old secret in their files; then with the new one, and a fourth one joins with it.
async fn restart_and_join(group: &mut Group, old: &str, new: &str) {
    for member in &mut group.members {
        member.stop().await;
    }
    group.start();
    group.until_ready().await;
    until("all files are told to be out of date", PATIENCE, async || {
        let warnings = group[0].status().await?.warnings.join("; ");
        if warnings.contains("`member1`, `member2`, `member3`") { Ok(()) } else { Err(warnings) }
    })
    .await;
    for index in 0..group.members.len() {
        new.clone_into(&mut group[index].plan.secret);
        group[index].write_config();
        group[index].stop().await;
        group.start();
        group.until_ready().await;
    }
    let seed = group[0].peers;
    let plan = Plan { secret: new.to_owned(), ..Plan::default() }.seeds([seed]);
    group.add("member4", plan);
    let stranger = group.add("stranger", Plan { secret: old.to_owned(), ..Plan::default() }.seeds([seed]));
    group.start();
    group[3].until_ready().await;
    group[stranger].until_refusal(&["retired", "start it again"]).await;
    let stranger = group.members.remove(stranger);
    drop(stranger);
    group.until_ready().await;
    until("nobody's file is out of date", PATIENCE, async || {
        let warnings = group[0].status().await?.warnings;
        if warnings.is_empty() { Ok(()) } else { Err(warnings.join("; ")) }
    })
    .await;
}

#[tokio::test]
async fn a_member_that_was_away_takes_what_it_missed_and_after_the_retirement_needs_the_new_secret() {
    let mut group = Group::ready(3, &Plan::default()).await;
    group[2].kill();
    group[0].until_sees("member3", false, PATIENCE).await;
    let (file, shown) = file_in(&group, "second.secret");
    assert!(done(&group[0], &["add", "--new", &shown]).contains("taken by 2 of 3 members"));
    let away = refused(&group[0], &["use"]);
    assert!(away.contains("member3 can't be heard") && away.contains("--force"), "{away}");
    group.start();
    until_at(&group.members, SecretStep::Added).await;
    done(&group[2], &["use"]);
    until_at(&group.members, SecretStep::Used).await;
    // Whoever joins meanwhile may have either.
    let seed = group[1].peers;
    group.add("member4", Plan::default().seeds([seed]));
    group.start();
    group.until_ready().await;
    until_at(&group.members, SecretStep::Used).await;
    done(&group[3], &["retire"]);
    until_at(&group.members, SecretStep::Retired).await;

    group[2].kill();
    group[0].until_sees("member3", false, PATIENCE).await;
    let (third, shown) = file_in(&group, "third.secret");
    done(&group[0], &["add", "--new", &shown]);
    for step in ["use", "retire"] {
        let away = refused(&group[0], &[step]);
        assert!(
            away.contains("member3") && away.contains("refused until the new one stands in its file"),
            "{away}"
        );
        assert!(done(&group[0], &[step, "--force"]).contains("not heard"));
    }
    group.start();
    let reason =
        group[2].until_refusal(&["retired", "put the new one into its file", "start it again"]).await;
    assert!(!reason.contains(&text_in(&file)), "{reason}");
    group[2].kill();
    group[2].plan.secret = text_in(&third);
    group[2].write_config();
    group.start();
    group.until_ready().await;
    until_at(&group.members, SecretStep::Retired).await;
    assert_hidden(&group, &[&text_in(&file), &text_in(&third)]);
}

#[tokio::test]
async fn what_is_no_new_secret_is_refused_and_changes_nothing() {
    let old = Plan::default().secret;
    let mut group = Group::ready(2, &Plan::default().setting("replication_factor", "2")).await;
    let before = until_at(&group.members, SecretStep::Unchanged).await;
    let (file, shown) = file_in(&group, "some.secret");
    let long = "x".repeat(1_025);
    for (text, told) in [("tooshort", "8 bytes"), (&long, "1025 bytes"), (&old, "has now")] {
        fs::write(&file, text).unwrap();
        let reason = refused(&group[0], &["add", &shown]);
        assert!(reason.contains(told) && reason.contains("nothing was changed"), "{reason}");
        assert!(!reason.contains(text), "a secret is shown: {reason}");
    }
    assert!(refused(&group[0], &["add", "--new", &shown]).contains("can't write"), "no file is replaced");
    assert!(refused(&group[0], &["add", "nowhere.secret"]).contains("can't read"));
    for step in ["use", "retire"] {
        assert!(refused(&group[1], &[step]).contains("only one secret"));
    }
    let config = group[0].config().display().to_string();
    fs::write(&config, fs::read_to_string(&config).unwrap().replace(&old, "another secret altogether"))
        .unwrap();
    fs::write(&file, "the second secret of this cluster").unwrap();
    let denied = refused(&group[0], &["add", &shown, "--config", &config]);
    assert!(denied.contains("no token of this cluster"), "{denied}");
    group[0].write_config();
    assert_eq!(until_at(&group.members, SecretStep::Unchanged).await, before);

    // The file's secret shows who asks, and the same one twice is one.
    done(&group[0], &["add", &shown, "--config", &config]);
    let added = until_at(&group.members, SecretStep::Added).await;
    done(&group[1], &["add", &shown]);
    assert_eq!(until_at(&group.members, SecretStep::Added).await, added);
    // Another one takes its place as long as it is not in use.
    fs::write(&file, "  the third secret of this cluster\n").unwrap();
    done(&group[1], &["add", &shown]);
    let third = keys("the third secret of this cluster").id().to_string();
    until("it took its place everywhere", PATIENCE, async || {
        let accepts = state(&group[0])?.accepts;
        if accepts.contains(&third) { Ok(()) } else { Err(format!("{accepts:?}")) }
    })
    .await;
    done(&group[0], &["use"]);
    fs::write(&file, "the fourth secret of this cluster").unwrap();
    assert!(refused(&group[1], &["add", &shown]).contains("kith secret retire"));
    let (_, made) = file_in(&group, "made.secret");
    let reason = refused(&group[1], &["add", "--new", &made]);
    assert!(reason.contains(&format!("go on with `kith secret add {made}`")), "{reason}");
    // Who asks with the secret that is retired can't ask how far the others are, and that is no failure.
    done(&group[0], &["retire", "--config", &config]);
    let retired = until_at(&group.members, SecretStep::Retired).await;
    done(&group[1], &["retire"]);
    assert_eq!(until_at(&group.members, SecretStep::Retired).await, retired);
    fs::write(&file, &old).unwrap();
    assert!(refused(&group[1], &["add", &shown]).contains("was retired"));
    assert_hidden(&group, &[&old, "secret of this cluster"]);
    damage_the_ring(&mut group).await;
    replace_at_once(&mut group).await;
}

/// A member whose file of secrets is damaged says what to do, and comes back by that.
async fn damage_the_ring(group: &mut Group) {
    let ring = group[1].data().join("secrets");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&ring).unwrap().permissions()) & 0o777,
        0o600
    );
    group[1].stop().await;
    let mut bytes = fs::read(&ring).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&ring, bytes).unwrap();
    group.start();
    assert_eq!(group[1].ended(PATIENCE).await.code(), Some(1));
    assert!(group[1].log().contains("put the cluster's present secret into this member's file"));
    fs::remove_file(&ring).unwrap();
    group[1].plan.secret = "the third secret of this cluster".to_owned();
    group[1].write_config();
    group.start();
    group.until_ready().await;
    until_at(&group.members, SecretStep::Retired).await;
}

/// A secret that is in wrong hands is replaced while everybody is stopped, and the next one is changed as usual.
async fn replace_at_once(group: &mut Group) {
    for member in &mut group.members {
        member.stop().await;
        member.plan.secret = "the emergency secret of this cluster".to_owned();
        member.write_config();
    }
    group.start();
    group.until_ready().await;
    let ids = |texts: &[&str]| texts.iter().map(|text| keys(text).id().to_string()).collect::<Vec<_>>();
    let now = until_at(&group.members, SecretStep::Unchanged).await;
    assert_eq!(now.accepts, ids(&["the emergency secret of this cluster"]));
    let refusal = knock(&group[0], "the third secret of this cluster").await.unwrap_err();
    assert!(refusal.to_string().contains("retired"), "{refusal}");
    let (_, shown) = file_in(group, "next.secret");
    done(&group[0], &["add", "--new", &shown]);
    for (at, step) in [(1, "use"), (0, "retire")] {
        done(&group[at], &[step]);
    }
    until_at(&group.members, SecretStep::Retired).await;
}

#[tokio::test]
async fn of_secrets_added_on_both_sides_of_a_cut_the_later_one_is_changed_to_and_nobody_is_locked_out() {
    let (group, wires) = Wires::ready(3).await;
    wires.cut(Cut::Silent, &["member3"]);
    for (at, other) in [(0, "member3"), (2, "member1")] {
        group[at].until_sees(other, false, PATIENCE).await;
    }
    let mut files = Vec::new();
    for (at, name) in [(0, "one.secret"), (2, "other.secret")] {
        let (file, shown) = file_in(&group, name);
        let output = secret(&group[at], &["add", "--new", &shown]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || told.contains("not confirmed"), "{told}");
        files.push(text_in(&file));
        assert!(refused(&group[at], &["use"]).contains("can't be heard"));
        // The clocks tell which is the later one.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wires.heal();
    let added = until_at(&group.members, SecretStep::Added).await;
    assert_eq!(added.accepts[1], keys(&files[1]).id().to_string());
    wires.cut(Cut::Loud, &["member2"]);
    group[0].until_sees("member2", false, PATIENCE).await;
    assert!(refused(&group[0], &["use"]).contains("member2 can't be heard"));
    wires.heal();
    until_at(&group.members, SecretStep::Added).await;
    done(&group[1], &["use"]);
    until_at(&group.members, SecretStep::Used).await;
    // Half a step: what one side of a cut retires by force, the other one takes when it is back.
    wires.cut(Cut::Silent, &["member1"]);
    group[1].until_sees("member1", false, PATIENCE).await;
    done(&group[1], &["retire", "--force"]);
    wires.heal();
    until_at(&group.members, SecretStep::Retired).await;
    assert_hidden(&group, &[&files[0], &files[1]]);
}
