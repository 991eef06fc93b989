//! Two sites, each with the broker of a lab, joined by `bridge.conf` as it is shipped.

use dkt_tests::broker::Mosquitto;
use dkt_tests::config;
use dkt_tests::peer::Peer;
use dkt_tests::process::Agent;

use crate::{exchange, start};

/// Alice and Bob at the hub, Carol and Dave at the other site.
fn two_sites() -> [Mosquitto; 2] {
    let hub = Mosquitto::lab(&["alice", "bob"]);
    let site = Mosquitto::bridged(&["carol", "dave"], &hub);
    [hub, site]
}

#[test]
fn two_agents_at_two_sites_teach_each_other_over_a_bridge() {
    let [hub, site] = two_sites();
    let folder = tempfile::tempdir().unwrap();
    let agents = [("alice", &hub), ("carol", &site)].map(|(name, broker)| {
        let tls = Some(broker.certificates().of(name));
        start(&config::exchanging(folder.path(), name, &broker.url(), tls))
    });
    agents.map(Agent::end).iter().for_each(exchange::learned_from_its_peer);
}

/// Somebody who hears who is there.
fn listener(site: &Mosquitto, name: &str) -> Peer {
    let tls = site.certificates().of(name);
    let mut listener = Peer::connect(site.port, name, Some((&tls, true))).unwrap();
    assert!(listener.subscribe("dkt/1/+/+/status"));
    listener
}

/// What is said of somebody first.
fn hears(listener: &mut Peer, topic: &str) -> String {
    let of_them = |payload: &[u8]| String::from_utf8(payload.to_owned()).unwrap();
    listener.find(topic, |delivered| (delivered.topic == topic).then(|| of_them(&delivered.payload)))
}

#[test]
fn retained_statuses_and_last_wills_cross_a_bridge_both_ways() {
    let [hub, site] = two_sites();
    for (speaker, from, early, late, to) in
        [("alice", &hub, "carol", "dave", &site), ("carol", &site, "alice", "bob", &hub)]
    {
        let topic = format!("dkt/1/lab/{speaker}/status");
        let mut early = listener(to, early);
        let tls = from.certificates().of(speaker);
        let will = Some((topic.as_str(), "gone"));
        let mut speaks = Peer::connect_with_will(from.port, speaker, Some((&tls, true)), will).unwrap();
        speaks.publish(&topic, b"here", true);
        assert_eq!(hears(&mut early, &topic), "here");
        // Who comes later is told by their own broker, which has kept it.
        assert_eq!(hears(&mut listener(to, late), &topic), "here");
        drop(speaks);
        assert_eq!(hears(&mut early, &topic), "gone");
        assert_eq!(hears(&mut listener(to, late), &topic), "gone");
    }
}

#[test]
fn what_is_retained_crosses_a_bridge_that_is_joined_later() {
    let hub = Mosquitto::lab(&["alice", "bob"]);
    let topic = "dkt/1/lab/alice/status";
    let tls = hub.certificates().of("alice");
    let mut alice = Peer::connect(hub.port, "alice", Some((&tls, true))).unwrap();
    alice.publish(topic, b"here", true);
    let site = Mosquitto::bridged(&["carol", "dave"], &hub);
    assert_eq!(hears(&mut listener(&site, "carol"), topic), "here");
}
