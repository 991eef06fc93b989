//! Over the broker that the program brings along.

use dkt_tests::deadline::Deadline;
use dkt_tests::process::Process;

use crate::{dkt, exchange};

/// A broker on a free port, and its URL.
pub fn broker() -> (Process, String) {
    let broker = Process::start(dkt(["broker", "--listen", "127.0.0.1:0"]));
    let line = broker.stdout.next(Deadline::default()).unwrap().expect("the broker says where it listens");
    let url = line.split_whitespace().find(|word| word.starts_with("mqtt://")).expect("it names its URL");
    let url = url.trim_end_matches(';').to_owned();
    (broker, url)
}

#[test]
fn two_agents_teach_each_other_over_the_embedded_broker() {
    let (_broker, url) = broker();
    exchange::check(&url, |_| ());
}

#[test]
fn an_agent_that_died_comes_back_over_the_embedded_broker() {
    let (_broker, url) = broker();
    exchange::check_return(&url, |_| ());
}

#[test]
fn an_agent_that_has_died_is_not_waited_for_over_the_embedded_broker() {
    let (_broker, url) = broker();
    exchange::check_death(&url, |_| ());
}

#[test]
fn the_embedded_broker_ends_when_asked_to() {
    let (mut broker, _) = broker();
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0), "{}", broker.stderr.text());
}
