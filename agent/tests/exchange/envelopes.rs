//! Envelopes of signed messages, beside those of another implementation.

use dkt_agent::exchange::envelope::{ENVELOPE_BYTES, Envelope, EnvelopeError, seal};
use ed25519_dalek::{SigningKey, VerifyingKey};
use proptest::prelude::*;

use crate::messages::seeded;

#[derive(serde::Deserialize)]
struct Case {
    seed: String,
    public: String,
    sender: String,
    topic: String,
    number: u64,
    /// What repeats in the payload, and how often.
    unit: String,
    times: usize,
    before: String,
    after: String,
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// `cose/make.py` has made these with pycose.
fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("cose/sign1.json")).unwrap()
}

#[test]
fn envelopes_are_those_of_another_implementation() {
    assert_eq!(cases().len(), 4);
    for case in cases() {
        let key = SigningKey::from_bytes(&bytes(&case.seed).try_into().unwrap());
        assert_eq!(key.verifying_key().as_bytes()[..], bytes(&case.public));
        let payload = bytes(&case.unit).repeat(case.times);
        let expected = [bytes(&case.before), payload.clone(), bytes(&case.after)].concat();
        assert_eq!(seal(&key, &case.sender, &case.topic, case.number, &payload), expected);
        let envelope = Envelope::read(&expected).unwrap();
        assert_eq!(envelope.key_id, case.sender.as_bytes());
        assert_eq!((envelope.number, envelope.payload), (case.number, &payload[..]));
        assert!(envelope.is_signed_by(&key.verifying_key(), &case.topic));
        assert!(!envelope.is_signed_by(&key.verifying_key(), "dkt/1/lab/mallory/status"));
    }
}

#[test]
fn an_envelope_costs_no_more_than_its_bound() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let sender = "x".repeat(64);
    for n in [0, 23, 24, 255, 256, 65_535, 65_536, 1024 * 1024] {
        let sealed = seal(&key, &sender, "topic", u64::MAX, &vec![0; n]);
        assert!(sealed.len() - n <= ENVELOPE_BYTES, "{} for {n} bytes", sealed.len() - n);
    }
}

fn protected(bytes: &[u8]) -> Result<(), EnvelopeError> {
    let mut sealed = vec![0xd2, 0x84, 0x58, bytes.len() as u8];
    sealed.extend_from_slice(bytes);
    sealed.extend_from_slice(&[0xa0, 0x40, 0x58, 64]);
    sealed.extend_from_slice(&[0; 64]);
    Envelope::read(&sealed).map(|_| ())
}

#[test]
fn only_the_header_of_the_protocol_is_read() {
    let (algorithm, key, number) = ([0x01, 0x27], [0x04, 0x41, b'a'], [0x3a, 0, 1, 0, 0, 0x05]);
    let map = |parts: &[&[u8]]| [&[0xa0 + parts.len() as u8], &parts.concat()[..]].concat();
    assert_eq!(protected(&map(&[&algorithm, &key, &number])), Ok(()));
    assert_eq!(protected(&map(&[&number, &algorithm, &key])), Ok(()), "in any order");
    let es256 = [0x01, 0x26];
    assert_eq!(protected(&map(&[&es256, &key, &number])), Err(EnvelopeError::Algorithm));
    let critical = [0x02, 0x81, 0x18, 99];
    let text_key = [0x04, 0x61, b'a'];
    for wrong in [
        map(&[]),
        map(&[&algorithm, &key]),
        map(&[&algorithm, &number, &number]),
        map(&[&algorithm, &key, &number, &critical]),
        map(&[&algorithm, &key, &critical]),
        map(&[&algorithm, &text_key, &number]),
        [map(&[&algorithm, &key, &number]), vec![0]].concat(),
        vec![0xbf, 0xff],
        Vec::new(),
    ] {
        assert_eq!(protected(&wrong), Err(EnvelopeError::Header), "{wrong:02x?}");
    }
}

#[test]
fn nothing_of_an_envelope_can_be_left_out_or_added() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let sealed = seal(&key, "alice", "topic", 5, b"payload");
    for n in 0..sealed.len() {
        assert!(Envelope::read(&sealed[..n]).is_err(), "{n} bytes");
    }
    assert_eq!(Envelope::read(&[&sealed[..], &[0]].concat()), Err(EnvelopeError::SignatureLength));
    let mut unprotected = sealed.clone();
    let at = sealed.iter().position(|byte| *byte == 0xa0).unwrap();
    unprotected.splice(at..=at, [0xa1, 0x01, 0x27]);
    assert_eq!(Envelope::read(&unprotected), Err(EnvelopeError::Unprotected));
    unprotected.splice(at..at + 4, [0xa0, 0xf6]);
    assert_eq!(Envelope::read(&unprotected), Err(EnvelopeError::Payload), "detached");
}

/// Every bit of an envelope counts.
#[test]
fn no_bit_of_an_envelope_can_be_changed() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let sealed = seal(&key, "alice", "topic", 1 << 40, b"payload");
    for bit in 0..8 * sealed.len() {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let holds = Envelope::read(&changed).is_ok_and(|e| e.is_signed_by(&key.verifying_key(), "topic"));
        assert!(!holds, "bit {bit}");
    }
}

#[test]
fn keys_and_signatures_that_hold_for_anything_are_refused() {
    // The neutral element, as key and as half of a signature: [S]B = R + [k]A for every message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let key = VerifyingKey::from_bytes(&neutral).unwrap();
    let honest = seal(&SigningKey::from_bytes(&[7; 32]), "alice", "topic", 5, b"payload");
    let signature = [neutral, [0; 32]].concat();
    let forged = [&honest[..honest.len() - 64], &signature].concat();
    assert!(!Envelope::read(&forged).unwrap().is_signed_by(&key, "topic"));
}

proptest! {
    #![proptest_config(seeded(2000))]

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), form in 0..3) {
        // Most random bytes go no further than the first.
        if form > 0 {
            bytes.splice(0..0, [0xd2, 0x84]);
        }
        if form > 1 {
            bytes.splice(2..2, [0x4c, 0xa3, 0x01, 0x27, 0x04, 0x41, b'a', 0x3a, 0, 1, 0, 0, 0x05, 0xa0]);
        }
        if let Ok(envelope) = Envelope::read(&bytes) {
            prop_assert!(envelope.payload.len() < bytes.len());
        }
    }
}
