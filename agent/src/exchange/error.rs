//! What keeps an agent from exchanging anything: its configuration, its files, the broker.

use std::error::Error;
use std::path::PathBuf;

use super::signing::SigningError;
use crate::ids::AgentId;

#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("broker URL: expected mqtt://host[:port] or mqtts://host[:port], found `{found}`")]
    Url { found: String },
    #[error("broker URL: a user name and password in it are not supported; use mqtts:// and a certificate")]
    Credentials,
    #[error("`{}`: expected the certificate of an authority", .path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("cannot read `{}`", .path.display())]
    Certificate { path: PathBuf, source: std::io::Error },
    #[error("`{}`: expected {expected}, found something else", .path.display())]
    Pem { path: PathBuf, expected: &'static str, source: rustls::pki_types::pem::Error },
    #[error("certificate `{}` and key `{}` cannot be used together", .cert.display(), .key.display())]
    KeyPair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("`{}`: expected a certificate (X.509)", .path.display())]
    NoCertificate { path: PathBuf, source: x509_parser::error::X509Error },
    #[error(
        "certificate `{}`: expected the agent's name `{expected}` as its common name, found `{found}`; give the agent its own certificate, or set `agent`",
        .path.display()
    )]
    CommonName { path: PathBuf, expected: AgentId, found: String },
    #[error(
        "certificate `{}`: expected one that is good today, {today}, found one from {from} to {until}; `dkt keys renew` makes another, unless it is the clock that is wrong",
        .path.display()
    )]
    Validity { path: PathBuf, today: time::Date, from: time::Date, until: time::Date },
    #[error(
        "no connection to the broker at {url} within {seconds:.0} s; is it running there? `dkt broker` starts one for trying things out, and `exchange.enabled = false` trains without"
    )]
    BrokerUnreachable { url: String, seconds: f64, source: Option<Box<dyn Error + Send + Sync>> },
    #[error("no connection to the broker at {url}: {reason}")]
    BrokerRejected { url: String, reason: &'static str, source: Box<dyn Error + Send + Sync> },
    #[error("stopped before the broker had answered")]
    Stopped,
    #[error("cannot start the connection's thread")]
    Thread(#[source] std::io::Error),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("cannot start a broker on {listen}")]
    Listen { listen: std::net::SocketAddr, source: std::io::Error },
}
