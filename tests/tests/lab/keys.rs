//! `dkt keys`, and what brokers and agents make of its files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dkt_tests::broker::{Mosquitto, free_port};
use dkt_tests::certs::Certificates;
use dkt_tests::config;
use dkt_tests::peer::Peer;
use dkt_tests::process::{Output, run};

use crate::refusals::{Case, check};
use crate::{dkt, start};

fn keys(case: &Case, arguments: &[&str]) -> Output {
    let mut command = dkt(["keys"].iter().chain(arguments));
    command.current_dir(case.folder.path());
    run(command)
}

fn done(case: &Case, arguments: &[&str]) -> String {
    let output = keys(case, arguments);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    output.stdout
}

/// Files and folders below a folder, by their path, and their modes. Folders end with a slash.
fn modes(root: &Path, folder: &Path, found: &mut BTreeMap<String, u32>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut name = path.strip_prefix(root).unwrap().display().to_string();
        if path.is_dir() {
            name.push('/');
            modes(root, &path, found);
        }
        found.insert(name, fs::metadata(&path).unwrap().permissions().mode() & 0o777);
    }
}

#[test]
fn a_labs_keys_are_made_once_and_only_their_owner_can_read_them() {
    let case = Case::new();
    let said = done(&case, &["init", "--out", "lab", "--broker", "broker.lab", "10.0.0.7"]);
    assert!(said.contains("for broker.lab, 10.0.0.7, localhost, 127.0.0.1, ::1."), "{said}");
    let said = done(&case, &["add", "lab", "alice", "bob", "bridge.site-b"]);
    for text in ["To alice, good until ", ": lab/agents/alice\n", ": lab/bridges/site-b\n", "lab/signers\n"] {
        assert!(said.contains(text), "expected `{text}` in:\n{said}");
    }
    let root = case.path("lab");
    let mut found = BTreeMap::new();
    modes(&root, &root, &mut found);
    let named: Vec<&str> = found.keys().map(String::as_str).collect();
    let agent = |name: &str| {
        ["", "ca.pem", "cert.pem", "key.pem", "signing.key"].map(|file| format!("agents/{name}/{file}"))
    };
    let mut expected: Vec<String> = [agent("alice"), agent("bob")].concat();
    let others = [
        ".lock",
        "agents/",
        "bridges/",
        "bridges/site-b/",
        "bridges/site-b/ca.pem",
        "bridges/site-b/cert.pem",
        "bridges/site-b/key.pem",
        "broker/",
        "broker/cert.pem",
        "broker/key.pem",
        "ca.key",
        "ca.pem",
        "crl.pem",
        "keys.json",
        "signers/",
        "signers/alice.pub",
        "signers/bob.pub",
    ];
    expected.extend(others.map(str::to_owned));
    expected.sort();
    assert_eq!(named, expected);
    for (name, mode) in found {
        let is_private = name.ends_with('/') || name.ends_with("key") || name.ends_with("key.pem");
        if is_private || name == "keys.json" {
            assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
        }
    }
    for (file, kind) in [("agents/alice/signing.key", "PRIVATE KEY"), ("signers/alice.pub", "PUBLIC KEY")] {
        let pem = fs::read_to_string(root.join(file)).unwrap();
        assert!(pem.starts_with(&format!("-----BEGIN {kind}-----\n")), "{file}: {pem}");
    }

    check(
        "a second authority",
        &keys(&case, &["init", "--out", "lab", "--broker", "x"]),
        2,
        &["is not empty"],
    );
    check("alice again", &keys(&case, &["add", "lab", "carol", "alice"]), 2, &["`alice` has a certificate"]);
    assert!(!root.join("agents/carol").exists(), "all are added, or none");
    check("nobody", &keys(&case, &["revoke", "lab", "carol"]), 2, &["found `carol`", "dkt keys list"]);
    check("no keys", &keys(&case, &["list", "."]), 66, &["`.` holds no keys of a lab", "dkt keys init"]);
    let address = keys(&case, &["init", "--out", "other", "--broker", "*.lab"]);
    check("no address", &address, 2, &["expected a DNS name or an IP address, found `*.lab`"]);
    for name in ["+", "#", "a/b", "alice/status", "$SYS", "Alice", "bridge.+"] {
        let output = keys(&case, &["add", "lab", name]);
        assert_eq!(output.code, Some(2), "{name}: {output:?}");
        assert!(output.stderr.contains("expected a name of 1 to 64 characters"), "{}", output.stderr);
    }
    let lock = File::open(root.join(".lock")).unwrap();
    lock.lock().unwrap();
    check("two at once", &keys(&case, &["add", "lab", "carol"]), 69, &["in use by another `dkt keys`"]);
    done(&case, &["list", "lab"]);
}

#[test]
fn a_certificate_is_renewed_for_its_key_and_one_that_is_revoked_is_made_anew() {
    let case = Case::new();
    done(&case, &["init", "--out", "lab", "--broker", "broker.lab"]);
    done(&case, &["add", "lab", "alice", "bob", "--days", "20"]);
    let read = |file: &str| fs::read(case.path("lab").join(file)).unwrap();
    let files = ["agents/alice/key.pem", "agents/alice/signing.key", "signers/alice.pub"];
    let (before, certificate) = (files.map(read), read("agents/alice/cert.pem"));
    let said = done(&case, &["list", "lab"]);
    assert!(
        said.contains("ends soon") && said.contains("these end: `alice`, `bob`. `dkt keys renew lab`"),
        "{said}"
    );

    let said = done(&case, &["renew", "lab"]);
    assert_eq!(said.lines().filter(|line| line.starts_with("To ")).count(), 2, "{said}");
    assert_eq!(files.map(read), before, "the keys stay");
    assert_ne!(read("agents/alice/cert.pem"), certificate);
    assert!(done(&case, &["renew", "lab"]).contains("No certificate ends within 30 days"));
    done(&case, &["renew", "lab", "bob", "--broker", "other.lab"]);
    let said = done(&case, &["list", "lab"]);
    assert!(said.contains("other.lab, localhost") && !said.contains("broker.lab"), "{said}");
    assert!(!said.contains("Warning"), "{said}");

    let said = done(&case, &["revoke", "lab", "alice"]);
    assert!(said.contains("lab/crl.pem") && said.contains("without alice.pub: lab/signers"), "{said}");
    assert!(!case.path("lab/agents/alice").exists() && !case.path("lab/signers/alice.pub").exists());
    let said = done(&case, &["list", "lab"]);
    let revoked = said.lines().filter(|line| line.starts_with("alice ") && line.contains("revoked on 2"));
    assert_eq!(revoked.count(), 2, "the one that was replaced, too:\n{said}");
    done(&case, &["add", "lab", "alice"]);
    for (file, before) in files.iter().zip(before) {
        assert_ne!(read(file), before, "{file} is that of another board");
    }
}

#[test]
fn who_is_revoked_is_refused_when_the_broker_has_read_the_list_again() {
    let broker = Mosquitto::lab(&["alice", "bob"]);
    let certificates = broker.certificates();
    let [alice, bob] = [certificates.copy_of("alice", "lost"), certificates.of("bob")];
    let is_let_in = |name: &str, tls| Peer::connect(broker.port, name, Some((tls, true))).is_ok();
    assert!(is_let_in("alice", &alice) && is_let_in("bob", &bob), "{}", broker.log());
    let mut connected = Peer::connect(broker.port, "alice", Some((&alice, true))).unwrap();
    certificates.revoke("alice");
    broker.reload();
    // Not who is in already: that takes a restart, as the README beside lab.conf says.
    connected.publish("dkt/1/lab/alice/status", b"still here", false);
    drop(connected);
    assert!(is_let_in("bob", &bob), "{}", broker.log());
    assert!(!is_let_in("alice", &alice), "{}", broker.log());
}

#[test]
fn a_broker_whose_list_is_over_lets_nobody_in() {
    let broker = Mosquitto::lab_with(&["alice"], |_, certificates| certificates.date_list((2020, 2021)));
    let alice = broker.certificates().of("alice");
    assert!(Peer::connect(broker.port, "alice", Some((&alice, true))).is_err(), "{}", broker.log());
}

#[test]
fn an_agent_warns_of_the_end_of_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(&folder.path().join("keys"), &["alice"]);
    let broker = format!("mqtts://127.0.0.1:{}", free_port());
    for (days, warns) in [(14, true), (15, false)] {
        certificates.renew("alice", days);
        let mut config = config::exchanging(folder.path(), "alice", &broker, Some(certificates.of("alice")));
        config.exchange.connect_timeout_s = 0.1;
        let ended = start(&config).end();
        assert_eq!(ended.code, Some(69), "{}", ended.stderr);
        let warning = ended.stderr.lines().find(|line| line.contains("ends soon"));
        assert_eq!(warning.is_some(), warns, "{days} days: {}", ended.stderr);
        assert!(
            warning.is_none_or(|line| line.contains("alice/cert.pem") && line.contains("dkt keys renew"))
        );
    }
}
