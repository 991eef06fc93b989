//! The broker that the program brings along, as a program. As a broker it is tested in `brokers`.

use dkt_tests::deadline::Deadline;
use dkt_tests::peer::Peer;
use dkt_tests::process::Process;

use crate::dkt;

#[test]
fn the_embedded_broker_says_where_it_listens_and_ends_when_asked_to() {
    let mut broker = Process::start(dkt(["broker", "--listen", "127.0.0.1:0"]));
    let line = broker.stdout.next(Deadline::default()).unwrap().expect("the broker says where it listens");
    let url = line.split_whitespace().find_map(|word| word.strip_prefix("mqtt://127.0.0.1:"));
    let port = url.expect("it names its URL").trim_end_matches(';').parse().unwrap();
    drop(Peer::connect(port, "somebody", None).unwrap());
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0), "{}", broker.stderr.text());
}
