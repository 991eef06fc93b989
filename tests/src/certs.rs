//! Certificates: those of a lab, made as a lab makes them, and those that its tools refuse to make.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dkt_agent::config::TlsConfig;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};

use crate::process;
use crate::repository;

/// A folder with an authority and what it has signed, as `make-certs.sh` makes it.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// # Panics
    /// If the script fails.
    pub fn make(folder: &Path, agents: &[&str]) -> Self {
        make_certs(folder, agents);
        Certificates { folder: folder.to_owned() }
    }

    /// Puts what the bridge of the other site needs into its folder.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn give_bridge(&self, to: &Path) {
        make_certs(&self.folder, &["-b", "site-b"]);
        for (from, name) in [
            ("ca.pem", "bridge-ca.pem"),
            ("bridge.site-b.pem", "bridge.site-b.pem"),
            ("bridge.site-b.key", "bridge.site-b.key"),
        ] {
            fs::copy(self.folder.join(from), to.join(name)).expect("the bridge's files are copied");
        }
    }

    /// The files that an agent of that name is given.
    pub fn of(&self, name: &str) -> TlsConfig {
        TlsConfig {
            ca: self.folder.join("ca.pem"),
            cert: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        }
    }

    /// A certificate by this authority, for any common name, good in the given years. Kept in files called `file`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn sign(&self, file: &str, common_name: &str, years: (i32, i32)) -> TlsConfig {
        let tls = self.of(file);
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).expect("the authority is there");
        let key = KeyPair::from_pem(&read("ca.key")).expect("the authority has a key");
        let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("the authority has a certificate");
        let key = KeyPair::generate().expect("a key is made");
        let mut certificate = CertificateParams::default();
        certificate.distinguished_name.push(DnType::CommonName, common_name);
        certificate.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        certificate.not_before = date_time_ymd(years.0, 1, 1);
        certificate.not_after = date_time_ymd(years.1, 1, 1);
        let certificate = certificate.signed_by(&key, &issuer).expect("a certificate is signed");
        fs::write(&tls.cert, certificate.pem()).expect("the certificate is written");
        fs::write(&tls.key, key.serialize_pem()).expect("the key is written");
        tls
    }
}

fn make_certs(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new(repository("broker-config/make-certs.sh"));
    command.arg("-d").arg(folder).args(arguments);
    let output = process::run(command);
    assert_eq!(output.code, Some(0), "make-certs.sh: {}", output.stderr);
}
