//! Who is who in a lab: an authority, the certificates it signs, and the keys with which agents sign messages.
//!
//! `certificate` makes certificates out of parameters and a clock value and `register` knows what was issued; both are
//! pure. `folder` keeps everything in files. `dkt keys` is the command.

pub mod certificate;
pub mod folder;
pub mod register;

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::durable::WriteError;
use crate::ids::{AgentId, ParseNameError, SiteId};

/// Before a site's name, in the common name of its bridge. No agent's name has a full stop.
const BRIDGE_PREFIX: &str = "bridge.";
/// X.509 bounds a common name at 64 characters (RFC 5280, appendix A, `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

/// Days that a certificate is good for, unless told otherwise.
pub const DEFAULT_DAYS: u32 = 825;
/// The same of the authority: nobody replaces it within a study, and it outlives what it signs.
pub const DEFAULT_AUTHORITY_DAYS: u32 = 3650;
/// Longest time, in days, that anything can be issued for: a century.
pub const MAX_DAYS: u32 = 36_500;
/// Days before its end from which on a certificate is renewed without being named.
pub const RENEW_WITHIN_DAYS: u32 = 30;

/// Whose a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    Broker,
    Agent(AgentId),
    /// The bridge by which the broker of a site joins this lab's.
    Bridge(SiteId),
}

impl Holder {
    pub fn common_name(&self) -> String {
        match self {
            Holder::Broker => "dkt broker".to_owned(),
            Holder::Agent(agent) => agent.to_string(),
            Holder::Bridge(site) => format!("{BRIDGE_PREFIX}{site}"),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Broker => f.write_str("broker"),
            Holder::Agent(_) | Holder::Bridge(_) => f.write_str(&self.common_name()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ParseHolderError {
    #[error(transparent)]
    Name(#[from] ParseNameError),
    #[error(
        "expected the name of a site of at most {} characters, found {found}",
        MAX_COMMON_NAME - BRIDGE_PREFIX.len()
    )]
    LongSite { found: usize },
}

/// An agent, or `bridge.SITE`. The broker has no name of this kind.
impl FromStr for Holder {
    type Err = ParseHolderError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(BRIDGE_PREFIX) {
            Some(site) if text.len() > MAX_COMMON_NAME => {
                Err(ParseHolderError::LongSite { found: site.chars().count() })
            }
            Some(site) => Ok(Holder::Bridge(site.parse()?)),
            None => Ok(Holder::Agent(text.parse()?)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("cannot {action} `{}`", .path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("`{}` is not empty; choose another --out", .path.display())]
    Occupied { path: PathBuf },
    #[error("`{}` holds no keys of a lab; `dkt keys init` makes them", .path.display())]
    NoKeys { path: PathBuf },
    #[error("`{}` is in use by another `dkt keys`; wait for it", .path.display())]
    InUse { path: PathBuf },
    #[error("`{}` is no register of keys", .path.display())]
    Register { path: PathBuf, source: serde_json::Error },
    #[error("`{}`: expected version {expected}, found {found}; use the dkt that wrote it", .path.display())]
    Version { path: PathBuf, expected: u32, found: u32 },
    #[error("`{}`: expected at most {limit} bytes, found more", .path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error(
        "`{name}` has a certificate; `dkt keys renew` makes another for its key, `dkt keys revoke` ends it"
    )]
    Known { name: String },
    #[error("`{}` has keys that `keys.json` does not know; move it away", .path.display())]
    Leftover { path: PathBuf },
    #[error(
        "expected a name with a certificate that is not revoked, found `{name}`; `dkt keys list` has them"
    )]
    Unknown { name: String },
    #[error("expected a DNS name or an IP address, found `{found}`")]
    Address { found: String },
    #[error("`{}`: expected a {expected}, found something else", .path.display())]
    Pem { path: PathBuf, expected: &'static str },
    #[error("the authority `{}` ended on {ended}; `dkt keys init --out` makes another", .path.display())]
    AuthorityEnded { path: PathBuf, ended: time::Date },
    #[error("the system gives no random numbers")]
    Random,
    #[error("cannot make a certificate or a key")]
    Make(#[from] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_broker_could_take_for_patterns_are_refused() {
        for (text, name) in [("alice", "alice"), ("broker", "broker"), ("bridge.site-b", "bridge.site-b")] {
            assert_eq!(text.parse::<Holder>().unwrap().common_name(), name);
        }
        let long = format!("bridge.{}", "x".repeat(58));
        for bad in ["", "+", "#", "a/b", "alice/status", "a.b", "bridge.", "bridge.#", "$SYS", "Alice", &long]
        {
            assert!(bad.parse::<Holder>().is_err(), "{bad}");
        }
        assert!(long[..64].parse::<Holder>().is_ok());
    }
}
