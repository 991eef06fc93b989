//! The TLS side of a connection. Files are read and checked before anything connects, so that what is wrong with
//! one is said of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use time::{Duration, OffsetDateTime};
use tracing::warn;

use super::ExchangeError;
use crate::config::TlsConfig;
use crate::ids::AgentId;
use crate::keys::certificate::{Identity, identity};

/// How long before its certificate's end an agent warns of it.
const WARN_BEFORE: Duration = Duration::days(14);

/// # Errors
/// [`ExchangeError::Certificate`], [`ExchangeError::Pem`], [`ExchangeError::Authority`], [`ExchangeError::KeyPair`],
/// [`ExchangeError::CommonName`] and [`ExchangeError::Validity`].
pub(super) fn client_config(config: &TlsConfig, agent: &AgentId) -> Result<ClientConfig, ExchangeError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| ExchangeError::Certificate { path: path.clone(), source })
    };
    let certificates = |path: &PathBuf| {
        let pem = read(path)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let refused =
            |source| ExchangeError::Pem { path: path.clone(), expected: "PEM certificates", source };
        let all = all.map_err(refused)?;
        if all.is_empty() { Err(refused(pem::Error::NoItemsFound)) } else { Ok(all) }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.ca)? {
        roots
            .add(certificate)
            .map_err(|source| ExchangeError::Authority { path: config.ca.clone(), source })?;
    }
    let chain = certificates(&config.cert)?;
    // The first is the agent's own (RFC 8446, section 4.4.2).
    let own = identity(&chain[0])
        .map_err(|source| ExchangeError::NoCertificate { path: config.cert.clone(), source })?;
    check(&own, &config.cert, agent, OffsetDateTime::now_utc())?;
    let key = PrivateKeyDer::from_pem_slice(&read(&config.key)?).map_err(|source| ExchangeError::Pem {
        path: config.key.clone(),
        expected: "a private key in PEM",
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider has the protocol versions that rustls calls safe")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|source| ExchangeError::KeyPair {
            cert: config.cert.clone(),
            key: config.key.clone(),
            source,
        })
}

/// Whether a certificate will do for the agent; a broker would only break the connection.
///
/// # Errors
/// [`ExchangeError::CommonName`], [`ExchangeError::Validity`].
fn check(found: &Identity, path: &Path, agent: &AgentId, now: OffsetDateTime) -> Result<(), ExchangeError> {
    let Identity { common_name, validity } = found;
    if common_name != agent.as_str() {
        let (path, expected, found) = (path.to_owned(), agent.clone(), common_name.clone());
        return Err(ExchangeError::CommonName { path, expected, found });
    }
    if now < validity.from || validity.until <= now {
        let (from, until) = (validity.from.date(), validity.until.date());
        return Err(ExchangeError::Validity { path: path.to_owned(), today: now.date(), from, until });
    }
    if validity.until - now <= WARN_BEFORE {
        warn!(certificate = %path.display(), ends = %validity.until.date(), "ends soon; `dkt keys renew` makes another");
    }
    Ok(())
}
