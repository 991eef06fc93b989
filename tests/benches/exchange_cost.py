"""A plain teacher and student for benches/exchange_cost.rs: paho-mqtt, rows as pickled numpy arrays.

Arguments: side, port, rows, classes. Says `ready`; the teacher waits for a line, publishes everything in chunks of 128
rows, and waits for another line; the student says `done` when every row has come. In the end each says its CPU seconds, its
peak resident MiB, and the number and bytes of its messages.
"""

import pickle
import resource
import sys
import threading

import numpy as np
import paho.mqtt.client as mqtt

CHUNK = 128
TOPIC = "plain/targets"

side, port, rows, classes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"plain-{side}")
ready, done = threading.Event(), threading.Event()
messages, n_bytes = 0, 0
store = {}


def on_message(_client, _userdata, message):
    global messages, n_bytes
    ids, logits = pickle.loads(message.payload)
    messages += 1
    n_bytes += len(message.payload)
    for i, row in zip(ids, logits):
        store[int(i)] = row
    if len(store) == rows:
        done.set()


def on_connect(*_):
    if side == "student":
        client.subscribe(TOPIC, qos=1)
    else:
        ready.set()


client.on_message = on_message
client.on_connect = on_connect
client.on_subscribe = lambda *_: ready.set()
client.max_inflight_messages_set(100)
client.connect("127.0.0.1", port)
client.loop_start()
ready.wait()
print("ready", flush=True)
if side == "student":
    done.wait()
    print("done", flush=True)
else:
    logits = (np.arange(CHUNK * classes, dtype=np.float32) % 977 / 61 - 8).reshape(CHUNK, classes)
    sys.stdin.readline()
    last = None
    for first in range(0, rows, CHUNK):
        ids = np.arange(first, min(first + CHUNK, rows), dtype=np.uint32)
        payload = pickle.dumps((ids, logits[: len(ids)]), protocol=5)
        messages += 1
        n_bytes += len(payload)
        last = client.publish(TOPIC, payload, qos=1)
    last.wait_for_publish()
sys.stdin.readline()
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, messages, n_bytes, flush=True)
client.loop_stop()
