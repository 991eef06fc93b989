//! Totals of a connection, which its two threads write.

use std::sync::atomic::{AtomicU64, Ordering};

use super::refusal::{REASONS, Refusal};
use super::topic::KINDS;
use crate::telemetry::event::{RefusedForReason, Traffic, TrafficOfKind};

#[derive(Clone, Copy)]
pub(super) enum Direction {
    Out,
    In,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Messages out, bytes out, messages in, bytes in; by kind.
    kinds: [[AtomicU64; 4]; KINDS.len()],
    /// On their way out: at a full queue, without a connection, or beyond the bound of a message.
    dropped_out: AtomicU64,
    /// Arrived, at a full queue.
    dropped_in: AtomicU64,
    /// By reason.
    refused: [AtomicU64; REASONS.len()],
}

impl Counters {
    /// Counts a message of a kind, an index into [`KINDS`].
    pub fn count(&self, kind: usize, direction: Direction, n_bytes: usize) {
        let at = match direction {
            Direction::Out => 0,
            Direction::In => 2,
        };
        self.kinds[kind][at].fetch_add(1, Ordering::Relaxed);
        self.kinds[kind][at + 1].fetch_add(n_bytes as u64, Ordering::Relaxed);
    }

    pub fn drop_one(&self, direction: Direction) {
        let dropped = match direction {
            Direction::Out => &self.dropped_out,
            Direction::In => &self.dropped_in,
        };
        dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refuse(&self, refusal: &Refusal) {
        self.refused[refusal.reason()].fetch_add(1, Ordering::Relaxed);
    }

    pub fn traffic(&self) -> Traffic {
        let kind = |(kind, counts): (&&str, &[AtomicU64; 4])| {
            let [messages_out, bytes_out, messages_in, bytes_in] =
                counts.each_ref().map(|c| c.load(Ordering::Relaxed));
            TrafficOfKind { kind: (*kind).to_owned(), messages_out, bytes_out, messages_in, bytes_in }
        };
        let refused = |(reason, messages): (&&str, &AtomicU64)| {
            let messages = messages.load(Ordering::Relaxed);
            (messages > 0).then(|| RefusedForReason { reason: (*reason).to_owned(), messages })
        };
        Traffic {
            kinds: KINDS.iter().zip(&self.kinds).map(kind).collect(),
            refused: REASONS.iter().zip(&self.refused).filter_map(refused).collect(),
            dropped_out: self.dropped_out.load(Ordering::Relaxed),
            dropped_in: self.dropped_in.load(Ordering::Relaxed),
        }
    }
}
