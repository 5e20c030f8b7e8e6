"""A network link between two network namespaces, with a rate and a delay. Linux, root, /dev/net/tun.

    python3 benches/link.py --mbit 1000 --delay-ms 5     # until Ctrl-C; then try, in another terminal:
    ip netns exec llm-dit-a ping 10.77.0.2

Two TUN devices, one in each namespace (llm-dit-a is 10.77.0.1, llm-dit-b is 10.77.0.2), and this process in
between, which hands each packet on when a wire of this rate would have brought it. `tc netem` does the same in
the kernel, where the kernel has it. TCP is the kernel's own, windows and slow start included: it hands over
trains of segments (TSO), which are charged for as single ones.
"""
import argparse
import collections
import fcntl
import math
import os
import select
import signal
import struct
import subprocess
import sys
import time

NAMES = ("llm-dit-a", "llm-dit-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEVICE = "wire0"

# From linux/if_tun.h and linux/virtio_net.h.
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
VIRTIO_HEADER = 10

MTU = 1500
ETHERNET = 38  # frame, checksum, preamble and gap
TCP_IP = 52


def ip(*args: str) -> str:
    return subprocess.run(["ip", *args], check=True, stdout=subprocess.PIPE, text=True).stdout


def tun(name: str, namespace: str, address: str) -> int:
    """A TUN device in a namespace; packets are read from and written to the file."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(file, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    ip("link", "set", name, "netns", namespace)
    ip("-n", namespace, "link", "set", name, "name", DEVICE)
    ip("-n", namespace, "addr", "add", f"{address}/24", "dev", DEVICE)
    ip("-n", namespace, "link", "set", DEVICE, "up", "mtu", str(MTU))
    ip("-n", namespace, "link", "set", "lo", "up")
    return file


def on_the_wire(size: int) -> int:
    """Bytes that a train of segments takes on an Ethernet wire."""
    segments = math.ceil(size / MTU)
    return size + (segments - 1) * TCP_IP + segments * ETHERNET


def forward(files: list[int], bytes_a_second: float, delay: float) -> None:
    """Hands packets from each file to the other, until the process ends."""
    waiting = [collections.deque(), collections.deque()]  # (when, packet) for the other side
    free = [0.0, 0.0]  # when each direction's wire is
    while True:
        now = time.monotonic()
        for side, queue in enumerate(waiting):
            while queue and queue[0][0] <= now:
                try:
                    os.write(files[1 - side], queue.popleft()[1])
                except (BlockingIOError, OSError):
                    pass  # dropped, as by a wire; TCP sends it again
        due = min((queue[0][0] for queue in waiting if queue), default=now + 1)
        readable, _, _ = select.select(files, [], [], max(0.0, due - time.monotonic()))
        for file in readable:
            side = files.index(file)
            try:
                packet = os.read(file, 70_000)
            except BlockingIOError:
                continue
            begins = max(time.monotonic(), free[side])
            free[side] = begins + on_the_wire(len(packet) - VIRTIO_HEADER) / bytes_a_second
            waiting[side].append((free[side] + delay, packet))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=float, default=1000, help="rate in each direction, Mbit/s (default: 1000)")
    parser.add_argument("--delay-ms", type=float, default=5, help="delay in each direction, ms (default: 5)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    made = []
    try:
        for name in NAMES:
            ip("netns", "add", name)
            made.append(name)
        files = [tun(f"llmdit{i}", name, address) for i, (name, address) in enumerate(zip(NAMES, ADDRESSES))]
        print("ready", flush=True)
        forward(files, args.mbit * 1e6 / 8, args.delay_ms / 1e3)
    except KeyboardInterrupt:
        pass
    finally:
        for name in made:
            ip("netns", "del", name)


if __name__ == "__main__":
    main()
