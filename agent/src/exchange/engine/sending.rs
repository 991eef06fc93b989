//! The teacher's side, from labelled rows to messages: what need not be said is left out, and rows are held back for a
//! moment so that they share a message.

use std::time::Duration;

use super::sent::{Saying, Sent};
use super::{Action, Engine, EngineConfig};
use crate::exchange::message::{Message, Same, TargetChunk};
use crate::exchange::rows::Rows;
use crate::exchange::sample_list::SampleList;
use crate::exchange::topic::Leaf;
use crate::exchange::wire::chunk_room;
use crate::ids::{Digest, Round, SampleId, View};

/// Longest time that a labelled row waits for others: well before a student asks for it.
const HOLD_AT_MOST: Duration = Duration::from_secs(1);

/// Rows of one view of some data and one round that are labelled and not yet sent: less than a message, and one batch of labels.
struct Held {
    data: Digest,
    view: View,
    round: Round,
    since: Duration,
    ids: Vec<SampleId>,
    /// `[ids, classes]`.
    logits: Vec<f32>,
    same: Vec<SampleId>,
    /// The last round in which one of `same` was sent.
    base: Round,
}

pub(super) struct Sending {
    pub sent: Sent,
    held: Option<Held>,
}

impl Sending {
    pub fn new(config: &EngineConfig) -> Self {
        Sending { sent: Sent::new(config), held: None }
    }

    /// There is no connection: what is held back is lost, and asked for again.
    pub fn disconnected(&mut self) {
        self.held = None;
    }
}

impl Engine {
    /// Sends what this round's network says of some samples, now or, with what is labelled next, a little later.
    pub(super) fn labelled(
        &mut self,
        data: Digest,
        view: View,
        ids: &[SampleId],
        logits: &[f32],
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let n_classes = self.config.classes.len();
        if self
            .sending
            .held
            .as_ref()
            .is_some_and(|held| (held.data, held.view, held.round) != (data, view, self.round))
        {
            self.send_held(actions);
        }
        let held = self.sending.held.get_or_insert_with(|| Held {
            data,
            view,
            round: self.round,
            since: now,
            ids: Vec::new(),
            logits: Vec::new(),
            same: Vec::new(),
            base: Round(0),
        });
        // Students send images as answers come: they are not kept waiting, and what they were told is not remembered.
        let is_own = data == self.config.data;
        let mut n_unsound = 0;
        for (id, logits) in ids.iter().zip(logits.chunks_exact(n_classes)) {
            // One row that is not finite would have its whole chunk refused.
            if logits.iter().any(|v| !v.is_finite()) {
                n_unsound += 1;
                continue;
            }
            let saying = match is_own {
                true => self.sending.sent.say(view, *id, logits, self.round),
                false => Saying::Full(logits),
            };
            match saying {
                Saying::Full(logits) => {
                    held.ids.push(*id);
                    held.logits.extend_from_slice(logits);
                }
                Saying::Same(base) => {
                    held.same.push(*id);
                    held.base = held.base.max(base);
                }
            }
        }
        if n_unsound > 0 && self.stats.rows_not_finite == 0 {
            let text = "the network's logits are not finite; such rows are not sent to peers";
            actions.push(Action::Warn(text.to_owned()));
        }
        self.stats.rows_not_finite += n_unsound;
        self.stats.rows_not_remembered = self.sending.sent.n_over_bound;
        let row_bytes = self.config.encoding.row_bytes(n_classes);
        let is_full = held.ids.len() * row_bytes + held.same.len() / 8 >= chunk_room(self.config.chunk_bytes);
        if is_full || !is_own || self.teaching.is_done() {
            self.send_held(actions);
        }
    }

    /// What has been held back for long enough.
    pub(super) fn send_old(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.sending.held.as_ref().is_some_and(|held| held.since + HOLD_AT_MOST <= now) {
            self.send_held(actions);
        }
    }

    /// As few messages as the bound allows.
    pub(super) fn send_held(&mut self, actions: &mut Vec<Action>) {
        let Some(mut held) = self.sending.held.take() else { return };
        let (encoding, n_classes) = (self.config.encoding, self.config.classes.len());
        // A list of samples is short where they ascend. One that was asked for again while it was held back is here
        // twice, and its first row counts.
        held.same.sort_unstable();
        held.same.dedup();
        let mut order: Vec<usize> = (0..held.ids.len()).collect();
        order.sort_by_key(|i| held.ids[*i]);
        order.dedup_by_key(|i| held.ids[*i]);
        let ids: Vec<SampleId> = order.iter().map(|i| held.ids[*i]).collect();
        let row = |i: usize| &held.logits[i * n_classes..(i + 1) * n_classes];
        let (mut ids, mut order, mut same) = (&ids[..], &order[..], &held.same[..]);
        let row_bytes = encoding.row_bytes(n_classes);
        while !ids.is_empty() || !same.is_empty() {
            let room = chunk_room(self.config.chunk_bytes);
            // Nor is a name: something is said in each message.
            let n_same = SampleList::fitting(same, 0, room).max(usize::from(ids.is_empty())).min(same.len());
            let (said, rest) = same.split_at(n_same);
            let said_bytes = SampleList::shortest(said).n_bytes();
            // A row is never cut, but it need not be sent with others' names.
            let at_least = usize::from(said.is_empty());
            let n = SampleList::fitting(ids, row_bytes, room.saturating_sub(said_bytes))
                .max(at_least)
                .min(ids.len());
            let mut logits = Vec::with_capacity(n * n_classes);
            order[..n].iter().for_each(|i| logits.extend_from_slice(row(*i)));
            let chunk = TargetChunk {
                session: self.config.session,
                data: held.data,
                model: self.config.model,
                round: held.round,
                temperature: self.config.temperature,
                view: held.view,
                n_classes,
                ids: SampleList::shortest(&ids[..n]),
                rows: Rows::pack(encoding, &logits, n_classes, self.config.temperature),
                same: (!said.is_empty()).then(|| Same { base: held.base, ids: SampleList::shortest(said) }),
            };
            (ids, order, same) = (&ids[n..], &order[n..], rest);
            self.stats.chunks_out += 1;
            self.stats.rows_same_out += said.len() as u64;
            let topic = self.topic(Leaf::Targets { data: held.data.short() });
            actions.push(Action::Publish { topic, message: Message::Targets(chunk), retain: false });
        }
    }
}
