//! Numbers that let no signed message be taken in twice: those that a sender gives, and the marks that a receiver
//! keeps of them. Both survive restarts. Pure; `signing` has the files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::ids::{AgentId, Digest};

/// Version of the files' form.
pub const STATE_VERSION: u32 = 1;
/// Topics of one sender that numbers are kept of: an agent reads six.
pub const MAX_TOPICS: usize = 16;
/// How far ahead of what has arrived a receiver's kept number of soft targets is: the most that a crash makes it
/// refuse of an honest teacher, and the share of messages that cost no write. What is refused is asked for again.
pub const MARK_AHEAD: u64 = 32;
/// Epochs, which begin at the clock's seconds, end in the year 2106. A wrong clock leaves room for so many connections.
const CLOCK_AT_MOST: u64 = (u32::MAX - (1 << 24)) as u64;

/// The numbers of one connection, ascending: an epoch in the upper 32 bits, in the lower ones a count from 0 on. The
/// last of an epoch is the last will's: it comes after all that was said in the connection and before what is said in
/// the next, wherever a broker puts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    epoch: u32,
    next: u32,
}

impl Numbers {
    /// Of the connection after that of epoch `last`, at `now_s` seconds since 1970: a sender that has lost its file
    /// goes on above what it has used, if its clock is right. `None` when there are no more.
    pub fn after(last: Option<u32>, now_s: u64) -> Option<Self> {
        let clock = now_s.min(CLOCK_AT_MOST) as u32;
        let epoch = last.map_or(Some(clock), |last| last.checked_add(1).map(|next| next.max(clock)))?;
        Some(Numbers { epoch, next: 0 })
    }

    /// What must be kept before any of the numbers is used.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Of the next message; `None` when the epoch has no more.
    pub fn take(&mut self) -> Option<u64> {
        let count = self.next;
        (count < u32::MAX).then(|| {
            self.next += 1;
            u64::from(self.epoch) << 32 | u64::from(count)
        })
    }

    pub fn of_last_will(&self) -> u64 {
        u64::from(self.epoch) << 32 | u64::from(u32::MAX)
    }
}

/// A sender's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumbersState {
    pub version: u32,
    /// The last epoch that may have been used.
    pub epoch: u32,
}

/// What was taken in last under one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    number: u64,
    /// Of the whole payload, where it is retained: the same may come again.
    digest: Option<Digest>,
    /// Up to which number the file refuses, counting this one.
    kept: Option<u64>,
}

impl Mark {
    /// A retained message must be in the file as it is, one of soft targets below a number of the file.
    fn is_kept(&self) -> bool {
        self.kept
            .is_some_and(|kept| if self.digest.is_some() { kept == self.number } else { kept >= self.number })
    }
}

/// Whether a message may be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Newer than all before; its signature is still to be checked.
    New,
    /// The retained message that was taken in last, byte for byte, as brokers deliver it after each subscription. Its
    /// signature has been checked.
    Again,
}

/// What a receiver has taken in, by sender and topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    of_senders: BTreeMap<AgentId, BTreeMap<String, Mark>>,
    /// Whether a crash would make a message that was taken in new again.
    unkept: bool,
}

/// A receiver's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarksState {
    pub version: u32,
    /// By sender and topic.
    pub marks: BTreeMap<AgentId, BTreeMap<String, KeptMark>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptMark {
    /// Whatever has this number or a lower one is refused.
    pub number: u64,
    /// Of the message with this number, if it may come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Marks {
    /// As they were kept.
    pub fn of_state(state: MarksState) -> Self {
        let mark = |(topic, kept): (String, KeptMark)| {
            (topic, Mark { number: kept.number, digest: kept.digest, kept: Some(kept.number) })
        };
        let of_sender =
            |(sender, marks): (AgentId, BTreeMap<_, _>)| (sender, marks.into_iter().map(mark).collect());
        Marks { of_senders: state.marks.into_iter().map(of_sender).collect(), unkept: false }
    }

    /// Whether a message with this number may be taken in. `payload` is the whole one, with its envelope.
    ///
    /// # Errors
    /// [`Refusal::Old`], [`Refusal::Duplicate`], [`Refusal::Topics`].
    pub fn check(
        &self,
        sender: &AgentId,
        topic: &str,
        number: u64,
        payload: &[u8],
    ) -> Result<Freshness, Refusal> {
        let of_sender = self.of_senders.get(sender);
        let Some(mark) = of_sender.and_then(|marks| marks.get(topic)) else {
            let n_topics = of_sender.map_or(0, BTreeMap::len);
            return match n_topics < MAX_TOPICS {
                true => Ok(Freshness::New),
                false => Err(Refusal::Topics { limit: MAX_TOPICS }),
            };
        };
        match mark.digest {
            _ if number > mark.number => Ok(Freshness::New),
            _ if number < mark.number => Err(Refusal::Old { seen: mark.number, found: number }),
            // After a crash a number may be marked that has not come; soft targets are asked for again.
            None => Err(Refusal::Duplicate),
            Some(digest) if digest == Digest::of(payload) => Ok(Freshness::Again),
            Some(_) => Err(Refusal::Old { seen: mark.number, found: number }),
        }
    }

    /// Marks a message that [`Marks::check`] has found new and whose signature holds.
    pub fn take(&mut self, sender: &AgentId, topic: &str, number: u64, payload: &[u8], is_retained: bool) {
        let digest = is_retained.then(|| Digest::of(payload));
        let of_sender = match self.of_senders.get_mut(sender) {
            Some(of_sender) => of_sender,
            None => self.of_senders.entry(sender.clone()).or_default(),
        };
        let kept = of_sender.get(topic).and_then(|mark| mark.kept);
        let mark = Mark { number, digest, kept };
        self.unkept |= !mark.is_kept();
        of_sender.insert(topic.to_owned(), mark);
    }

    /// Whether all that was taken in would be refused after a crash. Until then it must not have any effect.
    pub fn are_kept(&self) -> bool {
        !self.unkept
    }

    /// What to write so that it is: numbers of soft targets by `ahead` more than what has arrived, [`MARK_AHEAD`] in a
    /// run and 0 at its end.
    pub fn state(&self, ahead: u64) -> MarksState {
        let kept = |(topic, mark): (&String, &Mark)| {
            let number = if mark.digest.is_some() { mark.number } else { mark.number.saturating_add(ahead) };
            (topic.clone(), KeptMark { number, digest: mark.digest })
        };
        let of_sender =
            |(sender, marks): (&AgentId, &BTreeMap<_, _>)| (sender.clone(), marks.iter().map(kept).collect());
        MarksState { version: STATE_VERSION, marks: self.of_senders.iter().map(of_sender).collect() }
    }

    /// Says that this state is in the file.
    pub fn kept(&mut self, state: &MarksState) {
        self.unkept = false;
        for (sender, marks) in &mut self.of_senders {
            for (topic, mark) in marks {
                let kept = state.marks.get(sender).and_then(|marks| marks.get(topic));
                mark.kept = kept.map(|kept| kept.number);
            }
        }
    }
}
