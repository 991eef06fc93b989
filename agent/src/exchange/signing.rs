//! Keys and numbers of signed messages, and their files. Keys are those of `dkt keys`.
//!
//! Two files in the agent's folder outlive a run: the numbers that it has used as a sender, written once for each
//! connection, and the marks of what it has taken in as a receiver, written before that has any effect. Both belong to
//! keys, not to names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{SigningKey, VerifyingKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::de::DeserializeOwned;

use super::envelope;
use super::replay::{MARK_AHEAD, Marks, MarksState, Numbers, NumbersState, STATE_VERSION};
use super::topic::Topic;
use super::verifier::{Verifier, key_digest};
use crate::config::SigningConfig;
use crate::durable::{self, WriteError};
use crate::ids::{AgentId, ParseNameError};

/// Names of the two files in the agent's folder.
const NUMBERS_FILE: &str = "signing-numbers.json";
const MARKS_FILE: &str = "signing-marks.json";
/// End of the name of a file with the public key of an agent; before it is the agent's name.
const PUBLIC_KEY_SUFFIX: &str = ".pub";
/// Most agents whose keys are read, as many as an agent knows peers.
const MAX_SIGNERS: usize = 4096;
const MAX_KEY_BYTES: u64 = 64 * 1024;
const MAX_STATE_BYTES: u64 = 64 * 1024 * 1024;
/// Before the 32 bytes of a key: PKCS #8 version 1 or 2 with id-Ed25519, without its first length (RFC 8410, section 7).
const PRIVATE_HEADS: [[u8; 14]; 2] = [
    [2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 34, 4, 32],
    [2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 34, 4, 32],
];
/// The same of a SubjectPublicKeyInfo (RFC 8410, section 4).
const PUBLIC_HEAD: [u8; 12] = [0x30, 42, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 33, 0];

#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error("cannot read `{}`", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "cannot read `exchange.signing.signers`, `{}`; it is the folder `signers` that `dkt keys add` writes",
        .path.display()
    )]
    Signers { path: PathBuf, source: io::Error },
    #[error("`{}`: expected at most {limit} bytes, found more", .path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("`{}`: expected a private Ed25519 key (PKCS #8, PEM), as `dkt keys add` writes", .path.display())]
    PrivateKey { path: PathBuf },
    #[error("`{}`: expected a public Ed25519 key (PEM), as `dkt keys add` writes", .path.display())]
    PublicKey { path: PathBuf },
    #[error("`{}`: expected a file named after an agent", .path.display())]
    Name { path: PathBuf, source: ParseNameError },
    #[error("`{}`: expected the public keys of at most {MAX_SIGNERS} agents, found more", .path.display())]
    TooMany { path: PathBuf },
    #[error(
        "`exchange.signing.signers`, `{}`: expected `{agent}{PUBLIC_KEY_SUFFIX}` among the public keys; copy the folder anew from that of `dkt keys`, unless `{agent}` was revoked",
        .path.display()
    )]
    NotASigner { path: PathBuf, agent: AgentId },
    #[error(
        "`exchange.signing.key`, `{}`, is not the key of `{}`: others would refuse what it signs; give the agent its own key, or copy the public keys anew",
        .key.display(), .public.display()
    )]
    OtherKey { key: PathBuf, public: PathBuf },
    #[error(
        "`{}` is no state of signed messages; restore it, for without it old messages can be taken in again",
        .path.display()
    )]
    State { path: PathBuf, source: serde_json::Error },
    #[error("`{}`: expected version {STATE_VERSION}, found {found}; use the dkt that wrote it", .path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("`{}`: the key has used up its numbers; make another with `dkt keys revoke` and `dkt keys add`", .path.display())]
    UsedUp { path: PathBuf },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A sender's key and numbers.
pub(super) struct Sealer {
    agent: AgentId,
    key: SigningKey,
    path: PathBuf,
    last_epoch: Option<u32>,
    /// None before the first connection.
    numbers: Option<Numbers>,
}

impl Sealer {
    /// Begins the numbers of another connection, and seals the will that goes with it. Writes a file.
    ///
    /// # Errors
    /// [`SigningError::Write`], [`SigningError::UsedUp`]; the numbers are as before then.
    pub fn connect(&mut self, topic: &Topic, will: &[u8]) -> Result<Vec<u8>, SigningError> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let numbers = Numbers::after(self.last_epoch, now_s)
            .ok_or_else(|| SigningError::UsedUp { path: self.path.clone() })?;
        let key = key_digest(&self.key.verifying_key());
        let state = NumbersState { version: STATE_VERSION, key, epoch: numbers.epoch() };
        write(&self.path, &state)?;
        let number = numbers.of_last_will();
        self.last_epoch = Some(numbers.epoch());
        self.numbers = Some(numbers);
        Ok(envelope::seal(&self.key, self.agent.as_str(), &topic.to_string(), number, will))
    }

    /// `None` where the numbers of this connection are used up, which takes years.
    pub fn seal(&mut self, topic: &Topic, payload: &[u8]) -> Option<Vec<u8>> {
        let number = self.numbers.as_mut()?.take()?;
        Some(envelope::seal(&self.key, self.agent.as_str(), &topic.to_string(), number, payload))
    }
}

/// A receiver's keys and marks.
pub(super) struct Opener {
    pub verifier: Verifier,
    path: PathBuf,
}

impl Opener {
    /// Writes the marks down if a crash would lose one. Before that nothing that was opened may have any effect.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn keep(&mut self) -> Result<(), WriteError> {
        if self.verifier.marks.are_kept() { Ok(()) } else { self.write(MARK_AHEAD) }
    }

    /// Writes down exactly what was taken in: the agent ends, and nothing more arrives.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn close(&mut self) -> Result<(), WriteError> {
        self.write(0)
    }

    fn write(&mut self, ahead: u64) -> Result<(), WriteError> {
        let state = self.verifier.marks.state(ahead);
        write(&self.path, &state)?;
        self.verifier.marks.kept(&state);
        Ok(())
    }
}

/// Reads keys and state; `folder` is the agent's.
///
/// # Errors
/// [`SigningError`].
pub(super) fn open(
    config: &SigningConfig,
    agent: &AgentId,
    folder: &Path,
) -> Result<(Sealer, Opener), SigningError> {
    let key = private_key(&config.key)?;
    let signers = public_keys(&config.signers)?;
    match signers.get(agent) {
        Some(public) if *public == key.verifying_key() => {}
        Some(_) => {
            let public = config.signers.join(format!("{agent}{PUBLIC_KEY_SUFFIX}"));
            return Err(SigningError::OtherKey { key: config.key.clone(), public });
        }
        None => {
            return Err(SigningError::NotASigner { path: config.signers.clone(), agent: agent.clone() });
        }
    }
    durable::create_dir(folder)?;
    let path = folder.join(NUMBERS_FILE);
    let state: Option<NumbersState> = read_state(&path)?;
    let own = key_digest(&key.verifying_key());
    let last_epoch = state.filter(|state| state.key == own).map(|state| state.epoch);
    let sealer = Sealer { agent: agent.clone(), key, path, last_epoch, numbers: None };
    let path = folder.join(MARKS_FILE);
    let marks = Marks::of_state(read_state::<MarksState>(&path)?.unwrap_or_default());
    let opener = Opener { verifier: Verifier::new(agent.clone(), signers, marks), path };
    Ok((sealer, opener))
}

fn private_key(path: &Path) -> Result<SigningKey, SigningError> {
    let refused = || SigningError::PrivateKey { path: path.to_owned() };
    let der = PrivatePkcs8KeyDer::from_pem_slice(&read(path, MAX_KEY_BYTES)?).map_err(|_| refused())?;
    // The first two bytes are a sequence and its length; version 2 has the public key behind.
    let (head, rest) =
        der.secret_pkcs8_der().get(2..).and_then(|der| der.split_at_checked(14)).ok_or_else(refused)?;
    let is_known = PRIVATE_HEADS.iter().any(|known| known == head);
    let seed = rest.first_chunk::<32>().filter(|_| is_known).ok_or_else(refused)?;
    Ok(SigningKey::from_bytes(seed))
}

fn public_key(path: &Path) -> Result<VerifyingKey, SigningError> {
    let refused = || SigningError::PublicKey { path: path.to_owned() };
    let der = SubjectPublicKeyInfoDer::from_pem_slice(&read(path, MAX_KEY_BYTES)?).map_err(|_| refused())?;
    let point = der.strip_prefix(&PUBLIC_HEAD).and_then(|point| <&[u8; 32]>::try_from(point).ok());
    let key = point.and_then(|point| VerifyingKey::from_bytes(point).ok()).filter(|key| !key.is_weak());
    key.ok_or_else(refused)
}

/// By the agents' names, of all files of the folder that end in `.pub`.
fn public_keys(folder: &Path) -> Result<BTreeMap<AgentId, VerifyingKey>, SigningError> {
    let failed = |source| SigningError::Signers { path: folder.to_owned(), source };
    let mut keys = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(PUBLIC_KEY_SUFFIX)) else {
            continue;
        };
        let agent = name.parse().map_err(|source| SigningError::Name { path: path.clone(), source })?;
        if keys.len() == MAX_SIGNERS {
            return Err(SigningError::TooMany { path: folder.to_owned() });
        }
        keys.insert(agent, public_key(&path)?);
    }
    Ok(keys)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, SigningError> {
    let mut bytes = Vec::new();
    let found = File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|source| SigningError::Read { path: path.to_owned(), source })?;
    if found as u64 > limit {
        return Err(SigningError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// `None` if there is no such file yet.
fn read_state<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SigningError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bytes = match read(path, MAX_STATE_BYTES) {
        Err(SigningError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        bytes => bytes?,
    };
    let unreadable = |source| SigningError::State { path: path.to_owned(), source };
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(unreadable)?;
    if version != STATE_VERSION {
        return Err(SigningError::Version { path: path.to_owned(), found: version });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(unreadable)
}

fn write<T: serde::Serialize>(path: &Path, state: &T) -> Result<(), WriteError> {
    let text = serde_json::to_vec(state).expect("invariant: a state has a JSON form");
    durable::write(path, &text)
}

#[cfg(test)]
mod tests;
