use time::Duration;
use x509_parser::pem::Pem;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::super::register::Standing;
use super::*;
use crate::keys::certificate::{Identity, identity};
use crate::keys::{DEFAULT_AUTHORITY_DAYS, DEFAULT_DAYS};

/// 2026-01-01.
const START: i64 = 1_767_225_600;

fn day(n: i64) -> OffsetDateTime {
    moment(START) + Duration::days(n)
}

fn lab(dir: &Path) -> KeysFolder {
    let addresses = ["broker.lab".to_owned(), "10.0.0.7".to_owned()];
    KeysFolder::init(dir, &addresses, DEFAULT_AUTHORITY_DAYS, DEFAULT_DAYS, day(0)).unwrap()
}

fn agent(name: &str) -> Holder {
    Holder::Agent(name.parse().unwrap())
}

fn der(path: &Path) -> Vec<u8> {
    Pem::iter_from_buffer(&fs::read(path).unwrap()).next().unwrap().unwrap().contents
}

fn identity_of(keys: &KeysFolder, holder: &Holder) -> Identity {
    identity(&der(&keys.folder_of(holder).join(CERTIFICATE))).unwrap()
}

/// Number and beginning of the list, and who is on it.
fn crl(path: &Path) -> (u64, i64, Vec<String>) {
    let der = der(&path.join(REVOKED));
    let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
    let number = list.crl_number().unwrap().to_string().parse().unwrap();
    let serials = list.iter_revoked_certificates().map(|r| format!("{:032x}", r.user_certificate));
    (number, list.last_update().timestamp(), serials.collect())
}

#[test]
fn no_certificate_outlives_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let mut keys = lab(dir.path());
    let [alice, bob] = [agent("alice"), agent("bob")];
    keys.add(std::slice::from_ref(&alice), DEFAULT_DAYS, day(0)).unwrap();
    let identity = identity_of(&keys, &alice);
    assert_eq!(identity.common_name, "alice");
    assert_eq!((identity.validity.from, identity.validity.until), (day(-1), day(DEFAULT_DAYS.into())));
    let end = day(DEFAULT_AUTHORITY_DAYS.into());
    keys.add(std::slice::from_ref(&bob), DEFAULT_DAYS, end - Duration::days(1)).unwrap();
    assert_eq!(identity_of(&keys, &bob).validity.until, end);
    let over = keys.renew(&[alice], DEFAULT_DAYS, end).unwrap_err();
    assert!(matches!(over, KeysError::AuthorityEnded { ended, .. } if ended == end.date()), "{over}");
}

#[test]
fn the_broker_has_its_names_and_may_not_connect_as_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let keys = lab(dir.path());
    let der = der(&keys.folder_of(&Holder::Broker).join(CERTIFICATE));
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    for name in ["broker.lab", "localhost"] {
        assert!(names.contains(&format!("DNSName({name})")), "{names}");
    }
    assert_eq!(names.matches("IPAddress").count(), 3, "{names}");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
}

#[test]
fn all_certificates_of_one_who_is_revoked_are_on_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let mut keys = lab(dir.path());
    assert_eq!(crl(dir.path()), (1, day(-1).unix_timestamp(), Vec::new()));
    let [alice, bob] = [agent("alice"), agent("bob")];
    keys.add(&[alice.clone(), bob.clone()], DEFAULT_DAYS, day(0)).unwrap();
    keys.renew(std::slice::from_ref(&alice), DEFAULT_DAYS, day(0)).unwrap();
    let hers = |register: &Register| -> Vec<String> {
        register.issued.iter().filter(|i| i.holder == alice).map(|i| i.serial.to_string()).collect()
    };
    keys.revoke(&alice, day(0)).unwrap();
    drop(keys);
    let keys = KeysFolder::open(dir.path()).unwrap();
    assert_eq!(hers(keys.register()).len(), 2);
    // Both lists since were made at the same moment, and each begins later than the one before.
    assert_eq!(crl(dir.path()), (3, day(-1).unix_timestamp() + 2, hers(keys.register())));
    assert_eq!(keys.register().holders(), [&Holder::Broker, &bob]);
    assert!(!keys.folder_of(&alice).exists() && !keys.signer(&alice).exists() && keys.signer(&bob).exists());
}

#[test]
fn what_ends_soon_is_told_from_what_has_ended_and_what_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut keys = lab(dir.path());
    let [alice, bob] = [agent("alice"), agent("bob")];
    keys.add(&[alice.clone(), bob.clone()], 100, day(0)).unwrap();
    keys.renew(std::slice::from_ref(&bob), 200, day(1)).unwrap();
    let register = keys.register();
    let standings = |day| -> Vec<Standing> {
        register.issued.iter().map(|issued| register.standing(issued, day)).collect()
    };
    use Standing::*;
    assert_eq!(standings(day(69)), [Good, Good, Replaced, Good]);
    assert_eq!(standings(day(70)), [Good, EndsSoon, Replaced, Good]);
    assert_eq!(standings(day(100)), [Good, Ended, Ended, Good]);
    assert_eq!(register.ending(day(69)), []);
    assert_eq!(register.ending(day(100)), [alice]);
}

#[test]
fn a_crash_leaves_nothing_that_cannot_be_mended_or_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let mut keys = lab(dir.path());
    let alice = agent("alice");
    // Before the register was written: keys that no certificate is for.
    keys.make_folder(&alice).unwrap();
    let error = keys.add(std::slice::from_ref(&alice), 100, day(0)).unwrap_err();
    assert!(matches!(&error, KeysError::Leftover { path } if path.ends_with("agents/alice")), "{error}");
    fs::remove_dir_all(keys.folder_of(&alice)).unwrap();
    keys.add(std::slice::from_ref(&alice), 100, day(0)).unwrap();
    // After it, and before the certificate was.
    fs::remove_file(keys.folder_of(&alice).join(CERTIFICATE)).unwrap();
    keys.renew(std::slice::from_ref(&alice), 100, day(0)).unwrap();
    assert_eq!(identity_of(&keys, &alice).common_name, "alice");
    // When the list was written and the register was not.
    let before = fs::read(dir.path().join(REGISTER)).unwrap();
    keys.revoke(&alice, day(1)).unwrap();
    drop(keys);
    fs::write(dir.path().join(REGISTER), before).unwrap();
    let mut keys = KeysFolder::open(dir.path()).unwrap();
    keys.revoke(&alice, day(1)).unwrap();
    assert_eq!(crl(dir.path()).2.len(), 2);
}

#[test]
fn registers_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str, expect: fn(&KeysError) -> bool| {
        fs::write(dir.path().join(REGISTER), text).unwrap();
        let error = read_register(dir.path()).unwrap_err();
        assert!(expect(&error), "{text}: {error}");
    };
    check("", |e| matches!(e, KeysError::Register { .. }));
    check("{\"version\": 2, \"more\": 1}", |e| matches!(e, KeysError::Version { expected: 1, found: 2, .. }));
    check("{\"version\": 1}", |e| matches!(e, KeysError::Register { .. }));
    fs::remove_file(dir.path().join(REGISTER)).unwrap();
    assert!(matches!(KeysFolder::open(dir.path()), Err(KeysError::NoKeys { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written there");
}
