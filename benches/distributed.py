"""What crosses the network between the text encoder and the DiT, in bytes and milliseconds.

    cargo build --release -p encoder-service -p diffusion-service
    python3 -m venv .grpc && .grpc/bin/pip install grpcio-tools
    sudo .grpc/bin/python benches/distributed.py            # Linux, root; see link.py

Runs the encoder in one network namespace and the diffusion service in another, on a link of 1 Gbit/s with 5 ms
of delay each way, and reads from the diffusion service how long it waited for its embeddings; then the same on
one machine's loopback. The difference is the network's. Embeddings have Z-Image's width, 2560, and are bf16:
the models are the demo model with its caption width blown up and the encoder's layers left out, so the numbers
in them mean nothing and take no time to compute. heylookitsanllm is played by a server that answers at once with as many bytes as it
would.
"""
import argparse
import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import link

REPO = Path(__file__).resolve().parents[1]
DEMO = REPO / "models" / "demo"
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release"
WIDTH = 2560
PROMPTS = {"a line": "a red fox in the snow, at dawn", "a paragraph": "a red fox in the snow " * 12,
           "all 512 tokens": "a red fox in the snow " * 300}
HEYLOOK_TOKENS = {"all 512 tokens": 512}


def widen(source: Path, target: Path, shape_of) -> None:
    """A safetensors file with other shapes; values are repeated until they suffice. Without a shape it is left out."""
    with source.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    at, tensors, parts = 0, {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = shape_of(name, entry["shape"])
        if shape is None:
            continue
        size = 2
        for side in shape:
            size *= side
        begin, end = entry["data_offsets"]
        values = data[begin:end]
        parts.append((values * (size // len(values) + 1))[:size])
        tensors[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(tensors).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def wide_model(folder: Path) -> None:
    """The demo model with embeddings of Z-Image's width. Of one layer, hidden state -2 is the embedding table."""
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)
    width = json.loads((DEMO / "text_encoder/config.json").read_text())["hidden_size"]
    for part, changes, stem, shape_of in [
        ("text_encoder", {"hidden_size": WIDTH, "num_hidden_layers": 1}, "model",
         lambda name, shape: None if re.search(r"\blayers\.[1-9]", name) else [WIDTH if side == width else side for side in shape]),
        ("transformer", {"cap_feat_dim": WIDTH}, "diffusion_pytorch_model",
         lambda name, shape: [*shape[:-1], WIDTH] if name in ("cap_embedder.0.weight", "cap_embedder.1.weight") else shape),
    ]:
        config = json.loads((DEMO / part / "config.json").read_text())
        (folder / part / "config.json").write_text(json.dumps(config | changes))
        widen(DEMO / part / f"{stem}.safetensors", folder / part / f"{stem}.safetensors", shape_of)


def inside(namespace: str, *command) -> list[str]:
    return ["ip", "netns", "exec", namespace, *map(str, command)]


@contextlib.contextmanager
def running(command: list[str], ready):
    """A program from when `ready` likes one of its lines until the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := ready(line):
                break
        else:
            sys.exit(f"{command} ended early:\n{''.join(said)}")
        threading.Thread(target=lambda: [None for _ in process.stdout], daemon=True).start()
        yield found
    finally:
        process.terminate()
        process.wait()


def service(namespace: str, host: str, name: str, *args):
    """One of ours; gives HOST:PORT."""
    command = inside(namespace, PROGRAMS / name, "--host", host, "--port", 0, "--log-format", "json",
                     "--log-filter", "info", *args)
    return running(command, lambda line: json.loads(line).get("address"))


def carried() -> dict[str, int]:
    """Bytes that the link has brought to the diffusion service's side, and taken from there."""
    stats = json.loads(link.ip("-n", link.NAMES[0], "-s", "-j", "link", "show", "dev", link.DEVICE))[0]["stats64"]
    return {"in": stats["rx"]["bytes"], "out": stats["tx"]["bytes"]}


def ask(address: str, prompt: str, times: int) -> list[float]:
    """Seconds that the diffusion service waited for embeddings, for each of several pictures."""
    command = inside(link.NAMES[0], sys.executable, __file__, "--ask", address, "--prompt", prompt, "--times", times)
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def client(address: str, prompt: str, times: int) -> list[float]:
    """What `ask` runs, in the namespace."""
    with tempfile.TemporaryDirectory() as generated:
        files = [f"llmdit/v1/{name}.proto" for name in ("tensor", "encoder", "diffusion")]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", REPO / "proto/proto", f"--python_out={generated}",
                        f"--grpc_python_out={generated}", *files], check=True)
        sys.path.insert(0, generated)
        import grpc
        from llmdit.v1 import diffusion_pb2 as dit, encoder_pb2 as enc
        from llmdit.v1.diffusion_pb2_grpc import DiffusionStub

    stub = DiffusionStub(grpc.insecure_channel(address))
    params = dit.GenerateParams(width=64, height=64, steps=1, seed=1, prompt=enc.Chat(user=prompt))
    seconds = []
    for _ in range(times):
        for message in stub.Generate(iter([dit.GenerateRequest(params=params)])):
            if message.WhichOneof("event") == "finished":
                seconds.append(message.finished.encode_seconds)
    return seconds


def measure(model: Path, encoder: str, times: int, prompts: list[str], over_link: bool) -> dict:
    """For each prompt: the first request on a fresh connection, the median of the others, bytes of one."""
    found = {}
    for name in prompts:
        with service(link.NAMES[0], "127.0.0.1", "diffusion-service", "--model-path", model, "--encoder",
                     f"http://{encoder}") as diffusion:
            [first] = ask(diffusion, PROMPTS[name], 1)
            before = carried()
            rest = ask(diffusion, PROMPTS[name], times)
            after = carried()
            per = {way: (after[way] - before[way]) // times for way in after} if over_link else None
            found[name] = {"first_ms": 1e3 * first, "median_ms": 1e3 * statistics.median(rest), "bytes": per}
    return found


def heylook(host: str) -> None:
    """Plays heylookitsanllm: 512 tokens for whatever is asked."""
    states = base64.b64encode(struct.pack("<f", 0.5) * (512 * WIDTH)).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps({"hidden_states": states, "shape": [512, WIDTH], "model": asked["model"],
                               "layer": asked["layer"], "dtype": "mlx.core.bfloat16", "encoding_format": "base64"}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((host, 0), Handler)
    print(f"{host}:{server.server_port}", flush=True)
    server.serve_forever()


def bench(args) -> dict:
    results = {}
    with contextlib.ExitStack() as stack:
        model = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wide_model(model)
        command = [sys.executable, str(REPO / "benches/link.py"), "--mbit", str(args.mbit), "--delay-ms", str(args.delay_ms)]
        stack.enter_context(running(command, lambda line: line.strip() == "ready"))
        for where, namespace, host in [("loopback", link.NAMES[0], "127.0.0.1"), ("link", link.NAMES[1], link.ADDRESSES[1])]:
            over_link = where == "link"
            with service(namespace, host, "encoder-service", "--model-path", model, "--dtype", "bf16") as encoder:
                results[f"encoder-service, {where}"] = measure(model, encoder, args.times, list(PROMPTS), over_link)
            fake = inside(namespace, sys.executable, __file__, "--heylook", host)
            with running(fake, str.strip) as api, service(
                link.NAMES[0], "127.0.0.1", "encoder-service", "--api-url", f"http://{api}"
            ) as encoder:
                results[f"heylookitsanllm, {where}"] = measure(model, encoder, args.times, list(HEYLOOK_TOKENS), over_link)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=float, default=1000, help="rate of the link, Mbit/s (default: 1000)")
    parser.add_argument("--delay-ms", type=float, default=5, help="delay each way, ms (default: 5)")
    parser.add_argument("--times", type=int, default=11, help="requests for each median (default: 11)")
    parser.add_argument("--ask", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--prompt", help=argparse.SUPPRESS)
    parser.add_argument("--heylook", metavar="HOST", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        print(json.dumps(client(args.ask, args.prompt, args.times)))
    elif args.heylook:
        heylook(args.heylook)
    else:
        results = bench(args)
        print(json.dumps(results, indent=1))
        print(f"\n{'':32} {'prompt':15} {'first ms':>9} {'median ms':>10} {'bytes in':>10} {'out':>7}")
        for what, prompts in results.items():
            for prompt, row in prompts.items():
                sizes = row["bytes"] or {"in": "", "out": ""}
                print(f"{what:32} {prompt:15} {row['first_ms']:9.1f} {row['median_ms']:10.1f} {sizes['in']:>10} {sizes['out']:>7}")


if __name__ == "__main__":
    main()
