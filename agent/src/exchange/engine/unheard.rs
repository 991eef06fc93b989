//! Teachers that are listed and of which nothing has been heard: perhaps a name is misspelt.

use std::time::Duration;

use crate::ids::{AgentId, FleetId, quoted};

/// What is retained of a teacher that is there comes with the first subscription; one that has yet to be started gets
/// a little time.
const TELL_AFTER: Duration = Duration::from_secs(15);

pub(super) struct Unheard {
    names: Vec<AgentId>,
    /// When a person is told; none before the first connection.
    tell_at: Option<Duration>,
}

impl Unheard {
    pub fn new(teachers: &[AgentId]) -> Self {
        Unheard { names: teachers.to_vec(), tell_at: None }
    }

    pub fn connected(&mut self, now: Duration) {
        self.tell_at.get_or_insert(now + TELL_AFTER);
    }

    pub fn heard(&mut self, peer: &AgentId) {
        self.names.retain(|name| name != peer);
    }

    /// What a person is told, once; before its time if training `is_over`.
    pub fn tell<'a>(
        &mut self,
        now: Duration,
        is_over: bool,
        fleet: &FleetId,
        heard: impl Iterator<Item = &'a AgentId>,
    ) -> Option<String> {
        self.tell_at.filter(|at| is_over || *at <= now)?;
        // It is not set again: none of these is told of twice.
        let names = std::mem::take(&mut self.names);
        if names.is_empty() {
            return None;
        }
        let heard = quoted(heard);
        let heard = if heard.is_empty() { heard } else { format!(", only of {heard}") };
        Some(format!(
            "`exchange.teachers` names {}, of whom nothing has been heard in fleet `{fleet}`{heard}; whoever comes \
             later is learned from all the same",
            quoted(&names)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_of_whom_nothing_is_heard_is_told_of_once() {
        let [alice, bob, bbo]: [AgentId; 3] = ["alice", "bob", "bbo"].map(|name| name.parse().unwrap());
        let fleet: FleetId = "lab".parse().unwrap();
        let peers = [bob.clone()];
        let mut unheard = Unheard::new(&[alice.clone(), bbo]);
        let later = TELL_AFTER + Duration::from_secs(1);
        assert_eq!(unheard.tell(later, true, &fleet, peers.iter()), None, "never connected");
        unheard.connected(Duration::from_secs(1));
        assert_eq!(unheard.tell(TELL_AFTER, false, &fleet, peers.iter()), None);
        unheard.heard(&alice);
        // A reconnection gives no more time.
        unheard.connected(later);
        let text = unheard.tell(later, false, &fleet, peers.iter()).unwrap();
        assert!(text.contains("names `bbo`, of whom") && text.contains("only of `bob`"), "{text}");
        assert_eq!(unheard.tell(2 * later, true, &fleet, peers.iter()), None);

        let mut unheard = Unheard::new(&[bob]);
        unheard.connected(Duration::ZERO);
        let text = unheard.tell(Duration::from_secs(2), true, &fleet, [].iter()).unwrap();
        assert!(text.contains("in fleet `lab`;"), "training is over, and nobody was there: {text}");
    }
}
