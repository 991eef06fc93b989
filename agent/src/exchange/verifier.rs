//! Whether a signed message is what its sender said under this topic, and for the first time. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::VerifyingKey;

use super::envelope::{Envelope, SIGNED_HEAD};
use super::refusal::Refusal;
use super::replay::{Freshness, Marks, Retained};
use super::topic::Topic;
use super::wire::MAX_MESSAGE_BYTES;
use crate::ids::{AgentId, Digest};

/// The public keys of all agents, and what of theirs was taken in.
pub struct Verifier {
    agent: AgentId,
    /// With the digests by which they are marked.
    signers: BTreeMap<AgentId, (VerifyingKey, Digest)>,
    pub marks: Marks,
}

/// What stands for a public key in the files.
pub fn key_digest(key: &VerifyingKey) -> Digest {
    Digest::of(key.as_bytes())
}

impl Verifier {
    /// Of `agent`, whose own key is among those of `signers`. Forgets the marks of all other keys.
    pub fn new(agent: AgentId, signers: BTreeMap<AgentId, VerifyingKey>, mut marks: Marks) -> Self {
        let with_digest = |(signer, key)| (signer, (key, key_digest(&key)));
        let signers: BTreeMap<_, _> = signers.into_iter().map(with_digest).collect();
        let digests: BTreeSet<Digest> = signers.values().map(|(_, digest)| *digest).collect();
        marks.retain(|digest| digests.contains(digest));
        Verifier { agent, signers, marks }
    }

    /// The message in an envelope that arrived under `topic`; empty where it takes back what was retained.
    ///
    /// What is cheap comes first: nothing is looked at twice before the signature is, and nothing is marked before it
    /// holds. Of the agent's own messages, which brokers send back, the signature alone is checked: old ones of these
    /// are what it must know of (`docs/protocol.md`, "Last wills that come late"), and so is that somebody has cleared
    /// them.
    ///
    /// # Errors
    /// [`Refusal`]; all is as before then.
    pub fn open<'a>(&mut self, topic: &Topic, payload: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let sender = &topic.agent;
        if payload.len() > MAX_MESSAGE_BYTES {
            return Err(Refusal::TooLarge { limit: MAX_MESSAGE_BYTES, found: payload.len() });
        }
        let (key, digest) = self.signers.get(sender).ok_or(Refusal::UnknownSigner)?;
        let is_own = *sender == self.agent;
        if is_own && payload.is_empty() {
            return Ok(payload);
        }
        if payload.first() != Some(&SIGNED_HEAD) {
            return Err(Refusal::Unsigned);
        }
        let envelope = Envelope::read(payload)?;
        if envelope.key_id != sender.as_str().as_bytes() {
            return Err(Refusal::OtherSigner);
        }
        let text = topic.to_string();
        if !is_own && self.marks.check(digest, &text, envelope.number, payload)? == Freshness::Again {
            return Ok(envelope.payload);
        }
        if !envelope.is_signed_by(key, &text) {
            return Err(Refusal::Signature);
        }
        if !is_own {
            let retained = topic.leaf.is_retained().then(|| Retained::of(payload, envelope.payload));
            self.marks.take(digest, &text, envelope.number, retained);
        }
        Ok(envelope.payload)
    }
}
