//! Certificates: those of a lab, as `dkt keys` makes them, and those that it refuses to make.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dkt_agent::config::{SigningConfig, TlsConfig};
use dkt_agent::keys::certificate::{Validity, revocation_list};
use dkt_agent::keys::folder::{KeysFolder, SIGNERS};
use dkt_agent::keys::{DEFAULT_AUTHORITY_DAYS, DEFAULT_DAYS, Holder};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};

/// A lab's keys, in a folder.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// A new authority, a broker's certificate, and those of agents and bridges.
    ///
    /// # Panics
    /// If they cannot be made.
    pub fn make(folder: &Path, names: &[&str]) -> Self {
        let now = SystemTime::now().into();
        KeysFolder::init(folder, &[], DEFAULT_AUTHORITY_DAYS, DEFAULT_DAYS, now)
            .and_then(|mut keys| {
                keys.add(&names.iter().map(|name| holder(name)).collect::<Vec<_>>(), DEFAULT_DAYS, now)
            })
            .expect("the keys of a lab are made");
        Certificates { folder: folder.to_owned() }
    }

    /// # Panics
    /// If there is none of that name.
    pub fn revoke(&self, name: &str) {
        KeysFolder::open(&self.folder)
            .and_then(|mut keys| keys.revoke(&holder(name), SystemTime::now().into()))
            .expect("a certificate is revoked");
    }

    /// Issues a new certificate for so many days.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn renew(&self, name: &str, days: u32) {
        KeysFolder::open(&self.folder)
            .and_then(|mut keys| keys.renew(&[holder(name)], days, SystemTime::now().into()))
            .expect("a certificate is renewed");
    }

    /// Makes the list of revoked certificates one that was good in the given years; nobody is on it.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn date_list(&self, years: (i32, i32)) {
        let [from, until] = [years.0, years.1].map(|year| date_time_ymd(year, 1, 1));
        let list = revocation_list(1, Validity { from, until }, &[], &self.issuer());
        fs::write(self.folder.join("crl.pem"), list.expect("a list is signed")).expect("the list is written");
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).expect("the authority is there");
        let key = KeyPair::from_pem(&read("ca.key")).expect("the authority has a key");
        Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("the authority has a certificate")
    }

    /// Puts what a broker needs into its folder.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn give_broker(&self, to: &Path) {
        for (from, name) in [
            ("ca.pem", "ca.pem"),
            ("crl.pem", "crl.pem"),
            ("broker/cert.pem", "cert.pem"),
            ("broker/key.pem", "key.pem"),
        ] {
            fs::copy(self.folder.join(from), to.join(name)).expect("the broker's files are copied");
        }
    }

    /// Puts what the bridge of the other site needs into its folder.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn give_bridge(&self, to: &Path) {
        KeysFolder::open(&self.folder)
            .and_then(|mut keys| keys.add(&[holder("bridge.site-b")], DEFAULT_DAYS, SystemTime::now().into()))
            .expect("the bridge's keys are made");
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            let from = self.folder.join("bridges/site-b").join(name);
            fs::copy(from, to.join(name)).expect("the bridge's files are copied");
        }
    }

    /// What an agent signs with, and knows the others by.
    pub fn signing_of(&self, name: &str) -> SigningConfig {
        SigningConfig {
            key: self.folder.join("agents").join(name).join("signing.key"),
            signers: self.folder.join(SIGNERS),
        }
    }

    /// The files that an agent of that name is given.
    pub fn of(&self, name: &str) -> TlsConfig {
        let folder = self.folder.join("agents").join(name);
        TlsConfig { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") }
    }

    /// A copy of an agent's files that stays when it is revoked.
    ///
    /// # Panics
    /// If there are none.
    pub fn copy_of(&self, name: &str, file: &str) -> TlsConfig {
        let (from, to) = (self.of(name), self.odd(file));
        for (from, to) in [(from.cert, &to.cert), (from.key, &to.key)] {
            fs::copy(from, to).expect("the agent's files are copied");
        }
        to
    }

    /// A certificate by this authority, for any common name, good in the given years. Kept in files called `file`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn sign(&self, file: &str, common_name: &str, years: (i32, i32)) -> TlsConfig {
        let tls = self.odd(file);
        let key = KeyPair::generate().expect("a key is made");
        let mut certificate = CertificateParams::default();
        certificate.distinguished_name.push(DnType::CommonName, common_name);
        certificate.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        certificate.not_before = date_time_ymd(years.0, 1, 1);
        certificate.not_after = date_time_ymd(years.1, 1, 1);
        let certificate = certificate.signed_by(&key, &self.issuer()).expect("a certificate is signed");
        fs::write(&tls.cert, certificate.pem()).expect("the certificate is written");
        fs::write(&tls.key, key.serialize_pem()).expect("the key is written");
        tls
    }

    /// Files beside those of `dkt keys`.
    fn odd(&self, file: &str) -> TlsConfig {
        let path = |end: &str| self.folder.join(format!("{file}.{end}"));
        TlsConfig { ca: self.folder.join("ca.pem"), cert: path("pem"), key: path("key") }
    }
}

fn holder(name: &str) -> Holder {
    name.parse().expect("it is a name")
}
