//! Numbers that let no signed message be taken in twice: those that a sender gives, and the marks that a receiver
//! keeps of them. Both survive restarts. Pure; `signing` has the files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::ids::Digest;

/// Version of the files' form.
pub const STATE_VERSION: u32 = 1;
/// Topics of one sender that numbers are kept of: an agent reads six, and others in its next fleet or with other data.
pub const MAX_TOPICS: usize = 16;
/// How far ahead of what has arrived a receiver's kept number of soft targets is: the most that crashes make it
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
    /// Of the public key whose numbers these are: those of another begin anew.
    pub key: Digest,
    /// The last epoch that may have been used.
    pub epoch: u32,
}

/// What was taken in last under one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    number: u64,
    /// Where it is retained: the same may come again.
    retained: Option<Retained>,
    kept: Option<Kept>,
}

/// What a receiver knows of a retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Of the whole payload, with its envelope.
    digest: Digest,
    /// Of the message in it; unknown where the mark is from the file.
    said: Option<Digest>,
}

impl Retained {
    pub fn of(payload: &[u8], message: &[u8]) -> Self {
        Retained { digest: Digest::of(payload), said: Some(Digest::of(message)) }
    }
}

/// What the file says of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// Up to which number it refuses, counting this one.
    number: u64,
    /// Of the retained message with this number, where it is known.
    said: Option<Digest>,
}

impl Mark {
    /// Whether a crash may lose this mark. One of soft targets must be below a number of the file. A retained message
    /// must be in the file as it is, unless it says what the one there says: that one may come again in any case.
    fn is_kept(&self) -> bool {
        self.kept.is_some_and(|kept| match self.retained {
            None => kept.number >= self.number,
            Some(Retained { said, .. }) => kept.number == self.number || said.is_some() && kept.said == said,
        })
    }

    fn state(&self, ahead: u64) -> KeptMark {
        let number = match self.retained {
            Some(_) => self.number,
            // One that is far enough stays: this number may itself be from the file, and ahead of what has come.
            None => {
                let furthest = self.number.saturating_add(ahead);
                let kept = self.kept.map(|kept| kept.number);
                kept.filter(|kept| (self.number..=furthest).contains(kept)).unwrap_or(furthest)
            }
        };
        KeptMark { number, digest: self.retained.map(|retained| retained.digest) }
    }
}

/// What was taken in of one signer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfSigner {
    /// The highest number of a topic that was forgotten. A signer's numbers rise over all its topics, so nothing up to
    /// here is new under a topic without a mark.
    floor: Option<u64>,
    marks: BTreeMap<String, Mark>,
}

impl OfSigner {
    /// Makes room for the mark of another topic.
    fn forget_lowest(&mut self) {
        let lowest = self.marks.iter().min_by_key(|(_, mark)| mark.number);
        let Some(topic) = lowest.map(|(topic, _)| topic.clone()) else { return };
        let forgotten = self.marks.remove(&topic).map(|mark| mark.number);
        self.floor = self.floor.max(forgotten);
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

/// What a receiver has taken in. Signers are told by the digests of their public keys: who has a new key has said
/// nothing with it, whatever was said in that name with the key before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    of_signers: BTreeMap<Digest, OfSigner>,
    /// Whether a crash would make a message that was taken in new again.
    unkept: bool,
}

/// A receiver's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarksState {
    pub version: u32,
    /// By the digests of public keys.
    pub signers: BTreeMap<Digest, KeptOfSigner>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptOfSigner {
    /// Up to which number everything is refused under a topic without a mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u64>,
    /// By topic.
    pub marks: BTreeMap<String, KeptMark>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptMark {
    /// Whatever has this number or a lower one is refused.
    pub number: u64,
    /// Of the whole payload with this number, if it may come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl Marks {
    /// As they were kept.
    pub fn of_state(state: MarksState) -> Self {
        let mark = |(topic, KeptMark { number, digest }): (String, KeptMark)| {
            let retained = digest.map(|digest| Retained { digest, said: None });
            (topic, Mark { number, retained, kept: Some(Kept { number, said: None }) })
        };
        let of_signer = |(signer, kept): (Digest, KeptOfSigner)| {
            (signer, OfSigner { floor: kept.floor, marks: kept.marks.into_iter().map(mark).collect() })
        };
        Marks { of_signers: state.signers.into_iter().map(of_signer).collect(), unkept: false }
    }

    /// Forgets all others: a key that was taken out signs nothing that is taken in.
    pub fn retain(&mut self, is_signer: impl Fn(&Digest) -> bool) {
        self.of_signers.retain(|signer, _| is_signer(signer));
    }

    /// Whether a message with this number may be taken in. `payload` is the whole one, with its envelope.
    ///
    /// # Errors
    /// [`Refusal::Old`], [`Refusal::Duplicate`].
    pub fn check(
        &self,
        signer: &Digest,
        topic: &str,
        number: u64,
        payload: &[u8],
    ) -> Result<Freshness, Refusal> {
        let of_signer = self.of_signers.get(signer);
        let Some(mark) = of_signer.and_then(|of_signer| of_signer.marks.get(topic)) else {
            return match of_signer.and_then(|of_signer| of_signer.floor) {
                Some(floor) if number <= floor => Err(Refusal::Old { seen: floor, found: number }),
                _ => Ok(Freshness::New),
            };
        };
        match mark.retained {
            _ if number > mark.number => Ok(Freshness::New),
            _ if number < mark.number => Err(Refusal::Old { seen: mark.number, found: number }),
            // After a crash a number may be marked that has not come; soft targets are asked for again.
            None => Err(Refusal::Duplicate),
            Some(retained) if retained.digest == Digest::of(payload) => Ok(Freshness::Again),
            Some(_) => Err(Refusal::Old { seen: mark.number, found: number }),
        }
    }

    /// Marks a message that [`Marks::check`] has found new and whose signature holds.
    pub fn take(&mut self, signer: &Digest, topic: &str, number: u64, retained: Option<Retained>) {
        let of_signer = self.of_signers.entry(*signer).or_default();
        let known = of_signer.marks.get(topic);
        let mark = Mark { number, retained, kept: known.and_then(|mark| mark.kept) };
        if known.is_none() && of_signer.marks.len() >= MAX_TOPICS {
            of_signer.forget_lowest();
        }
        self.unkept |= !mark.is_kept();
        of_signer.marks.insert(topic.to_owned(), mark);
    }

    /// Whether a crash would let nothing be taken in again but retained messages that say what was said last. Until
    /// then what was taken in must not have any effect.
    pub fn are_kept(&self) -> bool {
        !self.unkept
    }

    /// What to write so that it is: numbers of soft targets by up to `ahead` more than what has arrived, [`MARK_AHEAD`]
    /// in a run and 0 at its end.
    pub fn state(&self, ahead: u64) -> MarksState {
        let mark = |(topic, mark): (&String, &Mark)| (topic.clone(), mark.state(ahead));
        let of_signer = |(signer, of_signer): (&Digest, &OfSigner)| {
            let marks = of_signer.marks.iter().map(mark).collect();
            (*signer, KeptOfSigner { floor: of_signer.floor, marks })
        };
        MarksState { version: STATE_VERSION, signers: self.of_signers.iter().map(of_signer).collect() }
    }

    /// Says that this state is in the file: the last that [`Marks::state`] gave.
    pub fn kept(&mut self, state: &MarksState) {
        self.unkept = false;
        for (signer, of_signer) in &mut self.of_signers {
            let kept_of_signer = state.signers.get(signer);
            for (topic, mark) in &mut of_signer.marks {
                let kept = kept_of_signer.and_then(|kept| kept.marks.get(topic));
                let said = mark.retained.and_then(|retained| retained.said);
                mark.kept = kept.map(|kept| Kept { number: kept.number, said });
            }
        }
    }
}
