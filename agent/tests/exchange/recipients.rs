//! What is not for an agent leaves no trace in it, whoever has signed it.

use std::collections::BTreeMap;

use dkt_agent::exchange::envelope::seal;
use dkt_agent::exchange::message::Message;
use dkt_agent::exchange::reading::read;
use dkt_agent::exchange::refusal::Refusal;
use dkt_agent::exchange::replay::Marks;
use dkt_agent::exchange::topic::Topic;
use dkt_agent::exchange::verifier::Verifier;
use dkt_agent::ids::{AgentId, FleetId};
use ed25519_dalek::SigningKey;

fn name(text: &str) -> AgentId {
    text.parse().unwrap()
}

#[test]
fn what_is_for_others_is_refused_before_anything_is_marked() {
    let lab: FleetId = "lab".parse().unwrap();
    let alice = SigningKey::from_bytes(&[7; 32]);
    let signers = BTreeMap::from([(name("alice"), alice.verifying_key())]);
    let mut verifier = Verifier::new(name("bob"), signers, Marks::default());
    let before = verifier.marks.clone();
    for text in ["dkt/1/site/alice/status", "dkt/1/lab/alice/demand/carol", "dkt/1/lab/alice/repair/carol"] {
        let topic: Topic = text.parse().unwrap();
        let sealed = seal(&alice, "alice", text, 5, b"");
        let found = read(&lab, &name("bob"), Some(&mut verifier), &topic, &sealed);
        assert!(matches!(found, Err(Refusal::OtherRecipient)), "{text}: {found:?}");
        let found = read(&lab, &name("bob"), None, &topic, b"");
        assert!(matches!(found, Err(Refusal::OtherRecipient)), "{text}: {found:?}");
    }
    assert!(verifier.marks == before);
    for text in ["dkt/1/lab/alice/status", "dkt/1/lab/alice/demand", "dkt/1/lab/alice/demand/bob"] {
        let topic: Topic = text.parse().unwrap();
        let sealed = seal(&alice, "alice", text, 5, b"");
        let found = read(&lab, &name("bob"), Some(&mut verifier), &topic, &sealed);
        assert!(matches!(found, Ok(Message::Cleared)), "{text}: {found:?}");
        assert!(matches!(read(&lab, &name("bob"), None, &topic, b""), Ok(Message::Cleared)), "{text}");
        let found = read(&lab, &name("bob"), None, &topic, &sealed);
        assert!(matches!(found, Err(Refusal::Signed)), "{text}: {found:?}");
    }
    assert!(verifier.marks != before);
}

/// The number of a message that is verified and cannot be decoded is marked: it is old or a duplicate from then on.
#[test]
fn what_is_signed_and_no_message_is_remembered() {
    let lab: FleetId = "lab".parse().unwrap();
    let alice = SigningKey::from_bytes(&[7; 32]);
    let signers = BTreeMap::from([(name("alice"), alice.verifying_key())]);
    let mut verifier = Verifier::new(name("bob"), signers, Marks::default());
    let mut refused = |text: &str, number, message: &[u8]| {
        let sealed = seal(&alice, "alice", text, number, message);
        read(&lab, &name("bob"), Some(&mut verifier), &text.parse().unwrap(), &sealed).unwrap_err()
    };
    let [status, targets] = ["dkt/1/lab/alice/status", "dkt/1/lab/alice/targets/0123456789abcdef"];
    assert!(matches!(refused(status, 5, b"no CBOR"), Refusal::Content(_)));
    assert!(matches!(refused(status, 5, b"no CBOR"), Refusal::Content(_)), "the same, again");
    assert!(matches!(refused(status, 4, b""), Refusal::Old { .. }));
    assert!(matches!(refused(targets, 6, b"no CBOR"), Refusal::Content(_)));
    assert!(matches!(refused(targets, 6, b"no CBOR"), Refusal::Duplicate));
}
