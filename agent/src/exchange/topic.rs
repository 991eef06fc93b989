//! Topics, typed: `dkt/1/<fleet>/<agent>/…`. An agent publishes below its own name only.

use std::str::FromStr;

use crate::ids::{AgentId, Digest, FleetId};

/// First levels of every topic: the protocol and its version.
const ROOT: &str = "dkt/1";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    pub fleet: FleetId,
    /// Who publishes.
    pub agent: AgentId,
    pub leaf: Leaf,
}

/// What is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaf {
    /// Retained: who the agent is and how far.
    Status,
    /// Retained: what the agent wants labelled, by everybody or by one teacher.
    Demand { teacher: Option<AgentId> },
    /// Retained: what the agent lacks from one teacher.
    Repair { teacher: AgentId },
    /// Soft targets for data whose digest begins with these 16 hexadecimal digits.
    Targets { data: String },
    /// Images to be labelled, of data whose digest begins with these 16 hexadecimal digits.
    Inputs { data: String },
}

impl Leaf {
    /// Whether the broker keeps what is published for those who subscribe later.
    pub fn is_retained(&self) -> bool {
        match self {
            Leaf::Status | Leaf::Demand { .. } | Leaf::Repair { .. } => true,
            Leaf::Targets { .. } | Leaf::Inputs { .. } => false,
        }
    }
}

/// Kinds of messages, for counting.
pub const KINDS: [&str; 5] = ["status", "demand", "repair", "targets", "inputs"];

impl Topic {
    /// Index into [`KINDS`].
    pub fn kind(&self) -> usize {
        match self.leaf {
            Leaf::Status => 0,
            Leaf::Demand { .. } => 1,
            Leaf::Repair { .. } => 2,
            Leaf::Targets { .. } => 3,
            Leaf::Inputs { .. } => 4,
        }
    }

    /// Whether what is published here is for `agent`, in `fleet`. Of data nothing is said.
    pub fn is_for(&self, fleet: &FleetId, agent: &AgentId) -> bool {
        let is_named = match &self.leaf {
            Leaf::Demand { teacher: Some(teacher) } | Leaf::Repair { teacher } => teacher == agent,
            Leaf::Status | Leaf::Demand { teacher: None } | Leaf::Targets { .. } | Leaf::Inputs { .. } => {
                true
            }
        };
        self.fleet == *fleet && is_named
    }
}

impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{ROOT}/{}/{}/{}", self.fleet, self.agent, KINDS[self.kind()])?;
        match &self.leaf {
            Leaf::Status | Leaf::Demand { teacher: None } => Ok(()),
            Leaf::Demand { teacher: Some(teacher) } | Leaf::Repair { teacher } => write!(f, "/{teacher}"),
            Leaf::Targets { data } | Leaf::Inputs { data } => write!(f, "/{data}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("`{found}` is no topic of protocol version 1")]
pub struct ParseTopicError {
    found: String,
}

impl FromStr for Topic {
    type Err = ParseTopicError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseTopicError { found: text.chars().take(200).collect() })
    }
}

fn parse(text: &str) -> Option<Topic> {
    let levels: Vec<&str> = text.strip_prefix(ROOT)?.strip_prefix('/')?.split('/').collect();
    let (fleet, agent, leaf) = match levels[..] {
        [fleet, agent, "status"] => (fleet, agent, Leaf::Status),
        [fleet, agent, "demand"] => (fleet, agent, Leaf::Demand { teacher: None }),
        [fleet, agent, "demand", teacher] => {
            (fleet, agent, Leaf::Demand { teacher: Some(teacher.parse().ok()?) })
        }
        [fleet, agent, "repair", teacher] => (fleet, agent, Leaf::Repair { teacher: teacher.parse().ok()? }),
        [fleet, agent, "targets", data] if is_short_digest(data) => {
            (fleet, agent, Leaf::Targets { data: data.to_owned() })
        }
        [fleet, agent, "inputs", data] if is_short_digest(data) => {
            (fleet, agent, Leaf::Inputs { data: data.to_owned() })
        }
        _ => return None,
    };
    Some(Topic { fleet: fleet.parse().ok()?, agent: agent.parse().ok()?, leaf })
}

fn is_short_digest(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What every agent of a fleet subscribes to: the status of all, demands on all and on itself, repairs asked of itself.
pub fn common_filters(fleet: &FleetId, own: &AgentId) -> Vec<String> {
    vec![
        format!("{ROOT}/{fleet}/+/status"),
        format!("{ROOT}/{fleet}/+/demand"),
        format!("{ROOT}/{fleet}/+/demand/{own}"),
        format!("{ROOT}/{fleet}/+/repair/{own}"),
    ]
}

/// Soft targets of one teacher for the data that the agent has.
pub fn targets_filter(fleet: &FleetId, teacher: &AgentId, data: &Digest) -> String {
    format!("{ROOT}/{fleet}/{teacher}/targets/{}", data.short())
}

/// Images of one student, to be labelled.
pub fn inputs_filter(fleet: &FleetId, student: &AgentId, data: &Digest) -> String {
    format!("{ROOT}/{fleet}/{student}/inputs/{}", data.short())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf() -> impl Strategy<Value = Leaf> {
        prop_oneof![
            Just(Leaf::Status),
            Just(Leaf::Demand { teacher: None }),
            "[a-z0-9_-]{1,64}".prop_map(|t| Leaf::Demand { teacher: Some(t.parse().unwrap()) }),
            "[a-z0-9_-]{1,64}".prop_map(|t| Leaf::Repair { teacher: t.parse().unwrap() }),
            "[0-9a-f]{16}".prop_map(|data| Leaf::Targets { data }),
            "[0-9a-f]{16}".prop_map(|data| Leaf::Inputs { data }),
        ]
    }

    proptest! {
        #[test]
        fn topics_read_back_as_written(fleet in "[a-z0-9_-]{1,64}", agent in "[a-z0-9_-]{1,64}", leaf in leaf()) {
            let topic = Topic { fleet: fleet.parse().unwrap(), agent: agent.parse().unwrap(), leaf };
            prop_assert_eq!(topic.to_string().parse::<Topic>().unwrap(), topic);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,80}") {
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.to_string(), text);
            }
        }
    }

    #[test]
    fn whatever_an_agent_subscribes_to_is_for_it_and_nothing_else() {
        let (lab, bob, data) = ("lab".parse().unwrap(), "bob".parse().unwrap(), Digest::of(b"data"));
        let mut filters = common_filters(&lab, &bob);
        filters.push(targets_filter(&lab, &"alice".parse().unwrap(), &data));
        filters.push(inputs_filter(&lab, &"alice".parse().unwrap(), &data));
        let data = data.short();
        let leaves = ["status", "demand", "demand/bob", "demand/carol", "repair/bob", "repair/carol"];
        let leaves = leaves.map(str::to_owned).into_iter();
        for leaf in leaves.chain([format!("targets/{data}"), format!("inputs/{data}")]) {
            for fleet in ["lab", "site"] {
                let topic: Topic = format!("dkt/1/{fleet}/alice/{leaf}").parse().unwrap();
                let is_subscribed = filters.iter().any(|f| f.replace('+', "alice") == topic.to_string());
                assert_eq!(topic.is_for(&lab, &bob), is_subscribed, "{topic}");
            }
        }
    }

    #[test]
    fn foreign_topics_are_refused() {
        for text in [
            "dkt/2/f/a/status",
            "dkt/1/f/a",
            "dkt/1/f/a/status/x",
            "dkt/1/f/a/targets/xyz",
            "dkt/1/F/a/status",
        ] {
            assert!(text.parse::<Topic>().is_err(), "{text}");
        }
    }
}
