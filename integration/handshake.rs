//! Handshakes and links against an enemy on the wire, and over real sockets.
//!
//! The enemy records whole transcripts and replays, reflects, alters, cuts and reorders them. What
//! must hold: no session and no accepted byte comes of it, and both sides name the same reason when
//! they refuse each other.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

use kith::model::limits::MAX_FRAME_BYTES;
use kith::security::handshake::{HEAD_BYTES, MAX_INTRODUCTION_BYTES, MAX_MESSAGE_BYTES, body_bytes};
use kith::security::{
    Advance, ClusterKeys, Credentials, Established, Gate, Handshake, HandshakeError, Identity, Keyring,
    Opener, Progress, ProtocolRange, Refusal, Role, SealError, Secret,
};
use kith::transport::{
    Acceptor, BLOCKED_BYTES, FrameKind, Link, LinkError, LinkReader, LinkWriter, MAX_BUFFERED_BYTES, connect,
};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PROTOCOL: ProtocolRange = ProtocolRange { min: 1, max: 3 };
const PATIENCE: Duration = Duration::from_secs(20);

static KEYS: LazyLock<[ClusterKeys; 3]> = LazyLock::new(|| {
    ["the first good secret", "the second good secret", "the third good secret"]
        .map(|text| ClusterKeys::derive(&Secret::parse(text).unwrap(), "orchard").unwrap())
});

fn credentials(identity: u8, keys: &[usize]) -> Credentials {
    Credentials {
        identity: Identity::generate([identity; 32]).unwrap(),
        keyring: Keyring::new(KEYS[keys[0]].clone(), keys.get(1).map(|key| KEYS[*key].clone())),
        cluster: "orchard".to_owned(),
        protocol: PROTOCOL,
    }
}

type Outcome = Result<Box<Established>, HandshakeError>;

/// Runs a handshake between two members (initiator first) and lets `enemy` change each message by its
/// number. A side that would wait for ever has no outcome.
fn run(
    initiator: &Credentials,
    responder: &Credentials,
    mut enemy: impl FnMut(usize, Vec<u8>) -> Vec<u8>,
) -> [Option<Outcome>; 2] {
    let mut message = Vec::new();
    let mut sides = [
        Handshake::initiator(initiator, Role::Joining, b"from the initiator", &mut message).unwrap(),
        Handshake::responder(responder, Role::Member, b"from the responder").unwrap(),
    ];
    let mut outcomes = [None, None];
    for number in 0.. {
        if message.is_empty() {
            break;
        }
        let to = (number + 1) % 2;
        let received = enemy(number, std::mem::take(&mut message));
        if outcomes[to].is_some() {
            break;
        }
        match sides[to].receive(&received, &mut message) {
            Ok(Progress::Continue) => {}
            Ok(Progress::Done(established)) => outcomes[to] = Some(Ok(established)),
            Err(error) => outcomes[to] = Some(Err(error)),
        }
    }
    outcomes
}

fn session(initiator: &Credentials, responder: &Credentials) -> (Box<Established>, Box<Established>) {
    let [a, b] = run(initiator, responder, |_, message| message);
    (a.unwrap().unwrap(), b.unwrap().unwrap())
}

fn refusals(initiator: &Credentials, responder: &Credentials) -> (HandshakeError, HandshakeError) {
    let [a, b] = run(initiator, responder, |_, message| message);
    (a.unwrap().unwrap_err(), b.unwrap().unwrap_err())
}

/// Every frame that comes out of `bytes`, and the error that ended it, if any.
fn open_all(opener: &mut Opener, bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, Option<SealError>) {
    let mut frames = Vec::new();
    let mut rest = bytes;
    loop {
        match opener.advance(rest) {
            Ok(Advance::Frame { consumed }) => {
                let (kind, body) = opener.frame().unwrap();
                frames.push((kind, body.to_vec()));
                rest = &rest[consumed..];
            }
            Ok(Advance::More { .. }) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

#[test]
fn both_sides_learn_who_the_other_is_and_what_it_says() {
    let (one, two) = (credentials(1, &[0]), credentials(2, &[0]));
    let (mut a, mut b) = session(&one, &two);
    assert_eq!((a.member, a.public_key), (two.identity.member_id(), two.identity.public_key()));
    assert_eq!((b.member, b.public_key), (one.identity.member_id(), one.identity.public_key()));
    assert_eq!((a.role, b.role), (Role::Member, Role::Joining));
    assert_eq!((a.protocol, b.protocol), (3, 3));
    assert_eq!(a.introduction, b"from the responder");
    assert_eq!(b.introduction, b"from the initiator");

    for (sealer, opener) in [(&mut a.sealer, &mut b.opener), (&mut b.sealer, &mut a.opener)] {
        let mut sealed = Vec::new();
        sealer.seal(2, b"hello", &mut sealed).unwrap();
        assert_eq!(open_all(opener, &sealed), (vec![(2, b"hello".to_vec())], None));
    }
}

#[test]
fn the_largest_introduction_fits_and_a_larger_one_is_refused() {
    let (one, two) = (credentials(1, &[0]), credentials(2, &[0]));
    let introduction = vec![7; MAX_INTRODUCTION_BYTES];
    let mut message = Vec::new();
    let mut a = Handshake::initiator(&one, Role::Member, &introduction, &mut message).unwrap();
    let mut b = Handshake::responder(&two, Role::Member, &introduction).unwrap();
    let mut told = 0;
    for number in 0..6 {
        let received = std::mem::take(&mut message);
        assert!(received.len() <= HEAD_BYTES + MAX_MESSAGE_BYTES);
        let side = if number % 2 == 0 { &mut b } else { &mut a };
        if let Progress::Done(established) = side.receive(&received, &mut message).unwrap() {
            assert_eq!(established.introduction, introduction);
            told += 1;
        }
    }
    assert_eq!(told, 2);
    let longer = vec![7; MAX_INTRODUCTION_BYTES + 1];
    let refused = Handshake::responder(&two, Role::Member, &longer).unwrap_err();
    assert_eq!(refused, HandshakeError::IntroductionTooLong(4_097));
}

#[test]
fn a_wrong_secret_is_refused_on_both_sides_with_the_reason() {
    let (a, b) = refusals(&credentials(1, &[0]), &credentials(2, &[1]));
    assert_eq!(a, HandshakeError::RefusedByPeer(Refusal::UnknownKeyId));
    assert_eq!(b, HandshakeError::Refused(Refusal::UnknownKeyId));
}

#[test]
fn another_cluster_is_refused_on_both_sides_with_the_reason() {
    let stranger = Credentials { cluster: "vineyard".to_owned(), ..credentials(1, &[0]) };
    let (a, b) = refusals(&stranger, &credentials(2, &[0]));
    assert_eq!(a, HandshakeError::RefusedByPeer(Refusal::WrongCluster { theirs: None }));
    let theirs = Some("vineyard".to_owned());
    assert_eq!(b, HandshakeError::Refused(Refusal::WrongCluster { theirs }));
    assert!(b.to_string().contains("vineyard"));
}

#[test]
fn protocol_ranges_that_do_not_meet_are_refused_on_both_sides_with_both_ranges() {
    let later = ProtocolRange { min: 4, max: 6 };
    let newer = Credentials { protocol: later, ..credentials(1, &[0]) };
    let (a, b) = refusals(&newer, &credentials(2, &[0]));
    let seen = Refusal::IncompatibleProtocol { ours: later, theirs: PROTOCOL };
    assert_eq!(a, HandshakeError::RefusedByPeer(seen));
    let seen = Refusal::IncompatibleProtocol { ours: PROTOCOL, theirs: later };
    assert_eq!(b, HandshakeError::Refused(seen));
}

#[test]
fn ranges_that_overlap_agree_on_the_newest_common_version() {
    let newer = Credentials { protocol: ProtocolRange { min: 2, max: 9 }, ..credentials(1, &[0]) };
    let (a, b) = session(&newer, &credentials(2, &[0]));
    assert_eq!((a.protocol, b.protocol), (3, 3));
}

#[test]
fn any_two_members_can_talk_at_every_step_of_changing_the_secret() {
    let steps = [credentials(1, &[0]), credentials(2, &[1, 0]), credentials(3, &[1])];
    for (i, one) in steps.iter().enumerate() {
        for two in &steps[i.saturating_sub(1)..(i + 2).min(3)] {
            session(one, two);
        }
    }
    refusals(&steps[0], &steps[2]);
}

#[test]
fn key_ids_alone_open_nothing() {
    // An enemy that saw the id of the right key, but has another: it can only copy the id into its
    // hello, so both sides see other hellos than were sent and nothing opens.
    let (one, two) = (credentials(1, &[2]), credentials(2, &[0]));
    let (id, other) = (KEYS[0].id().0, KEYS[2].id().0);
    let swap = |message: Vec<u8>| {
        let find = |id: [u8; 8]| message.windows(8).position(|window| window == id);
        let mut swapped = message.clone();
        match (find(id), find(other)) {
            (Some(at), _) => swapped[at..at + 8].copy_from_slice(&other),
            (_, Some(at)) => swapped[at..at + 8].copy_from_slice(&id),
            (None, None) => {}
        }
        swapped
    };
    let [a, b] = run(&one, &two, |_, message| swap(message));
    assert!(!matches!(a, Some(Ok(_))) && !matches!(b, Some(Ok(_))));
}

#[test]
fn recorded_handshakes_and_frames_are_worth_nothing_when_replayed() {
    let (one, two) = (credentials(1, &[0]), credentials(2, &[0]));
    let mut recorded = Vec::new();
    let [a, b] = run(&one, &two, |_, message| {
        recorded.push(message.clone());
        message
    });
    let (mut a, mut b) = (a.unwrap().unwrap(), b.unwrap().unwrap());
    assert_eq!(recorded.len(), 6);
    let mut frames = [Vec::new(), Vec::new()];
    a.sealer.seal(0, b"put", &mut frames[0]).unwrap();
    b.sealer.seal(0, b"confirm", &mut frames[1]).unwrap();

    // Played towards the responder as the initiator's, and towards the initiator as the responder's.
    for (played, victim) in [(0, 1), (1, 0)] {
        let mut outcomes =
            run(
                &one,
                &two,
                |number, message| {
                    if number % 2 == played { recorded[number].clone() } else { message }
                },
            );
        let error = outcomes[victim].take().unwrap().unwrap_err();
        assert_eq!(error, HandshakeError::Refused(Refusal::Authentication));
    }
    let (mut later_a, mut later_b) = session(&one, &two);
    assert_eq!(open_all(&mut later_b.opener, &frames[0]), (vec![], Some(SealError::Altered)));
    assert_eq!(open_all(&mut later_a.opener, &frames[1]), (vec![], Some(SealError::Altered)));
}

#[test]
fn reflected_handshakes_and_frames_are_worth_nothing() {
    let one = credentials(1, &[0]);
    let mut sent = Vec::new();
    let mut side = Handshake::initiator(&one, Role::Member, b"", &mut sent).unwrap();
    let error = loop {
        let mirrored = std::mem::take(&mut sent);
        match side.receive(&mirrored, &mut sent) {
            Ok(Progress::Continue) => {}
            Ok(Progress::Done(_)) => panic!("a mirror was taken for a member"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, HandshakeError::Refused(Refusal::Authentication));

    let (mut a, mut b) = session(&one, &credentials(2, &[0]));
    for side in [&mut a, &mut b] {
        let mut sealed = Vec::new();
        side.sealer.seal(0, b"put", &mut sealed).unwrap();
        assert_eq!(open_all(&mut side.opener, &sealed), (vec![], Some(SealError::Altered)));
    }
}

#[test]
fn a_refusal_that_an_enemy_slips_in_ends_the_handshake_and_does_nothing_else() {
    let (one, two) = (credentials(1, &[0]), credentials(2, &[0]));
    for target in 0..6 {
        let slipped =
            kith::security::handshake::refusal_message(&Refusal::WrongCluster { theirs: None }, PROTOCOL);
        let outcomes =
            run(&one, &two, |number, message| if number == target { slipped.clone() } else { message });
        let receiver = &outcomes[(target + 1) % 2];
        let told = HandshakeError::RefusedByPeer(Refusal::WrongCluster { theirs: None });
        assert_eq!(receiver.as_ref().unwrap().as_ref().unwrap_err(), &told);
    }
}

/// A session may stand only at the responder, and only when nothing but its own last message was
/// touched: it had the proof by then.
fn assert_no_session(outcomes: &[Option<Outcome>; 2], touched: usize) {
    assert!(!matches!(outcomes[0], Some(Ok(_))), "the initiator took an altered handshake");
    assert!(touched == 5 || !matches!(outcomes[1], Some(Ok(_))), "the responder took an altered handshake");
}

#[derive(Debug, Clone)]
enum Attack {
    Flip(usize, u8),
    Cut(usize),
    Repeat(usize),
    Drop(usize),
    Swap(usize),
}

fn attack() -> impl Strategy<Value = Attack> {
    prop_oneof![
        (any::<usize>(), 0u8..8).prop_map(|(at, bit)| Attack::Flip(at, bit)),
        any::<usize>().prop_map(Attack::Cut),
        any::<usize>().prop_map(Attack::Repeat),
        any::<usize>().prop_map(Attack::Drop),
        any::<usize>().prop_map(Attack::Swap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_altered_handshake_gives_no_session(target in 0usize..6, at: usize, bit in 0u8..8) {
        let outcomes = run(&credentials(1, &[0]), &credentials(2, &[0]), |number, mut message| {
            if number == target {
                let at = at % message.len();
                message[at] ^= 1 << bit;
            }
            message
        });
        assert_no_session(&outcomes, target);
    }

    #[test]
    fn a_cut_or_lengthened_handshake_gives_no_session(target in 0usize..6, at: usize, longer: bool) {
        let outcomes = run(&credentials(1, &[0]), &credentials(2, &[0]), |number, mut message| {
            if number == target {
                if longer {
                    message.push(0);
                } else {
                    message.truncate(at % message.len());
                }
            }
            message
        });
        assert_no_session(&outcomes, target);
    }

    #[test]
    fn messages_of_other_handshakes_give_no_session(target in 0usize..6, source in 0usize..6) {
        let (one, two) = (credentials(1, &[0]), credentials(2, &[0]));
        let mut recorded = Vec::new();
        run(&one, &two, |_, message| {
            recorded.push(message.clone());
            message
        });
        // Hellos hold nothing fresh, so a recorded one of the same side is the same hello.
        prop_assume!(target != source || target > 1);
        let outcomes = run(&one, &two, |number, message| {
            if number == target { recorded[source].clone() } else { message }
        });
        assert_no_session(&outcomes, target);
    }

    #[test]
    fn garbage_gives_no_session_and_no_panic(message in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..4) {
        let two = credentials(2, &[0]);
        let mut shaped = vec![kind, 0, 0];
        shaped[1..].copy_from_slice(&(message.len() as u16).to_be_bytes());
        shaped.extend_from_slice(&message);
        for received in [message, shaped] {
            let mut side = Handshake::responder(&two, Role::Member, b"").unwrap();
            let mut out = Vec::new();
            prop_assert!(side.receive(&received, &mut out).is_err());
            prop_assert!(out.len() <= 8);
        }
    }

    #[test]
    fn attacked_frames_give_a_true_prefix_and_then_nothing(
        sizes in prop::collection::vec(prop_oneof![0usize..200, 60_000usize..140_000], 1..6),
        attack in attack(),
    ) {
        let (mut a, mut b) = session(&credentials(1, &[0]), &credentials(2, &[0]));
        let mut sealed = Vec::new();
        let mut sent = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            let body = vec![index as u8; size];
            a.sealer.seal(0, &body, &mut sealed).unwrap();
            sent.push((0, body));
        }
        let received = attacked(&sealed, &attack);
        let (frames, error) = open_all(&mut b.opener, &received);
        prop_assert_eq!(&frames[..], &sent[..frames.len()]);
        let complete = frames.len() == sent.len();
        if received != sealed {
            prop_assert!(!complete || matches!(attack, Attack::Repeat(_)), "all frames in spite of {:?}", attack);
            prop_assert!(error.is_some() || received.len() < sealed.len() || !complete);
        }
        if error.is_some() {
            prop_assert_eq!(open_all(&mut b.opener, &sealed), (vec![], Some(SealError::Failed)));
        }
    }
}

/// The sealed chunks of a transcript, heads included.
fn chunks(sealed: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut rest = sealed;
    while let Some((head, _)) = rest.split_first_chunk::<2>() {
        let (chunk, tail) = rest.split_at(2 + usize::from(u16::from_be_bytes(*head)));
        chunks.push(chunk.to_vec());
        rest = tail;
    }
    chunks
}

fn attacked(sealed: &[u8], attack: &Attack) -> Vec<u8> {
    let mut pieces = chunks(sealed);
    let count = pieces.len();
    match *attack {
        Attack::Flip(at, bit) => {
            let mut altered = sealed.to_vec();
            altered[at % sealed.len()] ^= 1 << bit;
            return altered;
        }
        Attack::Cut(at) => return sealed[..at % sealed.len()].to_vec(),
        Attack::Repeat(at) => pieces.insert(at % count + 1, pieces[at % count].clone()),
        Attack::Drop(at) => {
            pieces.remove(at % count);
        }
        Attack::Swap(at) => pieces.swap(at % count, (at + 1) % count),
    }
    pieces.concat()
}

async fn acceptor(gate: Gate) -> (Arc<Acceptor>, String) {
    let acceptor = Acceptor::bind("127.0.0.1:0", Arc::new(gate), PROTOCOL).await.unwrap();
    let address = acceptor.local_address().unwrap().to_string();
    (Arc::new(acceptor), address)
}

async fn links() -> (Link, Link) {
    let (acceptor, address) = acceptor(Gate::default()).await;
    let (one, two) = (credentials(1, &[0]), credentials(2, &[0]));
    let (dialled, accepted) = tokio::join!(connect(&address, &one, Role::Member, b"one", PATIENCE), async {
        acceptor.next().await.handshake(&two, Role::Member, b"two", PATIENCE).await
    });
    (dialled.unwrap(), accepted.unwrap())
}

#[tokio::test]
async fn a_refusal_reaches_both_sides_over_sockets() {
    let (acceptor, address) = acceptor(Gate::default()).await;
    let (one, two) = (credentials(1, &[0]), credentials(2, &[1]));
    let (dialled, accepted) = tokio::join!(connect(&address, &one, Role::Member, b"", PATIENCE), async {
        acceptor.next().await.handshake(&two, Role::Member, b"", PATIENCE).await
    });
    let told = HandshakeError::RefusedByPeer(Refusal::UnknownKeyId);
    assert!(matches!(dialled.unwrap_err(), LinkError::Handshake(error) if error == told));
    let reason = HandshakeError::Refused(Refusal::UnknownKeyId);
    assert!(matches!(accepted.unwrap_err(), LinkError::Handshake(error) if error == reason));
}

#[tokio::test]
async fn links_tell_who_is_at_the_other_end() {
    let (one, two) = links().await;
    assert_eq!(one.peer.member, credentials(2, &[0]).identity.member_id());
    assert_eq!(two.peer.public_key, credentials(1, &[0]).identity.public_key());
    assert_eq!(one.peer.introduction, b"two");
    assert_eq!(two.peer.introduction, b"one");
    assert_eq!(one.peer.protocol, 3);
}

/// The length of frame `index`: mostly small, some around a chunk, some over 1 MiB.
fn frame_bytes(index: u64) -> usize {
    let random = index.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let size = match index % 500 {
        0 => (1 << 20) + random % (3 << 20),
        n if n % 25 == 0 => random % 140_000,
        _ => random % 2_000,
    };
    size as usize
}

const FRAMES: u64 = 10_000;

async fn send_frames(writer: &mut LinkWriter) {
    for index in 0..FRAMES {
        let body = vec![index as u8; frame_bytes(index)];
        let kind = [FrameKind::Engine, FrameKind::Gossip, FrameKind::Control][index as usize % 3];
        writer.queue(kind, &body).unwrap();
        assert!(writer.buffered() <= MAX_BUFFERED_BYTES);
        if writer.is_blocked() {
            writer.flush().await.unwrap();
        } else {
            writer.try_flush().unwrap();
        }
    }
    writer.queue(FrameKind::Goodbye, b"").unwrap();
    writer.flush().await.unwrap();
}

async fn receive_frames(reader: &mut LinkReader) {
    for index in 0..FRAMES {
        let frame = reader.next().await.unwrap().unwrap();
        let kind = [FrameKind::Engine, FrameKind::Gossip, FrameKind::Control][index as usize % 3];
        assert_eq!(frame.kind, kind);
        assert!(frame.bytes == vec![index as u8; frame_bytes(index)], "frame {index} differs");
    }
    assert_eq!(reader.next().await.unwrap().unwrap().kind, FrameKind::Goodbye);
}

#[tokio::test]
async fn a_link_carries_ten_thousand_frames_of_all_sizes_both_ways() {
    let (mut one, mut two) = links().await;
    tokio::join!(
        send_frames(&mut one.writer),
        receive_frames(&mut one.reader),
        send_frames(&mut two.writer),
        receive_frames(&mut two.reader),
    );
    assert!(one.reader.held_bytes() <= 1 << 20, "{}", one.reader.held_bytes());
    one.writer.close().await.unwrap();
    assert!(two.reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn frames_that_came_in_one_piece_are_taken_without_waiting() {
    let (mut one, mut two) = links().await;
    for body in [b"a", b"b", b"c"] {
        one.writer.queue(FrameKind::Engine, body).unwrap();
    }
    one.writer.flush().await.unwrap();
    assert_eq!(two.reader.next().await.unwrap().unwrap().bytes, b"a");
    assert_eq!(two.reader.next_buffered().unwrap().unwrap().bytes, b"b");
    assert_eq!(two.reader.next_buffered().unwrap().unwrap().bytes, b"c");
    assert!(two.reader.next_buffered().unwrap().is_none());
}

#[tokio::test]
async fn what_waits_to_be_sent_is_bounded_and_nothing_of_it_is_lost() {
    let (mut one, mut two) = links().await;
    let body = vec![1; 1 << 20];
    let mut queued = 0;
    let error = loop {
        match one.writer.queue(FrameKind::Engine, &body) {
            Ok(()) => queued += 1,
            Err(error) => break error,
        }
        assert!(!one.writer.is_blocked() || one.writer.buffered() > BLOCKED_BYTES);
    };
    assert!(matches!(error, LinkError::Full));
    assert!(one.writer.buffered() <= MAX_BUFFERED_BYTES);
    let oversize = vec![0; MAX_FRAME_BYTES + 1];
    assert!(matches!(one.writer.queue(FrameKind::Engine, &oversize), Err(LinkError::Oversize(_))));
    let (flushed, ()) = tokio::join!(one.writer.flush(), async {
        for _ in 0..queued {
            assert_eq!(two.reader.next().await.unwrap().unwrap().bytes.len(), 1 << 20);
        }
    });
    flushed.unwrap();
    one.writer.queue(FrameKind::Engine, b"on it goes").unwrap();
    one.writer.flush().await.unwrap();
    assert_eq!(two.reader.next().await.unwrap().unwrap().bytes, b"on it goes");
}

#[tokio::test]
async fn an_unfinished_frame_at_the_end_of_a_connection_is_an_error() {
    let (mut one, mut two) = links().await;
    one.writer.queue(FrameKind::Engine, &vec![1; 8 << 20]).unwrap();
    one.writer.writable().await.unwrap();
    assert!(!one.writer.try_flush().unwrap(), "a socket took 8 MiB at once");
    drop(one);
    assert!(two.reader.next().await.is_err());
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_at_its_deadline_on_either_side() {
    let deadline = Duration::from_millis(150);
    let (acceptor, address) = acceptor(Gate::new(1, 1)).await;
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let begun = Instant::now();
    let two = credentials(2, &[0]);
    let error = acceptor.next().await.handshake(&two, Role::Member, b"", deadline).await.unwrap_err();
    assert!(matches!(error, LinkError::Handshake(HandshakeError::Refused(Refusal::Timeout))));
    assert!(begun.elapsed() >= deadline);
    let mut told = Vec::new();
    silent.read_to_end(&mut told).await.unwrap();
    assert_eq!(told.len(), HEAD_BYTES + body_bytes([told[0], told[1], told[2]]).unwrap());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = connect(&address, &two, Role::Member, b"", deadline).await.unwrap_err();
    assert!(matches!(error, LinkError::Handshake(HandshakeError::Refused(Refusal::Timeout))));
}

#[tokio::test]
async fn something_else_on_the_port_is_told_apart_at_once() {
    let (acceptor, address) = acceptor(Gate::default()).await;
    let mut browser = TcpStream::connect(&address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let two = credentials(2, &[0]);
    let error = acceptor.next().await.handshake(&two, Role::Member, b"", PATIENCE).await.unwrap_err();
    assert!(matches!(error, LinkError::Handshake(HandshakeError::Refused(Refusal::Malformed))));
}

#[tokio::test]
async fn a_flood_of_bad_handshakes_stays_within_the_gate_and_members_get_in_afterwards() {
    const FLOOD: usize = 200;
    const PLACES: usize = 8;
    let gate = Arc::new(Gate::new(PLACES, PLACES));
    let acceptor = Arc::new(Acceptor::bind("127.0.0.1:0", Arc::clone(&gate), PROTOCOL).await.unwrap());
    let address = acceptor.local_address().unwrap().to_string();
    let two = Arc::new(credentials(2, &[0]));
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let accepting = tokio::spawn({
        let (acceptor, gate, two) = (Arc::clone(&acceptor), Arc::clone(&gate), Arc::clone(&two));
        async move {
            loop {
                let arrival = acceptor.next().await;
                assert!(gate.pending() <= PLACES);
                let (two, ended) = (Arc::clone(&two), ended.clone());
                tokio::spawn(async move {
                    let deadline = Duration::from_secs(1);
                    let result = arrival.handshake(&two, Role::Member, b"", deadline).await;
                    let _ = ended.send(result.is_ok());
                });
            }
        }
    });

    let mut flood = Vec::new();
    for number in 0..FLOOD {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if number % 2 == 0 {
            // Whether it is heard or the connection is already closed makes no difference.
            let _ = stream.write_all(&[2, 0, 48]).await;
        }
        flood.push(stream);
    }
    let mut handled = 0;
    while handled + (acceptor.turned_away() as usize) < FLOOD {
        match tokio::time::timeout(Duration::from_millis(20), ends.recv()).await {
            Ok(session) => {
                assert!(!session.unwrap(), "a bad handshake gave a session");
                handled += 1;
            }
            Err(_) => assert!(gate.pending() <= PLACES),
        }
    }
    assert!(acceptor.turned_away() > 0);
    drop(flood);
    let link = connect(&address, &credentials(1, &[0]), Role::Member, b"", PATIENCE).await;
    assert!(link.is_ok(), "{link:?}");
    accepting.abort();
}

#[tokio::test]
async fn who_is_turned_away_is_told_so() {
    let (acceptor, address) = acceptor(Gate::new(0, 0)).await;
    let one = credentials(1, &[0]);
    let error = tokio::select! {
        _ = acceptor.next() => panic!("a full gate let someone in"),
        link = connect(&address, &one, Role::Member, b"", PATIENCE) => link.unwrap_err(),
    };
    assert!(matches!(error, LinkError::Handshake(HandshakeError::RefusedByPeer(Refusal::Busy))), "{error}");
}
