"""
A JACK client that plays the number of each frame, by the server's own count, modulo 2**22, plus one.

    python jack_feeder.py SERVER

Connects itself to every capturing client that comes. Prints "ready"; ends with its standard input.
"""

import sys

import jack
import numpy as np

MODULUS = 1 << 22

client = jack.Client("feeder", servername=sys.argv[1], no_start_server=True)
out = client.outports.register("out")
index = np.arange(8192)


@client.set_process_callback
def process(frames: int) -> None:
    first = client.last_frame_time
    out.get_array()[:] = (index[:frames] + first) % MODULUS + 1


@client.set_port_registration_callback(only_available=False)
def registered(port: jack.Port, register: bool) -> None:
    if register:
        came.append(port.name)


came: list[str] = []


def connect_all() -> None:
    """Take the place of the dummy driver's silent inputs."""
    for port in client.get_ports(is_input=True, is_audio=True):
        if port.name.startswith(("system:", "feeder:")):
            continue
        connected = [each.name for each in client.get_all_connections(port)]
        for name in connected:
            if name != out.name:
                client.disconnect(name, port.name)
        if out.name not in connected:
            client.connect(out.name, port.name)


with client:
    print("ready", flush=True)
    import select

    while not select.select([sys.stdin], [], [], 0.02)[0]:
        connect_all()
