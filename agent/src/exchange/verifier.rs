//! Whether a signed message is what its sender said under this topic, and for the first time. Pure.

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;

use super::envelope::{Envelope, SIGNED_HEAD};
use super::refusal::Refusal;
use super::replay::{Freshness, Marks};
use super::topic::Topic;
use super::wire::MAX_MESSAGE_BYTES;
use crate::ids::AgentId;

/// The public keys of all agents, and what of theirs was taken in.
pub struct Verifier {
    agent: AgentId,
    signers: BTreeMap<AgentId, VerifyingKey>,
    pub marks: Marks,
}

impl Verifier {
    /// Of `agent`, whose own key is among those of `signers`.
    pub fn new(agent: AgentId, signers: BTreeMap<AgentId, VerifyingKey>, marks: Marks) -> Self {
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
        let key = self.signers.get(sender).ok_or(Refusal::UnknownSigner)?;
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
        if !is_own && self.marks.check(sender, &text, envelope.number, payload)? == Freshness::Again {
            return Ok(envelope.payload);
        }
        if !envelope.is_signed_by(key, &text) {
            return Err(Refusal::Signature);
        }
        if !is_own {
            self.marks.take(sender, &text, envelope.number, payload, topic.leaf.is_retained());
        }
        Ok(envelope.payload)
    }
}
