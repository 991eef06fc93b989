//! What is taken in of all that a broker may bring. Pure.

use super::envelope::SIGNED_HEAD;
use super::message::Message;
use super::refusal::Refusal;
use super::topic::Topic;
use super::verifier::Verifier;
use super::wire;
use crate::ids::{AgentId, FleetId};

/// The message that has come under `topic` to `agent`, in `fleet`; there is a `verifier` where messages are signed.
///
/// For whom it is comes first: a broker sends what nobody subscribed to, if it wants to, and no more topics of a sender
/// are to be marked than an agent reads.
///
/// # Errors
/// [`Refusal`]. Of a message that was verified and cannot be decoded the number is marked.
pub fn read(
    fleet: &FleetId,
    agent: &AgentId,
    verifier: Option<&mut Verifier>,
    topic: &Topic,
    payload: &[u8],
) -> Result<Message, Refusal> {
    if !topic.is_for(fleet, agent) {
        return Err(Refusal::OtherRecipient);
    }
    let message = match verifier {
        Some(verifier) => verifier.open(topic, payload)?,
        None if payload.first() == Some(&SIGNED_HEAD) => return Err(Refusal::Signed),
        None => payload,
    };
    Ok(wire::decode(&topic.leaf, message)?)
}
