//! What a teacher has sent of each row, so that it need not send again what has hardly changed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::EngineConfig;
use crate::ids::{Round, SampleId, View};

/// What a row takes beside its logits: key, rounds, allocation, and the table's free places; rounded up.
const ROW_OVERHEAD_BYTES: usize = 72;

/// One row as it was last sent in full.
struct SentRow {
    /// When: whoever holds a row of this round or a later one holds this one.
    base: Round,
    /// The round in which it was last sent, or said to be the same.
    said: Round,
    logits: Box<[f32]>,
    /// A student has come to demand it and may not hold it.
    asked: bool,
}

/// How a row is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Saying<'a> {
    /// In full, these logits.
    Full(&'a [f32]),
    /// As the same as in this round.
    Same(Round),
}

/// A bounded memory of rows. Empty where every row is sent in full each round.
///
/// All rows of one round that students may hold are alike: a row that is wanted again within a round is sent as it
/// was before, though the network has moved on. So a row that is said to be the same is that row for everyone.
pub(super) struct Sent {
    /// Largest share of the softmax that may have moved; 0 sends all.
    delta: f32,
    temperature: f32,
    max_rows: usize,
    rows: HashMap<(SampleId, View), SentRow>,
    pub n_over_bound: u64,
}

impl Sent {
    pub fn new(config: &EngineConfig) -> Self {
        let row_bytes = 4 * config.classes.len() + ROW_OVERHEAD_BYTES;
        Sent {
            delta: config.delta,
            temperature: config.temperature,
            max_rows: config.limits.max_sent_bytes / row_bytes,
            rows: HashMap::new(),
            n_over_bound: 0,
        }
    }

    /// How to send what the network says of one row now.
    pub fn say<'a>(&'a mut self, view: View, id: SampleId, logits: &'a [f32], round: Round) -> Saying<'a> {
        if self.delta == 0.0 {
            return Saying::Full(logits);
        }
        let is_full = self.rows.len() >= self.max_rows;
        match self.rows.entry((id, view)) {
            Entry::Vacant(_) if is_full => {
                self.n_over_bound += 1;
                Saying::Full(logits)
            }
            Entry::Vacant(place) => {
                place.insert(SentRow { base: round, said: round, logits: logits.into(), asked: false });
                Saying::Full(logits)
            }
            Entry::Occupied(place) => {
                let row = place.into_mut();
                let asked = std::mem::take(&mut row.asked);
                if std::mem::replace(&mut row.said, round) == round {
                    Saying::Full(&row.logits)
                } else if asked || moved(&row.logits, logits, self.temperature) > self.delta {
                    row.base = round;
                    row.logits.copy_from_slice(logits);
                    Saying::Full(logits)
                } else {
                    Saying::Same(row.base)
                }
            }
        }
    }

    /// Somebody demands these who may not hold them.
    pub fn ask(&mut self, is_asked: impl Fn(SampleId, View) -> bool) {
        self.rows.iter_mut().for_each(|((id, view), row)| row.asked |= is_asked(*id, *view));
    }

    /// Forgets what nobody is known to demand. Not what was said in this round: somebody whose demand has got lost may
    /// hold it, and would take it for what is sent if it is labelled again before the next.
    pub fn keep(&mut self, round: Round, is_demanded: impl Fn(SampleId, View) -> bool) {
        self.rows.retain(|(id, view), row| row.said == round || is_demanded(*id, *view));
    }
}

/// Total variation between the softmax of two rows at a temperature, from 0 to 1: the share of the probability that
/// is at other classes now. Unlike a difference of logits it says nothing of rows that are as sure as before, only
/// louder, and one bound suits all networks.
fn moved(before: &[f32], after: &[f32], temperature: f32) -> f32 {
    let parts = |row: &[f32]| -> (f32, f32) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        (most, row.iter().map(|v| ((v - most) / temperature).exp()).sum())
    };
    let ((most_before, sum_before), (most_after, sum_after)) = (parts(before), parts(after));
    let change = before.iter().zip(after).map(|(b, a)| {
        let b = ((b - most_before) / temperature).exp() / sum_before;
        let a = ((a - most_after) / temperature).exp() / sum_after;
        (a - b).abs()
    });
    change.sum::<f32>() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(delta: f32, max_rows: usize) -> Sent {
        Sent { delta, temperature: 1.0, max_rows, rows: HashMap::new(), n_over_bound: 0 }
    }

    /// A softmax with this share at the first of two classes.
    fn row(share: f32) -> [f32; 2] {
        [(share / (1.0 - share)).ln(), 0.0]
    }

    const KEY: (View, SampleId) = (View(1), SampleId(7));

    fn say(sent: &mut Sent, share: f32, round: u64) -> Option<Round> {
        match sent.say(KEY.0, KEY.1, &row(share), Round(round)) {
            Saying::Full(_) => None,
            Saying::Same(base) => Some(base),
        }
    }

    #[test]
    fn total_variation_is_the_share_that_moved() {
        for (before, after) in [(0.5, 0.5), (0.2, 0.3), (0.9, 0.1), (0.999, 0.99)] {
            let found = moved(&row(before), &row(after), 1.0);
            assert!((found - (before - after).abs()).abs() < 1e-5, "{before} to {after}: {found}");
        }
        assert!(moved(&[1e4, -1e4, 0.0], &[-1e4, 1e4, 0.0], 1.0) > 0.999);
        assert!(moved(&[3.0, 1.0], &[13.0, 11.0], 1.0) < 1e-5, "the same softmax");
    }

    #[test]
    fn a_row_is_sent_again_once_it_has_moved_from_what_was_sent() {
        let mut sent = sent(0.1, 10);
        assert_eq!(say(&mut sent, 0.50, 1), None);
        assert_eq!(say(&mut sent, 0.56, 2), Some(Round(1)));
        assert_eq!(say(&mut sent, 0.62, 3), None, "small steps add up");
        assert_eq!(say(&mut sent, 0.56, 4), Some(Round(3)));
        assert_eq!(say(&mut sent, 0.60, 9), Some(Round(3)));
    }

    #[test]
    fn within_a_round_all_get_the_same_row() {
        let mut sent = sent(0.1, 10);
        assert_eq!(say(&mut sent, 0.5, 1), None);
        assert_eq!(sent.say(KEY.0, KEY.1, &row(0.9), Round(1)), Saying::Full(&row(0.5)));
        assert_eq!(say(&mut sent, 0.5, 2), Some(Round(1)));
        assert_eq!(sent.say(KEY.0, KEY.1, &row(0.9), Round(2)), Saying::Full(&row(0.5)));
        assert_eq!(say(&mut sent, 0.5, 3), Some(Round(1)));
    }

    #[test]
    fn who_newly_demands_a_row_gets_it_in_full_once() {
        let mut sent = sent(0.1, 10);
        assert_eq!(say(&mut sent, 0.5, 1), None);
        sent.ask(|id, view| id == KEY.1 && view == View(0));
        assert_eq!(say(&mut sent, 0.5, 2), Some(Round(1)), "of another view");
        sent.ask(|id, _| id == KEY.1);
        assert_eq!(say(&mut sent, 0.5, 3), None);
        assert_eq!(say(&mut sent, 0.5, 4), Some(Round(3)));
    }

    #[test]
    fn what_is_not_remembered_is_sent_in_full() {
        let mut full = sent(0.1, 0);
        assert_eq!((say(&mut full, 0.5, 1), say(&mut full, 0.5, 2), full.n_over_bound), (None, None, 2));
        let mut off = sent(0.0, 10);
        assert_eq!((say(&mut off, 0.5, 1), say(&mut off, 0.5, 2), off.rows.is_empty()), (None, None, true));
        let mut forgetful = sent(0.1, 10);
        assert_eq!(say(&mut forgetful, 0.5, 1), None);
        forgetful.keep(Round(1), |_, view| view == View(0));
        assert_eq!(forgetful.say(KEY.0, KEY.1, &row(0.9), Round(1)), Saying::Full(&row(0.5)), "in its round");
        forgetful.keep(Round(2), |_, view| view == View(0));
        assert_eq!(say(&mut forgetful, 0.5, 2), None);
    }
}
