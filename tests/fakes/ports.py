"""Ports for servers that tests start."""

import random
import socket


def free_port() -> int:
    """A port of this machine that nothing listens at, below those that the system hands out by itself (from 32,768 on Linux, 49,152
    elsewhere) and above those of Ray's workers (10,002 to 19,999): what is drawn from the system's own may be another
    connection's by the time that a server has come up."""
    for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as free:
            try:
                free.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("none of 100 ports between 20,000 and 32,768 is free")
