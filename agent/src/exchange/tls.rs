//! The TLS side of a connection. Files are read and checked before anything connects, so that what is wrong with
//! one is said of it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::ExchangeError;
use crate::config::TlsConfig;

/// # Errors
/// [`ExchangeError::Certificate`], [`ExchangeError::Pem`], [`ExchangeError::Authority`] and [`ExchangeError::KeyPair`].
pub(super) fn client_config(config: &TlsConfig) -> Result<ClientConfig, ExchangeError> {
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
