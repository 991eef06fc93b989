"""What teacher.py and student.py have in common: being an agent of a fleet (docs/protocol.md)."""

import queue
import re
import signal
import sys
import time
from urllib.parse import urlsplit

import cbor2
import paho.mqtt.client as mqtt

from data import Data
from rows import expect
from signing import Signing

MAX_MESSAGE_BYTES, MAX_WILL_BYTES, MAX_QUEUED, MAX_PEERS = 1 << 20, 65_000, 10_000, 4096
STATES = "online", "finished", "offline"
ANNOUNCE_S, LATE_WILL_S, WARN_S, TICK_S, GOODBYE_S = 60, 2, 60, 0.02, 5


class Peer:
    """An agent that ignores others and wants nothing; teacher and student say what they do with each kind of message."""

    def __init__(self, args, model, state):
        self.args, self.model, self.state = args, model, state
        self.data = Data(args.data, args.crop_padding, args.flip)
        self.session, self.round = time.time_ns(), 0
        self.announce_at, self.warned_at, self.n_refused = float("inf"), float("-inf"), 0
        self.inbox = queue.Queue(MAX_QUEUED)
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, args.agent, protocol=mqtt.MQTTv311)
        self.connected = self.client.is_connected
        self.signing = Signing(args.agent, args.sign, args.signers, args.numbers) if args.sign else None
        self.client.on_pre_connect = lambda *_: self.leave_will()
        self.client.on_connect = lambda _c, _u, _f, reason, _p: reason.is_failure or self.inbox.put(None)
        self.client.on_message = lambda _c, _u, message: self.put(message)

    def put(self, message):
        try:
            self.inbox.put_nowait(message)
        except queue.Full:
            pass  # What is lost here is said, or can be asked for, again.

    def run(self):
        """Until `tick` says that all is done, or a signal comes."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        url = urlsplit(self.args.broker)
        with_tls = url.scheme == "mqtts"
        try:
            if with_tls:
                self.client.tls_set(*(f"{self.args.keys}/{name}.pem" for name in ("ca", "cert", "key")))
            self.client.connect(url.hostname, url.port or (8883 if with_tls else 1883))
        except OSError as error:
            keys = f" with the keys in {self.args.keys}" if with_tls else ""
            sys.exit(f"no connection to {self.args.broker}{keys}: {error}")
        self.client.loop_start()
        try:
            while not self.tick():
                self.take()
                if self.connected() and self.announce_at <= time.monotonic():
                    self.announce()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            if self.connected():
                self.withdraw()
                self.publish(self.status_now("offline"), "status").wait_for_publish(GOODBYE_S)
            self.client.disconnect()
            self.client.loop_stop()

    def leave_will(self):
        topic, will = self.topic("status"), self.status_now("offline")
        will = will if len(will) <= MAX_WILL_BYTES else b""
        will = self.signing.seal(topic, will, self.signing.begin_epoch()) if self.signing else will
        self.client.will_set(topic, will, qos=1, retain=True)

    def take(self):
        try:
            message = self.inbox.get(timeout=TICK_S)
        except queue.Empty:
            return
        if message is None:  # Connected, perhaps anew.
            print(f"connected to {self.args.broker}, fleet {self.args.fleet}", flush=True)
            leaves = ("status",), ("demand",), ("demand", self.args.agent), ("repair", self.args.agent)
            self.client.subscribe([(self.topic(*leaf, agent="+"), 1) for leaf in leaves])
            self.announce()
            self.reconnected()
            return
        try:
            self.received(message)
        except Exception as error:  # Whatever a peer sends must not end this one.
            self.n_refused += 1
            if self.warned_at + WARN_S < time.monotonic():
                self.warned_at = time.monotonic()
                print(f"refused {self.n_refused}, now {message.topic}: {error!r}", file=sys.stderr, flush=True)

    def received(self, message):
        root, version, fleet, agent, kind, *to = message.topic.split("/")
        expect([root, version, fleet] == ["dkt", "1", self.args.fleet], "a topic of this fleet")
        expect(re.fullmatch("[a-z0-9_-]{1,64}", agent), "a name")
        expect(kind not in ("demand", "repair") or to in ([], [self.args.agent]), "one for this agent")
        take = {"status": self.status, "demand": self.demand, "repair": self.repair, "targets": self.targets}[kind]
        expect(len(message.payload) <= MAX_MESSAGE_BYTES, "a shorter message")
        payload = self.signing.open(message.topic, message.payload) if self.signing else message.payload
        body = cbor2.loads(payload) if payload else None
        expect(body is None or body["v"] == 1, "version 1")
        if kind == "status" and body is not None:
            numbers = body["session"], body["round"]
            expect(body["state"] in STATES and all(type(n) is int and n >= 0 for n in numbers), "a status")
        if agent != self.args.agent:
            take(agent, body, *to)
        elif kind == "status" and (body is None or body["state"] == "offline"):
            # A last will that came late.
            self.announce_at = min(self.announce_at, time.monotonic() + LATE_WILL_S)

    def ignore(self, *_):
        pass

    status = demand = repair = targets = reconnected = ignore

    def own_demands(self):
        """Each with the rest of its topic."""
        return {("demand",): b""}

    def withdraw(self):
        for leaf in self.own_demands():
            self.publish(b"", *leaf)

    def topic(self, *leaf, agent=None):
        return "/".join(("dkt/1", self.args.fleet, agent or self.args.agent, *leaf))

    def publish(self, payload, *leaf, retain=True):
        payload = self.signing.seal(self.topic(*leaf), payload) if self.signing else payload
        return self.client.publish(self.topic(*leaf), payload, qos=1, retain=retain)

    def announce(self):
        self.announce_at = time.monotonic() + ANNOUNCE_S
        self.publish(self.status_now(self.state), "status")
        for leaf, demand in self.own_demands().items():
            self.publish(demand, *leaf)

    def status_now(self, state):
        who = {"session": self.session, "data": self.data.digest, "classes": self.data.classes, "model": self.model}
        return cbor2.dumps({"v": 1, "state": state, **who, "round": self.round})

    def fits(self, status):
        return status["data"] == self.data.digest and status["classes"] == self.data.classes
