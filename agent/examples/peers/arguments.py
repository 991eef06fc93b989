"""What teacher.py and student.py are told on the command line."""

import argparse
import sys


def arguments(about):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("data", help="NPZ file with x_train and y_train")
    parser.add_argument("--broker", default="mqtt://127.0.0.1:1883", help="or mqtts://HOST[:PORT]")
    parser.add_argument("--keys", default=".", help="folder with ca.pem, cert.pem and key.pem, for mqtts")
    parser.add_argument("--fleet", default="lab")
    parser.add_argument("--agent", default="python", help="a name that no other agent has")
    parser.add_argument("--crop-padding", type=int, default=1, help="as in the fleet's [data]")
    parser.add_argument("--flip", action="store_true", help="as in the fleet's [data]")
    parser.add_argument("--sign", metavar="KEY", help="the agent's signing.key, where the fleet signs its messages")
    parser.add_argument("--signers", default="signers", help="folder with the public keys of all agents, for --sign")
    parser.add_argument("--numbers", default=".", help="folder where numbers of signed messages are kept")
    return parser


def join(kind, args):
    """A peer of that kind that has run to its end; what keeps it from running is said in a line."""
    try:
        peer = kind(args)
    except OSError as error:
        sys.exit(str(error))
    peer.run()
    return peer
