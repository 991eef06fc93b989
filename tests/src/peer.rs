//! A plain MQTT client beside the agents: somebody who listens, or who tries what he must not.

use std::collections::VecDeque;
use std::fs;

use dkt_agent::config::TlsConfig;
use rumqttc::{
    Client, Connection, ConnectionError, Event, MqttOptions, Packet, QoS, SubscribeReasonCode,
    TlsConfiguration, Transport,
};

use crate::deadline::Deadline;

const MAX_PACKET_BYTES: usize = 2 * 1024 * 1024;

/// A message that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub topic: String,
    pub payload: Vec<u8>,
}

pub struct Peer {
    client: Client,
    connection: Connection,
    delivered: VecDeque<Delivered>,
}

impl Peer {
    /// Connects and waits for the broker's answer. With `tls`, by TLS; its certificate is shown if `shown`.
    ///
    /// # Errors
    /// [`ConnectionError`] if the broker refuses.
    pub fn connect(
        port: u16,
        id: &str,
        tls: Option<(&TlsConfig, bool)>,
    ) -> Result<Self, Box<ConnectionError>> {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        if let Some((tls, shown)) = tls {
            // Only the first call installs it; the others find it there.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let read = |path| fs::read(path).expect("certificates are there");
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
                ca: read(&tls.ca),
                alpn: None,
                client_auth: shown.then(|| (read(&tls.cert), read(&tls.key))),
            }));
        }
        let (client, connection) = Client::new(options, 16);
        let mut peer = Peer { client, connection, delivered: VecDeque::new() };
        peer.wait_for("a connection", |packet| matches!(packet, Packet::ConnAck(_)).then_some(()))?;
        Ok(peer)
    }

    /// Subscribes and waits until that holds. False if the broker refuses.
    ///
    /// # Panics
    /// If the connection breaks.
    pub fn subscribe(&mut self, filter: &str) -> bool {
        self.client.subscribe(filter, QoS::AtLeastOnce).expect("the client takes requests");
        self.wait_for("a subscription", |packet| match packet {
            Packet::SubAck(ack) => Some(!ack.return_codes.contains(&SubscribeReasonCode::Failure)),
            _ => None,
        })
        .expect("the connection holds")
    }

    /// Publishes and waits until the broker has taken it. That it delivers it to others does not follow.
    ///
    /// # Panics
    /// If the connection breaks.
    pub fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) {
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).expect("the client takes requests");
        self.wait_for("an acknowledgement", |packet| matches!(packet, Packet::PubAck(_)).then_some(()))
            .expect("the connection holds");
    }

    /// Waits for the next message.
    ///
    /// # Panics
    /// If none comes, or the connection breaks.
    pub fn next(&mut self, what: &str) -> Delivered {
        self.find(what, |delivered| Some(delivered.clone()))
    }

    /// Waits for a message out of which `pick` makes something; those before it are passed over.
    ///
    /// # Panics
    /// If none comes, or the connection breaks.
    pub fn find<T>(&mut self, what: &str, mut pick: impl FnMut(&Delivered) -> Option<T>) -> T {
        let deadline = Deadline::default();
        loop {
            while let Some(delivered) = self.delivered.pop_front() {
                if let Some(picked) = pick(&delivered) {
                    return picked;
                }
            }
            assert!(!deadline.is_over(), "a plain client waited for {what} in vain");
            self.poll(what, deadline).expect("the connection holds");
        }
    }

    fn wait_for<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Packet) -> Option<T>,
    ) -> Result<T, Box<ConnectionError>> {
        let deadline = Deadline::default();
        loop {
            if let Some(picked) = self.poll(what, deadline)?.as_ref().and_then(&mut pick) {
                return Ok(picked);
            }
        }
    }

    /// Goes on by one event; messages that are delivered are kept.
    fn poll(&mut self, what: &str, deadline: Deadline) -> Result<Option<Packet>, Box<ConnectionError>> {
        let event = self.connection.recv_timeout(deadline.left());
        let Ok(event) = event else { panic!("a plain client waited for {what} in vain") };
        let event = event?;
        let Event::Incoming(packet) = event else { return Ok(None) };
        if let Packet::Publish(publish) = &packet {
            let payload = publish.payload.to_vec();
            self.delivered.push_back(Delivered { topic: publish.topic.clone(), payload });
        }
        Ok(Some(packet))
    }
}
