"""Ports for servers that tests start."""

import random
import socket


def free_port() -> int:
    """A port of this machine on which nothing listens, below the system's ephemeral ports (from 32,768 on Linux, 49,152 elsewhere)
    and above those of Ray's workers (10,002 to 19,999). An ephemeral port could be taken by another connection before the
    server has started."""
    for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as free:
            try:
                free.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("none of 100 ports between 20,000 and 32,768 is free")
