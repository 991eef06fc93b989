//! A plain MQTT client beside the agents: somebody who listens, or who tries what he must not.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use dkt_agent::config::TlsConfig;
use rumqttc::{
    Client, Connect, Connection, ConnectionError, Disconnect, Event, LastWill, MqttOptions, Packet, Publish,
    QoS, Subscribe, SubscribeReasonCode, TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::deadline::Deadline;

const MAX_PACKET_BYTES: usize = 2 * 1024 * 1024;

/// A message that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
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
        Peer::connect_with_will(port, id, tls, None)
    }

    /// As [`Peer::connect`], with a last will, which is retained: its topic and payload. It is said when the peer is
    /// dropped.
    ///
    /// # Errors
    /// [`ConnectionError`] if the broker refuses.
    pub fn connect_with_will(
        port: u16,
        id: &str,
        tls: Option<(&TlsConfig, bool)>,
        will: Option<(&str, &str)>,
    ) -> Result<Self, Box<ConnectionError>> {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        if let Some((topic, payload)) = will {
            options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true));
        }
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

    /// What was delivered until the broker answers one more request.
    ///
    /// # Panics
    /// If the connection breaks.
    pub fn delivered_until_now(&mut self) -> Vec<Delivered> {
        self.subscribe("nothing/is/here");
        self.delivered.drain(..).collect()
    }

    /// What was delivered before a message that is allowed, under `topic`.
    ///
    /// # Panics
    /// If that does not come, or the connection breaks.
    pub fn delivered_before(&mut self, topic: &str) -> Vec<Delivered> {
        let mut before = Vec::new();
        self.find(topic, |delivered| {
            let is_last = delivered.topic == topic;
            if !is_last {
                before.push(delivered.clone());
            }
            is_last.then_some(())
        });
        before
    }

    /// Publishes and waits until the broker has taken it. That it delivers it to others does not follow.
    ///
    /// # Panics
    /// If the connection breaks.
    pub fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) {
        self.try_publish(topic, payload, retain).expect("the connection holds");
    }

    /// As [`Peer::publish`].
    ///
    /// # Errors
    /// [`ConnectionError`] if the broker ends the connection instead.
    pub fn try_publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        retain: bool,
    ) -> Result<(), Box<ConnectionError>> {
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).expect("the client takes requests");
        self.wait_for("an acknowledgement", |packet| matches!(packet, Packet::PubAck(_)).then_some(()))
    }

    /// Publishes, and waits until the broker is done with it, whatever that means: until it answers one more request
    /// or ends the connection.
    ///
    /// # Panics
    /// If it does neither.
    pub fn offer(&mut self, topic: &str, payload: &[u8]) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).expect("the client takes requests");
        self.client.subscribe("nothing/is/here", QoS::AtLeastOnce).expect("the client takes requests");
        // An error is the other answer.
        let _ = self.wait_for("an answer", |packet| matches!(packet, Packet::SubAck(_)).then_some(()));
    }

    /// Waits until the broker ends the connection.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_the_end(mut self) {
        let deadline = Deadline::default();
        while self.poll("the end of its connection", deadline).is_ok() {}
    }

    /// Disconnects, upon which no last will is said.
    ///
    /// # Panics
    /// If the broker does not close the connection.
    pub fn say_goodbye(self) {
        self.client.disconnect().expect("the client takes requests");
        self.wait_for_the_end();
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
            let topic = publish.topic.clone();
            self.delivered.push_back(Delivered { topic, payload, qos: publish.qos });
        }
        Ok(Some(packet))
    }
}

/// Says everything at once, without waiting to be let in: connects with a last will, subscribes to everything,
/// publishes, once retained and once not, and goes. Will and publications are under `topic`. Comes back with what the
/// broker has answered, when it has ended the connection.
///
/// # Panics
/// If the client's own files are not there, or the broker does not end the connection.
pub fn shout(port: u16, (tls, shown): (&TlsConfig, bool), id: &str, topic: &str, payload: &str) -> Vec<u8> {
    let mut connect = Connect::new(id);
    connect.last_will = Some(LastWill::new(topic, payload, QoS::AtMostOnce, true));
    let mut subscribe = Subscribe::new("#", QoS::AtMostOnce);
    subscribe.pkid = 1;
    let mut publish = Publish::new(topic, QoS::AtMostOnce, payload);
    let mut packets = Default::default();
    let mut written = connect.write(&mut packets).and(subscribe.write(&mut packets));
    for retain in [false, true] {
        publish.retain = retain;
        written = written.and(publish.write(&mut packets));
    }
    written.and(Disconnect.write(&mut packets)).expect("the packets are well formed");

    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(&tls.ca).expect("the authority's certificate is there");
    roots.add(ca).expect("it is an authority's");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots);
    let config = if shown {
        let chain = vec![CertificateDer::from_pem_file(&tls.cert).expect("the certificate is there")];
        let key = PrivateKeyDer::from_pem_file(&tls.key).expect("the key is there");
        config.with_client_auth_cert(chain, key).expect("certificate and key belong together")
    } else {
        config.with_no_client_auth()
    };
    let server = ServerName::try_from("127.0.0.1").expect("it is an address");
    let connection = ClientConnection::new(Arc::new(config), server).expect("it can be connected to");
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the broker listens");
    socket.set_read_timeout(Some(Deadline::default().left())).expect("a time is set");
    let mut stream = StreamOwned::new(connection, socket);
    // A broker that refuses may break the connection at any moment.
    let _ = stream.write_all(&packets).and_then(|()| stream.flush());
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "waited for the broker to end the connection"
        );
    }
    answer
}
