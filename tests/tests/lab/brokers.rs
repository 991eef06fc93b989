//! One suite for every broker: what agents need of it, asked by plain clients, and whole agents over it.
//!
//! Where a broker does something else than is promised, its row says what, and the tests expect just that. The table
//! of `docs/brokers.md` is these rows.

mod agents;
mod messages;
mod page;

use dkt_tests::brokers::{self, Broker, Prepare};

use crate::dkt;

/// What a broker does that keeps a promise.
const HOLDS: &str = "holds";

/// A broker as it is shipped or configured by `broker-config`.
pub struct Row {
    /// As the page's columns are called.
    name: &'static str,
    prepare: Prepare,
    /// Promises that it does not keep, and what it does instead.
    differs: &'static [(&'static str, &'static str)],
}

impl Row {
    /// What it does where that is promised.
    fn expected(&self, promise: &str) -> &'static str {
        self.differs.iter().find(|(name, _)| *name == promise).map_or(HOLDS, |(_, does)| does)
    }

    pub fn start(&self) -> Broker {
        Broker::start(self.prepare)
    }
}

pub const MOSQUITTO: Row = Row { name: "mosquitto", prepare: brokers::mosquitto, differs: &[] };

pub const EMBEDDED: Row = Row {
    name: "`dkt broker`",
    prepare: |_, port| vec![(dkt(["broker", "--listen", &format!("127.0.0.1:{port}")]), port)],
    differs: &[],
};

pub const NATS: Row =
    Row { name: "NATS", prepare: brokers::nats, differs: &[(messages::LONGER_PACKET, messages::PASSED_ON)] };

pub const RABBITMQ: Row = Row {
    name: "RabbitMQ",
    prepare: brokers::rabbitmq,
    differs: &[(messages::RETAINED_BY_WILDCARD, messages::BY_WHOLE_TOPIC)],
};

pub const ROWS: [Row; 4] = [MOSQUITTO, EMBEDDED, RABBITMQ, NATS];

macro_rules! suite {
    ($broker:ident, $row:expr) => {
        mod $broker {
            use super::*;

            #[test]
            fn what_clients_are_promised() {
                messages::check(&$row);
            }

            #[test]
            fn two_agents_teach_each_other() {
                agents::teach_each_other(&$row.start());
            }

            #[test]
            fn an_agent_that_died_comes_back() {
                agents::die_and_come_back(&$row.start());
            }

            #[test]
            fn an_agent_that_has_died_is_not_waited_for() {
                agents::die(&$row.start());
            }

            #[test]
            fn agents_go_on_after_the_broker_has_died_and_forgotten_everything() {
                agents::survive_the_broker($row.start());
            }
        }
    };
}

suite!(mosquitto, MOSQUITTO);
suite!(embedded, EMBEDDED);
#[cfg(feature = "other-brokers")]
suite!(nats, NATS);
#[cfg(feature = "other-brokers")]
suite!(rabbitmq, RABBITMQ);
