//! What hostile bytes may not become.

use super::super::link_transport::decode;
use super::*;
use proptest::prelude::*;

fn header(kind: u8) -> Vec<u8> {
    [MAGIC.as_slice(), &[kind]].concat()
}

fn entry(member: MemberId, address: SocketAddr) -> Vec<u8> {
    let IpAddr::V6(ip) = address.ip() else { panic!("gossip addresses are IPv6") };
    let mut bytes = vec![16, 0];
    bytes.extend(member.to_string().bytes());
    bytes.extend(7u64.to_le_bytes());
    bytes.push(6);
    bytes.extend(ip.octets());
    bytes.extend(address.port().to_le_bytes());
    bytes.extend([0; 24]);
    bytes
}

fn syn(entries: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    [header(0), count.to_vec(), entries.concat(), vec![1, 0, b'c']].concat()
}

/// A block of 14 bytes that chitchat inflates to 65,535: one zstd frame with one run of `x`.
fn bomb() -> Vec<u8> {
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xfe, 0xfb, 0xff, 0x07, b'x'];
    [&[1, 11, 0], frame.as_slice()].concat()
}

#[test]
fn an_honest_digest_passes_and_decodes() {
    let members: Vec<_> = (1..=400).map(|id| entry(MemberId(id), address_of(MemberId(id)))).collect();
    assert_eq!(inspect(&syn(&members)), Ok(()));
    assert!(decode(&syn(&members)).is_ok());
}

#[test]
fn a_message_that_would_inflate_without_bound_is_refused() {
    let message = [header(2), bomb().repeat(4_500), vec![0]].concat();
    assert!(message.len() < MAX_MESSAGE_BYTES);
    assert_eq!(inspect(&message), Err(WireError::TooManyBlocks));
    let one = [header(2), bomb(), vec![0]].concat();
    assert_eq!(inspect(&one), Ok(()), "the block itself has the right shape");
    assert_eq!(decode(&one).unwrap_err(), WireError::Undecodable);
}

#[test]
fn an_entry_that_is_no_member_is_refused() {
    let foreign = entry(MemberId(1), address_of(MemberId(2)));
    assert_eq!(inspect(&syn(&[foreign])), Err(WireError::NotAMember));
    let mut upper = entry(MemberId(0xab), address_of(MemberId(0xab)));
    upper[2..18].make_ascii_uppercase();
    assert_eq!(inspect(&syn(&[upper])), Err(WireError::NotAMember));
}

#[test]
fn digests_and_messages_have_bounds() {
    let many = vec![entry(MemberId(1), address_of(MemberId(1))); usize::from(MAX_DIGEST_ENTRIES) + 1];
    assert_eq!(inspect(&syn(&many)), Err(WireError::TooManyLives(MAX_DIGEST_ENTRIES + 1)));
    assert_eq!(inspect(&vec![0; MAX_MESSAGE_BYTES + 1]), Err(WireError::TooLong(MAX_MESSAGE_BYTES + 1)));
    assert_eq!(inspect(&[header(3), vec![9]].concat()), Err(WireError::LeftOver(1)));
    assert_eq!(inspect(&header(9)), Err(WireError::Unknown));
}

#[test]
fn every_cut_of_a_message_is_refused() {
    let whole = syn(&[entry(MemberId(1), address_of(MemberId(1)))]);
    for end in 0..whole.len() {
        assert!(decode(&whole[..end]).is_err(), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(kind in 0u8..5, tail in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(&tail);
        let _ = decode(&[header(kind), tail].concat());
    }

    #[test]
    fn damaged_messages_never_panic(position in 0usize..400, value: u8) {
        let members: Vec<_> = (1..=5).map(|id| entry(MemberId(id), address_of(MemberId(id)))).collect();
        let mut message = syn(&members);
        if let Some(byte) = message.get_mut(position) {
            *byte = value;
        }
        let _ = decode(&message);
    }

    #[test]
    fn deltas_of_hostile_operations_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let length = u16::try_from(tail.len()).unwrap().to_le_bytes();
        let _ = decode(&[header(2), vec![2], length.to_vec(), tail.clone(), vec![0]].concat());
        let _ = decode(&[header(2), vec![1], length.to_vec(), tail, vec![0]].concat());
    }
}
