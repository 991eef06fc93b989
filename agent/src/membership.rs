//! Who of a lab is there when: agents that join late, leave and come back, by what has been trained and not by any
//! clock.
//!
//! Events in, actions out; processes are somebody else's.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// When an agent of a lab has trained one of its experiences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its place in the lab, from 0.
    pub agent: usize,
    /// Number of the experience, from 1.
    pub experience: usize,
}

/// When an agent of a lab is there. By default from the start to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Starts then, and not with the lab.
    pub join: Option<Moment>,
    /// Leaves when it has trained so many experiences.
    pub leave: Option<usize>,
    /// Comes back then, if it has left.
    pub rejoin: Option<Moment>,
}

/// Places of the agents that would never start, or never come back, even if every other one came as far as it can.
/// `n_experiences` are those of each agent's stream.
pub fn stuck(members: &[Member], n_experiences: &[usize]) -> Vec<usize> {
    let mut trained = vec![0; members.len()];
    loop {
        let reached = |moment: Option<Moment>, trained: &[usize]| {
            moment.is_none_or(|moment| trained[moment.agent] >= moment.experience)
        };
        let before = trained.clone();
        for (i, member) in members.iter().enumerate() {
            if reached(member.join, &before) {
                let is_back = member.rejoin.is_some() && reached(member.rejoin, &before);
                let leaves = member.leave.filter(|_| !is_back);
                trained[i] = leaves.unwrap_or(n_experiences[i]);
            }
        }
        if trained == before {
            let waits =
                |i: &usize| !reached(members[*i].join, &trained) || !reached(members[*i].rejoin, &trained);
            return (0..members.len()).filter(waits).collect();
        }
    }
}

/// What becomes of an agent's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Joined,
    Left,
    Rejoined,
    /// The agent that it waited for ended before.
    NeverJoined,
    NeverRejoined,
}

/// A line of the history of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub agent: String,
    pub change: Kind,
    /// By whose training that was told.
    pub after: String,
    /// Number of the experience that this agent had trained then, from 1.
    pub experience: usize,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Change { agent, change, after, experience } = self;
        match change {
            Kind::Joined => write!(f, "{agent} joined after experience {experience} of {after}"),
            Kind::Left => write!(f, "{agent} left after its experience {experience}"),
            Kind::Rejoined => write!(f, "{agent} came back after experience {experience} of {after}"),
            Kind::NeverJoined => {
                write!(f, "{agent} never joined: {after} ended before it had trained experience {experience}")
            }
            Kind::NeverRejoined => {
                write!(
                    f,
                    "{agent} never came back: {after} ended before it had trained experience {experience}"
                )
            }
        }
    }
}

/// What is told of the agents' processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An agent has trained an experience; one that goes on from a checkpoint tells it again.
    Trained(Moment),
    /// An agent's process has ended, and not failed.
    Ended {
        agent: usize,
        /// Its whole stream is trained.
        finished: bool,
    },
    /// Nobody starts any more.
    Stopping,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Start(usize),
    /// Ask it to save and end.
    Stop(usize),
    /// A change of this agent's membership, for people.
    Tell(usize, Change),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has yet to join.
    Absent,
    Present,
    /// Asked to stop.
    Leaving,
    /// Has left.
    Away,
    /// Will not start again.
    Gone,
}

#[derive(Debug)]
struct Agent {
    name: String,
    rules: Member,
    trained: usize,
    state: State,
}

/// The agents of one arm.
#[derive(Debug)]
pub struct Membership {
    agents: Vec<Agent>,
    /// Of this run, and of the one that it goes on with.
    history: Vec<Change>,
    is_stopping: bool,
}

impl Membership {
    /// Agents by their names, each with when it is there. `earlier` is the history of the run that this one goes on
    /// with: who has joined or come back then is there from the start. What no rule says any more is forgotten.
    pub fn new(agents: impl IntoIterator<Item = (String, Member)>, earlier: &[Change]) -> Self {
        let agent = |(name, rules)| Agent { name, rules, trained: 0, state: State::Absent };
        let mut membership = Membership {
            agents: agents.into_iter().map(agent).collect(),
            history: Vec::new(),
            is_stopping: false,
        };
        for i in 0..membership.agents.len() {
            let Member { join, leave, rejoin } = membership.agents[i].rules;
            let left = leave.map(|experience| Moment { agent: i, experience });
            let happened =
                [(Kind::Joined, join), (Kind::Left, left), (Kind::Rejoined, rejoin)].map(|(kind, moment)| {
                    let change = membership.change(i, kind, moment?);
                    earlier.contains(&change).then_some(change)
                });
            let rules = &mut membership.agents[i].rules;
            rules.join = join.filter(|_| happened[0].is_none());
            if happened[2].is_some() {
                (rules.leave, rules.rejoin) = (None, None);
            }
            membership.history.extend(happened.into_iter().flatten());
        }
        membership
    }

    /// Everyone from the start to the end.
    pub fn of_all(agents: &[String]) -> Self {
        Membership::new(agents.iter().map(|name| (name.clone(), Member::default())), &[])
    }

    /// Who starts with the lab.
    pub fn start(&mut self) -> Vec<Action> {
        self.settle()
    }

    /// What follows from an event.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Trained(Moment { agent, experience }) => {
                let it = &mut self.agents[agent];
                it.trained = it.trained.max(experience);
                if it.state == State::Present && it.rules.leave.is_some_and(|leave| it.trained >= leave) {
                    it.state = State::Leaving;
                    actions.push(Action::Stop(agent));
                }
            }
            Event::Ended { agent, finished } => {
                let it = &mut self.agents[agent];
                let has_left = it.state == State::Leaving && !finished;
                it.state = if has_left { State::Away } else { State::Gone };
                if finished {
                    it.trained = usize::MAX;
                }
                if let Some(experience) = it.rules.leave.filter(|_| has_left) {
                    actions.extend(self.tell(agent, Kind::Left, Moment { agent, experience }));
                }
            }
            Event::Stopping => self.is_stopping = true,
        }
        actions.extend(self.settle());
        actions
    }

    /// Whether nobody is there and nobody comes.
    pub fn is_over(&self) -> bool {
        !self.agents.iter().any(|agent| matches!(agent.state, State::Present | State::Leaving))
    }

    /// Who has joined and left until now.
    pub fn history(&self) -> &[Change] {
        &self.history
    }

    /// What an agent that is not there waits for.
    pub fn waits_for(&self, agent: usize) -> Option<String> {
        let it = &self.agents[agent];
        let moment = match it.state {
            State::Absent => it.rules.join,
            State::Away => it.rules.rejoin,
            State::Present | State::Leaving | State::Gone => None,
        };
        moment.map(|m| format!("experience {} of {}", m.experience, self.agents[m.agent].name))
    }

    /// Starts those whose moment has come. When nobody is left by whom it could come, that is told.
    fn settle(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for i in 0..self.agents.len() {
            let Member { join, rejoin, .. } = self.agents[i].rules;
            let (kind, moment) = match (self.agents[i].state, rejoin) {
                (State::Absent, _) => (Kind::Joined, join),
                (State::Away, Some(_)) => (Kind::Rejoined, rejoin),
                _ => continue,
            };
            if self.is_stopping || moment.is_some_and(|m| self.agents[m.agent].trained < m.experience) {
                continue;
            }
            let agent = &mut self.agents[i];
            agent.state = State::Present;
            if kind == Kind::Rejoined {
                agent.rules.leave = None;
            }
            actions.push(Action::Start(i));
            if let Some(moment) = moment {
                actions.extend(self.tell(i, kind, moment));
            }
        }
        if self.is_over() {
            for i in 0..self.agents.len() {
                let Member { join, rejoin, .. } = self.agents[i].rules;
                let never = match self.agents[i].state {
                    State::Absent => join.map(|moment| (Kind::NeverJoined, moment)),
                    State::Away => rejoin.map(|moment| (Kind::NeverRejoined, moment)),
                    _ => None,
                };
                self.agents[i].state = State::Gone;
                if let Some((kind, moment)) = never.filter(|_| !self.is_stopping) {
                    actions.extend(self.tell(i, kind, moment));
                }
            }
        }
        actions
    }

    /// Nothing if it is known from the run that this one goes on with.
    fn tell(&mut self, agent: usize, kind: Kind, moment: Moment) -> Option<Action> {
        let change = self.change(agent, kind, moment);
        if self.history.contains(&change) {
            return None;
        }
        self.history.push(change.clone());
        Some(Action::Tell(agent, change))
    }

    fn change(&self, agent: usize, change: Kind, moment: Moment) -> Change {
        let name = |i: usize| self.agents[i].name.clone();
        Change { agent: name(agent), change, after: name(moment.agent), experience: moment.experience }
    }
}
