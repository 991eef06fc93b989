//! The folder of a lab's keys. After a crash nothing is issued that the register does not know, and nobody is revoked
//! in it who is not on the list.
//!
//! Private keys have mode 0600 and folders 0700.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rcgen::{Issuer, KeyPair};
use rustls::crypto::ring;
use time::OffsetDateTime;

use super::certificate::{self, Serial, Validity};
use super::register::{self, Register, moment};
use super::{Holder, KeysError};
use crate::durable;

const REGISTER: &str = "keys.json";
const LOCK: &str = ".lock";
const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";
const REVOKED: &str = "crl.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const SIGNING_KEY: &str = "signing.key";
/// Folder of the public keys of all agents that are not revoked: what each agent knows the others by.
pub const SIGNERS: &str = "signers";

/// Bounds of what is read: hundreds of thousands of certificates, and any key or certificate.
const MAX_REGISTER_BYTES: u64 = 64 * 1024 * 1024;
const MAX_PEM_BYTES: u64 = 64 * 1024;

/// The broker can be reached under these names from its own machine, whatever others call it.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A lab's keys, which nobody else changes as long as this lives.
pub struct KeysFolder {
    path: PathBuf,
    register: Register,
    issuer: Issuer<'static, KeyPair>,
    _lock: File,
}

impl KeysFolder {
    /// Makes an authority, an empty list of revoked certificates and the certificate of a broker at `addresses`, in
    /// a new or empty folder.
    ///
    /// # Errors
    /// [`KeysError::Occupied`], [`KeysError::Address`], and those of files.
    pub fn init(
        path: &Path,
        addresses: &[String],
        authority_days: u32,
        days: u32,
        now: OffsetDateTime,
    ) -> Result<Self, KeysError> {
        must_be_empty(path)?;
        durable::create_private_dir(path)?;
        let lock = lock(path)?;
        // Another command may have been here since.
        must_be_empty(path)?;
        let serial = Serial::of(random()?);
        let validity = Validity::of_days(now, authority_days, None);
        let key = KeyPair::generate()?;
        // A part of the random number tells two labs' authorities apart.
        let name = format!("dkt lab {}", &serial.to_string()[24..]);
        let authority = certificate::authority(&name, &key, serial, validity)?;
        durable::write_private(&path.join(AUTHORITY_KEY), key.serialize_pem().as_bytes())?;
        durable::write(&path.join(AUTHORITY), authority.as_bytes())?;
        let issuer = Issuer::from_ca_cert_pem(&authority, key)?;
        let register = Register::new(validity.until, Vec::new());
        let mut folder = KeysFolder { path: path.to_owned(), register, issuer, _lock: lock };
        folder.set_addresses(addresses)?;
        folder.make_folder(&Holder::Broker)?;
        folder.write_revoked(now)?;
        durable::create_private_dir(&path.join(SIGNERS))?;
        folder.issue(&[Holder::Broker], days, now)?;
        Ok(folder)
    }

    /// # Errors
    /// [`KeysError::NoKeys`], [`KeysError::InUse`], and those of files.
    pub fn open(path: &Path) -> Result<Self, KeysError> {
        // Before anything is written where no keys are.
        read_register(path)?;
        let lock = lock(path)?;
        let register = read_register(path)?;
        let key = read_key(&path.join(AUTHORITY_KEY))?;
        let authority = path.join(AUTHORITY);
        let issuer = Issuer::from_ca_cert_pem(&read(&authority, MAX_PEM_BYTES)?, key)
            .map_err(|_| KeysError::Pem { path: authority, expected: "certificate" })?;
        Ok(KeysFolder { path: path.to_owned(), register, issuer, _lock: lock })
    }

    pub fn register(&self) -> &Register {
        &self.register
    }

    /// The folder of what its holder is given.
    pub fn folder_of(&self, holder: &Holder) -> PathBuf {
        match holder {
            Holder::Broker => self.path.join("broker"),
            Holder::Agent(agent) => self.path.join("agents").join(agent.as_str()),
            Holder::Bridge(site) => self.path.join("bridges").join(site.as_str()),
        }
    }

    fn signer(&self, holder: &Holder) -> PathBuf {
        self.path.join(SIGNERS).join(format!("{holder}.pub"))
    }

    /// Makes keys and certificates for agents and bridges.
    ///
    /// # Errors
    /// [`KeysError::Known`] if one of them has some, [`KeysError::Leftover`]; nothing is made then.
    pub fn add(&mut self, holders: &[Holder], days: u32, now: OffsetDateTime) -> Result<(), KeysError> {
        if let Some(known) = holders.iter().find(|holder| self.register.current(holder).is_some()) {
            return Err(KeysError::Known { name: known.to_string() });
        }
        // A crash may have left it, or the register is an old copy: then somebody uses these keys.
        if let Some(left) = holders.iter().map(|holder| self.folder_of(holder)).find(|f| f.join(KEY).exists())
        {
            return Err(KeysError::Leftover { path: left });
        }
        self.authority_holds(now)?;
        for holder in holders {
            self.make_folder(holder)?;
        }
        self.issue(holders, days, now)
    }

    /// Issues new certificates for the keys that holders have, and a new list of revoked ones.
    ///
    /// # Errors
    /// [`KeysError::Unknown`] if one of them has none; nothing is made then.
    pub fn renew(&mut self, holders: &[Holder], days: u32, now: OffsetDateTime) -> Result<(), KeysError> {
        if let Some(unknown) = holders.iter().find(|holder| self.register.current(holder).is_none()) {
            return Err(KeysError::Unknown { name: unknown.to_string() });
        }
        self.authority_holds(now)?;
        self.write_revoked(now)?;
        self.issue(holders, days, now)
    }

    /// Where agents reach the broker, for the certificate that is issued next.
    ///
    /// # Errors
    /// [`KeysError::Address`].
    pub fn set_addresses(&mut self, addresses: &[String]) -> Result<(), KeysError> {
        for address in addresses {
            certificate::address(address)?;
        }
        let mut all = addresses.to_vec();
        all.extend(
            LOCAL.iter().filter(|&&local| !addresses.iter().any(|a| a == local)).map(|&a| a.to_owned()),
        );
        self.register.addresses = all;
        Ok(())
    }

    /// Puts all certificates of an agent or bridge on the list of revoked ones, and removes its keys.
    ///
    /// # Errors
    /// [`KeysError::Unknown`].
    pub fn revoke(&mut self, holder: &Holder, now: OffsetDateTime) -> Result<(), KeysError> {
        if self.register.current(holder).is_none() {
            return Err(KeysError::Unknown { name: holder.to_string() });
        }
        self.register.revoke(holder, now);
        // The register comes last: until then the same command does it all again.
        self.write_revoked(now)?;
        let folder = self.folder_of(holder);
        let given = [AUTHORITY, CERTIFICATE, KEY, SIGNING_KEY].map(|name| folder.join(name));
        for file in given.into_iter().chain([self.signer(holder)]) {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &file)(e)),
                _ => {}
            }
        }
        // What somebody else has put there stays.
        let _ = fs::remove_dir(&folder);
        self.write_register()
    }

    /// Keys of its own, and what else it is given beside its certificate.
    fn make_folder(&self, holder: &Holder) -> Result<(), KeysError> {
        let folder = self.folder_of(holder);
        durable::create_private_dir(&folder)?;
        let key = KeyPair::generate()?;
        durable::write_private(&folder.join(KEY), key.serialize_pem().as_bytes())?;
        if *holder == Holder::Broker {
            return Ok(());
        }
        let authority = read(&self.path.join(AUTHORITY), MAX_PEM_BYTES)?;
        durable::write(&folder.join(AUTHORITY), authority.as_bytes())?;
        if let Holder::Agent(_) = holder {
            let signing = certificate::signing_key(random()?)?;
            durable::write_private(&folder.join(SIGNING_KEY), signing.serialize_pem().as_bytes())?;
            durable::write(&self.signer(holder), signing.public_key_pem().as_bytes())?;
        }
        Ok(())
    }

    /// Certificates for the keys in the holders' folders. The register comes first: what it does not know could not be
    /// revoked.
    fn issue(&mut self, holders: &[Holder], days: u32, now: OffsetDateTime) -> Result<(), KeysError> {
        let validity = Validity::of_days(now, days, Some(moment(self.register.authority_until_s)));
        let mut certificates = Vec::new();
        for holder in holders {
            let folder = self.folder_of(holder);
            let key = read_key(&folder.join(KEY))?;
            let addresses: &[String] = if *holder == Holder::Broker { &self.register.addresses } else { &[] };
            let serial = Serial::of(random()?);
            let pem = certificate::certificate(holder, addresses, &key, serial, validity, &self.issuer)?;
            self.register.issue(holder.clone(), serial, validity);
            certificates.push((folder.join(CERTIFICATE), pem));
        }
        self.write_register()?;
        for (path, pem) in certificates {
            durable::write(&path, pem.as_bytes())?;
        }
        Ok(())
    }

    /// The list is good until the authority's own end: with one that is over mosquitto refuses everybody.
    fn write_revoked(&mut self, now: OffsetDateTime) -> Result<(), KeysError> {
        let until = moment(self.register.authority_until_s);
        let crl = self.register.next_crl(Validity::of_days(now, 0, None));
        let validity = Validity { from: moment(crl.from_s), until };
        let revoked = self.register.revoked();
        let list = certificate::revocation_list(crl.number, validity, &revoked, &self.issuer)?;
        Ok(durable::write(&self.path.join(REVOKED), list.as_bytes())?)
    }

    fn write_register(&self) -> Result<(), KeysError> {
        let text =
            serde_json::to_string_pretty(&self.register).expect("invariant: a register has a JSON form");
        Ok(durable::write_private(&self.path.join(REGISTER), text.as_bytes())?)
    }

    fn authority_holds(&self, now: OffsetDateTime) -> Result<(), KeysError> {
        let until = moment(self.register.authority_until_s);
        match now < until {
            true => Ok(()),
            false => Err(KeysError::AuthorityEnded { path: self.path.join(AUTHORITY), ended: until.date() }),
        }
    }
}

/// What was issued, for those who only look.
///
/// # Errors
/// [`KeysError::NoKeys`], [`KeysError::Version`], [`KeysError::Register`].
pub fn read_register(path: &Path) -> Result<Register, KeysError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let file = path.join(REGISTER);
    let text = match read(&file, MAX_REGISTER_BYTES) {
        Err(KeysError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(KeysError::NoKeys { path: path.to_owned() });
        }
        text => text?,
    };
    let unreadable = |source| KeysError::Register { path: file.clone(), source };
    let Versioned { version } = serde_json::from_str(&text).map_err(unreadable)?;
    if version != register::VERSION {
        return Err(KeysError::Version { path: file, expected: register::VERSION, found: version });
    }
    serde_json::from_str(&text).map_err(unreadable)
}

fn must_be_empty(path: &Path) -> Result<(), KeysError> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("list", path))?,
    };
    for entry in entries {
        if entry.map_err(failed("list", path))?.file_name() != LOCK {
            return Err(KeysError::Occupied { path: path.to_owned() });
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, KeysError> {
    let lock = File::create(path.join(LOCK)).map_err(failed("lock", path))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => KeysError::InUse { path: path.to_owned() },
        TryLockError::Error(source) => failed("lock", path)(source),
    })?;
    Ok(lock)
}

fn read(path: &Path, limit: u64) -> Result<String, KeysError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    let found = read.map_err(failed("read", path))? as u64;
    if found > limit { Err(KeysError::TooLong { path: path.to_owned(), limit }) } else { Ok(text) }
}

fn read_key(path: &Path) -> Result<KeyPair, KeysError> {
    let pem = read(path, MAX_PEM_BYTES)?;
    KeyPair::from_pem(&pem).map_err(|_| KeysError::Pem { path: path.to_owned(), expected: "private key" })
}

fn random<const N: usize>() -> Result<[u8; N], KeysError> {
    let mut bytes = [0; N];
    ring::default_provider().secure_random.fill(&mut bytes).map_err(|_| KeysError::Random)?;
    Ok(bytes)
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> KeysError + 'a {
    move |source| KeysError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
