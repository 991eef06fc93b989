use time::OffsetDateTime;

use super::*;
use crate::exchange::refusal::Refusal;
use crate::exchange::topic::Leaf;
use crate::keys::Holder;
use crate::keys::folder::{KeysFolder, SIGNERS};

fn agent(name: &str) -> AgentId {
    name.parse().unwrap()
}

/// A lab's keys, as `dkt keys` makes them.
fn lab(folder: &Path, names: &[&str]) {
    let now = OffsetDateTime::now_utc();
    let holders: Vec<Holder> = names.iter().map(|name| Holder::Agent(agent(name))).collect();
    KeysFolder::init(folder, &[], 100, 10, now).unwrap().add(&holders, 10, now).unwrap();
}

fn config(lab: &Path, name: &str) -> SigningConfig {
    SigningConfig { key: lab.join("agents").join(name).join("signing.key"), signers: lab.join(SIGNERS) }
}

fn status(name: &str) -> Topic {
    Topic { fleet: "lab".parse().unwrap(), agent: agent(name), leaf: Leaf::Status }
}

#[test]
fn agents_with_the_keys_of_a_lab_read_each_other_and_restarts_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, runs) = (folder.path().join("keys"), folder.path().join("runs"));
    lab(&keys, &["alice", "bob"]);
    let opened = |name: &str| open(&config(&keys, name), &agent(name), &runs.join(name)).unwrap();
    let ((mut sealer, mut own), (_, mut opener)) = (opened("alice"), opened("bob"));
    let topic = status("alice");
    assert_eq!(sealer.seal(&topic, b"early"), None, "no number before a connection");
    let will = sealer.connect(&topic, b"gone").unwrap();
    let [first, second] = [&b"first"[..], b"second"].map(|message| sealer.seal(&topic, message).unwrap());
    for (sealed, message) in [(&first, &b"first"[..]), (&second, b"second"), (&second, b"second")] {
        assert_eq!(opener.verifier.open(&topic, sealed).unwrap(), message);
    }
    assert!(!runs.join("bob").join(MARKS_FILE).exists());
    opener.keep().unwrap();
    // Both crash.
    let ((mut sealer, _), (_, mut opener)) = (opened("alice"), opened("bob"));
    let mut changed = second.clone();
    *changed.last_mut().unwrap() ^= 1;
    for old in [&first, &changed] {
        assert!(matches!(opener.verifier.open(&topic, old), Err(Refusal::Old { .. })));
    }
    assert_eq!(opener.verifier.open(&topic, &second).unwrap(), b"second", "retained: it comes again");
    sealer.connect(&topic, b"gone").unwrap();
    let third = sealer.seal(&topic, b"third").unwrap();
    assert_eq!(opener.verifier.open(&topic, &third).unwrap(), b"third");
    assert!(matches!(opener.verifier.open(&topic, &will), Err(Refusal::Old { .. })), "it came late");
    // Her own words come back to her, in whatever order, and what somebody has cleared.
    for (own_word, message) in [(&third, &b"third"[..]), (&will, b"gone"), (&Vec::new(), b"")] {
        assert_eq!(own.verifier.open(&topic, own_word).unwrap(), message);
    }
    assert!(matches!(opener.verifier.open(&topic, b""), Err(Refusal::Unsigned)));
}

#[test]
fn what_is_wrong_with_keys_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    lab(&keys, &["alice", "bob"]);
    let alice = config(&keys, "alice");
    let error = |config: &SigningConfig, name: &str| {
        let error = open(config, &agent(name), folder.path()).err().expect("it is refused");
        error.to_string().replace(&folder.path().display().to_string(), "")
    };
    let key = |path: PathBuf| SigningConfig { key: path, ..alice.clone() };
    assert_eq!(error(&key(keys.join("none")), "alice"), "cannot read `/keys/none`");
    // P-256, and no key at all.
    for path in ["agents/alice/key.pem", "ca.pem"] {
        let expected = format!(
            "`/keys/{path}`: expected a private Ed25519 key (PKCS #8, PEM), as `dkt keys add` writes"
        );
        assert_eq!(error(&key(keys.join(path)), "alice"), expected);
    }
    let other = error(&config(&keys, "bob"), "alice");
    assert!(
        other.starts_with("`exchange.signing.key`, `/keys/agents/bob/signing.key`, is not the key of `/keys/signers/alice.pub`"),
        "{other}"
    );
    let missing = error(&alice, "carol");
    assert!(
        missing.starts_with("`exchange.signing.signers`, `/keys/signers`: expected `carol.pub` among"),
        "{missing}"
    );
    fs::write(keys.join("signers/Dave.pub"), "").unwrap();
    assert_eq!(error(&alice, "alice"), "`/keys/signers/Dave.pub`: expected a file named after an agent");
    fs::rename(keys.join("signers/Dave.pub"), keys.join("signers/dave.pub")).unwrap();
    let expected = "`/keys/signers/dave.pub`: expected a public Ed25519 key (PEM), as `dkt keys add` writes";
    assert_eq!(error(&alice, "alice"), expected);
    fs::remove_file(keys.join("signers/dave.pub")).unwrap();
    for (file, text, expected) in [
        (NUMBERS_FILE, "{", "is no state of signed messages; restore it"),
        (MARKS_FILE, r#"{"version":2}"#, "expected version 1, found 2"),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
        let found = error(&alice, "alice");
        assert!(found.starts_with(&format!("`/{file}`")) && found.contains(expected), "{found}");
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    assert!(open(&alice, &agent("alice"), folder.path()).is_ok());
}

/// In each step all agents get the public keys anew, and start again.
#[test]
fn a_stolen_key_harms_nobody_once_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, runs) = (folder.path().join("keys"), folder.path().join("runs"));
    lab(&keys, &["alice", "bob"]);
    let opened = |name: &str| open(&config(&keys, name), &agent(name), &runs.join(name)).unwrap();
    let ((thief, _), (_, mut bob)) = (opened("alice"), opened("bob"));
    let topic = status("alice");
    let stolen = envelope::seal(&thief.key, "alice", &topic.to_string(), u64::MAX, b"");
    bob.verifier.open(&topic, &stolen).unwrap();
    bob.keep().unwrap();
    let (_, mut bob) = opened("bob");
    bob.verifier.open(&topic, &stolen).expect("retained: it comes again");

    let now = OffsetDateTime::now_utc();
    let alice = Holder::Agent(agent("alice"));
    KeysFolder::open(&keys).unwrap().revoke(&alice, now).unwrap();
    let (_, mut bob) = opened("bob");
    assert!(matches!(bob.verifier.open(&topic, &stolen), Err(Refusal::UnknownSigner)));
    KeysFolder::open(&keys).unwrap().add(&[alice], 10, now).unwrap();
    let ((mut alice, _), (_, mut bob)) = (opened("alice"), opened("bob"));
    assert!(matches!(bob.verifier.open(&topic, &stolen), Err(Refusal::Signature)));
    alice.connect(&topic, b"gone").unwrap();
    let first = alice.seal(&topic, b"first").unwrap();
    assert_eq!(bob.verifier.open(&topic, &first).unwrap(), b"first");
    assert!(matches!(bob.verifier.open(&topic, &stolen), Err(Refusal::Signature)));
    bob.keep().unwrap();
    let state: MarksState = read_state(&bob.path).unwrap().unwrap();
    let key = key_digest(&alice.key.verifying_key());
    assert_eq!(state.signers.into_keys().collect::<Vec<_>>(), [key], "nothing is left of the other");
}

#[test]
fn another_key_begins_its_numbers_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, runs) = (folder.path().join("keys"), folder.path().join("runs"));
    lab(&keys, &["alice"]);
    let opened = || open(&config(&keys, "alice"), &agent("alice"), &runs).unwrap().0;
    let topic = status("alice");
    let key = key_digest(&opened().key.verifying_key());
    let state = NumbersState { version: STATE_VERSION, key, epoch: u32::MAX };
    write(&runs.join(NUMBERS_FILE), &state).unwrap();
    let error = opened().connect(&topic, b"gone").unwrap_err();
    assert!(matches!(error, SigningError::UsedUp { .. }), "{error}");

    let (now, alice) = (OffsetDateTime::now_utc(), Holder::Agent(agent("alice")));
    let mut folder = KeysFolder::open(&keys).unwrap();
    folder.revoke(&alice, now).unwrap();
    folder.add(&[alice], 10, now).unwrap();
    opened().connect(&topic, b"gone").unwrap();
    assert_eq!(
        opened().last_epoch,
        read_state::<NumbersState>(&runs.join(NUMBERS_FILE)).unwrap().map(|s| s.epoch)
    );
}

/// Other programs write version 2 of PKCS #8, with the public key behind.
#[test]
fn keys_of_both_versions_of_pkcs8_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(key.serialized_der()[4], 1, "version 2");
    fs::write(&path, key.serialize_pem()).unwrap();
    assert_eq!(private_key(&path).unwrap().verifying_key().as_bytes()[..], *key.public_key_raw());
}
