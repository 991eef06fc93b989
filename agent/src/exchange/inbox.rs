//! What has come from peers and waits for the training thread: bounded in bytes and in number, and shared out so that
//! no peer takes the room of the others.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::message::Message;
use super::topic::Topic;
use crate::ids::AgentId;

/// Messages that wait.
const MAX_MESSAGES: usize = 4096;
/// Places of the queue for what is no message.
const CONNECTION_EVENTS: usize = 64;
/// Bytes of their payloads: what they take in memory is in proportion.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What one message counts as at least, so that a bound of bytes is one of messages too.
const LEAST_BYTES: usize = MAX_BYTES / MAX_MESSAGES;
/// Of one peer.
const MAX_BYTES_OF_PEER: usize = MAX_BYTES / 4;

/// What the polling thread hands on.
#[derive(Debug)]
pub enum Incoming {
    Connected,
    Disconnected,
    Message {
        topic: Topic,
        message: Box<Message>,
        /// Of its payload.
        n_bytes: usize,
    },
}

impl Incoming {
    /// Whose it is and what it counts as, where that is bounded.
    fn cost(&self) -> Option<(&AgentId, usize)> {
        match self {
            Incoming::Message { topic, n_bytes, .. } => Some((&topic.agent, (*n_bytes).max(LEAST_BYTES))),
            Incoming::Connected | Incoming::Disconnected => None,
        }
    }
}

/// How much waits.
#[derive(Default)]
struct Waiting {
    n_bytes: usize,
    /// Of those of whom something waits.
    of_peers: HashMap<AgentId, usize>,
}

impl Waiting {
    /// False where there is no room.
    fn add(&mut self, peer: &AgentId, n_bytes: usize) -> bool {
        let of_peer = self.of_peers.get(peer).copied().unwrap_or(0) + n_bytes;
        if of_peer > MAX_BYTES_OF_PEER || self.n_bytes + n_bytes > MAX_BYTES {
            return false;
        }
        self.n_bytes += n_bytes;
        self.of_peers.insert(peer.clone(), of_peer);
        true
    }

    fn remove(&mut self, peer: &AgentId, n_bytes: usize) {
        self.n_bytes = self.n_bytes.saturating_sub(n_bytes);
        let rest = self.of_peers.get(peer).map_or(0, |of_peer| of_peer.saturating_sub(n_bytes));
        if rest == 0 {
            self.of_peers.remove(peer);
        } else {
            self.of_peers.insert(peer.clone(), rest);
        }
    }
}

/// The polling thread's end.
pub(super) struct Outlet {
    sender: SyncSender<Incoming>,
    waiting: Arc<Mutex<Waiting>>,
}

/// The training thread's end.
pub(super) struct Inbox {
    receiver: Receiver<Incoming>,
    waiting: Arc<Mutex<Waiting>>,
}

pub(super) fn inbox() -> (Outlet, Inbox) {
    let (sender, receiver) = sync_channel(MAX_MESSAGES + CONNECTION_EVENTS);
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    (Outlet { sender, waiting: Arc::clone(&waiting) }, Inbox { receiver, waiting })
}

impl Outlet {
    /// False where there is no room: then it is lost.
    pub fn offer(&self, incoming: Incoming) -> bool {
        if let Some((peer, n_bytes)) = incoming.cost()
            && !lock(&self.waiting).add(peer, n_bytes)
        {
            return false;
        }
        match self.sender.try_send(incoming) {
            Ok(()) => true,
            Err(error) => {
                let (std::sync::mpsc::TrySendError::Full(incoming)
                | std::sync::mpsc::TrySendError::Disconnected(incoming)) = error;
                if let Some((peer, n_bytes)) = incoming.cost() {
                    lock(&self.waiting).remove(peer, n_bytes);
                }
                false
            }
        }
    }

    /// Waits for room, for what must not be lost. False when nobody listens any more.
    pub fn send_connected(&self) -> bool {
        self.sender.send(Incoming::Connected).is_ok()
    }
}

impl Inbox {
    /// The next, if there is one.
    pub fn try_recv(&self) -> Option<Incoming> {
        self.receiver.try_recv().ok().inspect(|incoming| self.taken(incoming))
    }

    /// The next; waits for it no longer than `longest`.
    ///
    /// # Errors
    /// If none has come, or none can come any more.
    pub fn recv_timeout(&self, longest: Duration) -> Result<Incoming, RecvTimeoutError> {
        self.receiver.recv_timeout(longest).inspect(|incoming| self.taken(incoming))
    }

    fn taken(&self, incoming: &Incoming) {
        if let Some((peer, n_bytes)) = incoming.cost() {
            lock(&self.waiting).remove(peer, n_bytes);
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::topic::Leaf;
    use super::*;

    fn message(peer: &str, n_bytes: usize) -> Incoming {
        let topic =
            Topic { fleet: "fleet".parse().unwrap(), agent: peer.parse().unwrap(), leaf: Leaf::Status };
        Incoming::Message { topic, message: Box::new(Message::Cleared), n_bytes }
    }

    /// Offers messages until one is not taken; how many were.
    fn flood(outlet: &Outlet, peer: &str, n_bytes: usize) -> usize {
        (0..2 * MAX_MESSAGES).take_while(|_| outlet.offer(message(peer, n_bytes))).count()
    }

    #[test]
    fn who_floods_keeps_out_nobody_else() {
        for (n_bytes, most) in [(0, 1024), (100, 1024), (65_536, 256), (1024 * 1024, 16)] {
            let (outlet, inbox) = inbox();
            assert_eq!(flood(&outlet, "flooder", n_bytes), most);
            assert!(outlet.offer(message("other", 1024 * 1024)));
            assert!(inbox.try_recv().is_some());
            assert!(outlet.offer(message("flooder", n_bytes)), "there is room again");
            assert!(!outlet.offer(message("flooder", n_bytes)));
        }
    }

    #[test]
    fn all_together_are_bounded_and_what_was_taken_makes_room() {
        let (outlet, inbox) = inbox();
        let taken: usize = (0..10).map(|peer| flood(&outlet, &format!("peer-{peer}"), 1024 * 1024)).sum();
        assert_eq!(taken, 64);
        assert!(outlet.offer(Incoming::Disconnected), "what is no message takes no room of theirs");
        while inbox.try_recv().is_some() {}
        let waiting = lock(&inbox.waiting);
        assert_eq!((waiting.n_bytes, waiting.of_peers.len()), (0, 0));
    }

    #[test]
    fn more_than_the_queue_takes_is_given_back() {
        let (outlet, inbox) = inbox();
        let places = MAX_MESSAGES + CONNECTION_EVENTS;
        (0..places).for_each(|_| assert!(outlet.offer(Incoming::Disconnected)));
        assert!(!outlet.offer(message("peer", 9)));
        assert_eq!(lock(&inbox.waiting).n_bytes, 0);
    }
}
