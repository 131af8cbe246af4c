"""What RealtimeKit asks whether a user may have it: answers every question with ``yes`` or ``no``, which is its argument."""

from __future__ import annotations

import sys

from jeepney import MessageType, message_bus, new_method_return
from jeepney.io.blocking import Proxy, open_dbus_connection

answer = sys.argv[1] == "yes"
with open_dbus_connection(bus="SYSTEM") as connection:
    Proxy(message_bus, connection).RequestName("org.freedesktop.PolicyKit1")
    while True:
        try:
            message = connection.receive()
        except ConnectionError:
            break  # the bus has ended
        if message.header.message_type is MessageType.method_call:
            connection.send(new_method_return(message, "(bba{ss})", ((answer, False, {}),)))
