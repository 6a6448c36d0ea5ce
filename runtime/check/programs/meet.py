"""Two hosts find each other by name and shake hands."""

# pyright: basic
import json
import os
import socket
import time

PORT = 23456
PATIENCE_S = 120.0
with open("/opt/ml/input/config/resourceconfig.json", encoding="utf-8") as stream:
    told = json.load(stream)
me, hosts = told["current_host"], sorted(told["hosts"])
if me == hosts[0]:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", PORT))
    server.listen(4)
    server.settimeout(PATIENCE_S)
    guests = []
    for _ in hosts[1:]:
        connection, _address = server.accept()
        connection.settimeout(PATIENCE_S)
        guests.append(connection.recv(64).decode())
        connection.sendall(me.encode())
        connection.close()
    met = guests
else:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            with socket.create_connection((hosts[0], PORT), timeout=PATIENCE_S) as connection:
                connection.sendall(me.encode())
                met = [connection.recv(64).decode()]
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
seen = {"me": me, "met": sorted(met), "environ": {n: v for n, v in os.environ.items() if n.startswith("SM_")}}
with open("/opt/ml/model/seen.json", "w", encoding="utf-8") as stream:
    json.dump(seen, stream)
