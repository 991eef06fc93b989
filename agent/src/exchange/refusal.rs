//! Why a message from a peer is not taken in, and how often: counted by peer and reason in a table that cannot grow.

use std::collections::BTreeMap;
use std::time::Duration;

use super::envelope::EnvelopeError;
use super::topic::ParseTopicError;
use super::wire::WireError;
use crate::ids::AgentId;

/// Peers counted by name; further ones are counted together.
pub const MAX_NAMED_PEERS: usize = 256;
/// Between two warnings about one peer.
pub const WARNING_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Topic(#[from] ParseTopicError),
    #[error("a message to another fleet or teacher")]
    OtherRecipient,
    #[error("a signed message; set [exchange.signing] to read it")]
    Signed,
    #[error("a message that is not signed; the sender needs [exchange.signing]")]
    Unsigned,
    #[error("expected at most {limit} bytes, found {found}")]
    TooLarge { limit: usize, found: usize },
    #[error("no envelope of a signed message")]
    Envelope(#[from] EnvelopeError),
    #[error("no public key of its sender among `exchange.signing.signers`")]
    UnknownSigner,
    #[error("signed with the key of another agent than that of its topic")]
    OtherSigner,
    #[error("a message that is older than one taken in before: number {found}, after {seen}")]
    Old { seen: u64, found: u64 },
    #[error("a message that was taken in before")]
    Duplicate,
    #[error("a signature that does not hold for this message under this topic")]
    Signature,
    #[error("the number of the message could not be written down")]
    NotKept,
    #[error(transparent)]
    Content(#[from] WireError),
}

/// Names of the reasons, for counting and reports.
pub const REASONS: [&str; 14] = [
    "topic",
    "other_recipient",
    "signed",
    "unsigned",
    "too_large",
    "envelope",
    "unknown_signer",
    "other_signer",
    "old",
    "duplicate",
    "signature",
    "not_kept",
    "version",
    "content",
];

impl Refusal {
    /// Index into [`REASONS`].
    pub fn reason(&self) -> usize {
        match self {
            Refusal::Topic(_) => 0,
            Refusal::OtherRecipient => 1,
            Refusal::Signed => 2,
            Refusal::Unsigned => 3,
            Refusal::TooLarge { .. } | Refusal::Content(WireError::TooLarge { .. }) => 4,
            Refusal::Envelope(_) => 5,
            Refusal::UnknownSigner => 6,
            Refusal::OtherSigner => 7,
            Refusal::Old { .. } => 8,
            Refusal::Duplicate => 9,
            Refusal::Signature => 10,
            Refusal::NotKept => 11,
            Refusal::Content(WireError::Version { .. }) => 12,
            Refusal::Content(_) => 13,
        }
    }
}

/// What was refused of one peer and has not been told.
#[derive(Debug, Default)]
struct Row {
    counts: [u64; REASONS.len()],
    warned: Option<Duration>,
}

/// Counts of what was refused since a person was last told, by peer. `None` stands for all who are not named.
#[derive(Debug, Default)]
pub struct Refusals {
    rows: BTreeMap<Option<AgentId>, Row>,
}

/// A warning that is due.
#[derive(Debug, PartialEq, Eq)]
pub struct Warning {
    /// `None` for peers that are not counted by name.
    pub peer: Option<AgentId>,
    /// As `reason: count`, of those refused since the last warning, with commas between.
    pub counts: String,
}

impl Refusals {
    /// Counts a refusal at `now`, the time since any fixed moment. A warning at most once in [`WARNING_INTERVAL`] and
    /// peer; duplicates, which brokers make, are told of only beside something else.
    pub fn add(&mut self, peer: Option<&AgentId>, refusal: &Refusal, now: Duration) -> Option<Warning> {
        let peer = peer.cloned();
        let n_named = self.rows.len() - usize::from(self.rows.contains_key(&None));
        let peer = if n_named < MAX_NAMED_PEERS || self.rows.contains_key(&peer) { peer } else { None };
        let row = self.rows.entry(peer.clone()).or_default();
        row.counts[refusal.reason()] += 1;
        let is_due = row.warned.is_none_or(|at| now.saturating_sub(at) >= WARNING_INTERVAL);
        if !is_due || matches!(refusal, Refusal::Duplicate) {
            return None;
        }
        row.warned = Some(now);
        let counts = std::mem::take(&mut row.counts);
        let listed =
            REASONS.iter().zip(counts).filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}: {n}"));
        Some(Warning { peer, counts: listed.collect::<Vec<_>>().join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: usize) -> AgentId {
        format!("peer-{i}").parse().unwrap()
    }

    #[test]
    fn a_person_is_told_once_a_minute_and_peer_with_the_counts_since() {
        let mut refusals = Refusals::default();
        let warning =
            |peer: usize, counts: &str| Some(Warning { peer: Some(name(peer)), counts: counts.to_owned() });
        let at = Duration::from_secs;
        assert_eq!(refusals.add(Some(&name(1)), &Refusal::Signature, at(5)), warning(1, "signature: 1"));
        assert_eq!(refusals.add(Some(&name(1)), &Refusal::Signature, at(6)), None);
        assert_eq!(refusals.add(Some(&name(1)), &Refusal::Unsigned, at(64)), None);
        assert_eq!(refusals.add(Some(&name(2)), &Refusal::Unsigned, at(64)), warning(2, "unsigned: 1"));
        assert_eq!(refusals.add(Some(&name(1)), &Refusal::Duplicate, at(65)), None);
        let counts = "unsigned: 1, duplicate: 1, signature: 2";
        assert_eq!(refusals.add(Some(&name(1)), &Refusal::Signature, at(66)), warning(1, counts));
    }

    #[test]
    fn the_table_of_peers_is_bounded() {
        let mut refusals = Refusals::default();
        let warned: Vec<Option<AgentId>> = (0..10_000)
            .filter_map(|i| refusals.add(Some(&name(i)), &Refusal::Signature, Duration::ZERO))
            .map(|warning| warning.peer)
            .collect();
        assert_eq!(refusals.rows.len(), MAX_NAMED_PEERS + 1);
        assert_eq!(warned.len(), MAX_NAMED_PEERS + 1, "those without a name are told of as one");
        let later = refusals.add(Some(&name(9_999)), &Refusal::Signature, WARNING_INTERVAL).unwrap();
        let counts = format!("signature: {}", 10_000 - MAX_NAMED_PEERS);
        assert_eq!(later, Warning { peer: None, counts });
    }
}
