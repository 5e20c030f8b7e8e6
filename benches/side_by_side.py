"""Times llm-dit beside diffusers on the demo model: float32, this machine's CPU, same prompts and seeds.

    cargo build --release
    python -m venv .oracle && .oracle/bin/pip install -r tests/oracle/requirements.txt
    .oracle/bin/python benches/side_by_side.py

Three measurements, each pair run back to back with the order swapped every time (A B, B A, ...), so
that a machine that slows down or is shared slows both sides:

  warm     one POST /api/generate to a running `llm-dit serve`, whole HTTP time, against one warm
           in-process ZImagePipeline call with PNG encoding in memory
  process  `llm-dit generate PROMPT` against a minimal diffusers script, from start to exit
  psnr     between the two pictures of every warm pair

Every pair has its own prompt and seed, so nothing can be answered from a cache. A ratio below 1
means that llm-dit is faster; ratios are per pair. `--reference-only` times diffusers alone.
"""

import argparse
import contextlib
import io
import json
import math
import os
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPO = Path(__file__).resolve().parents[1]
SUBJECTS = ["a red apple", "a rocket", "a palm tree", "a fox", "an owl", "a wizard", "a peacock", "a mermaid"]
COLOURS = ["blue", "purple", "green", "pink", "yellow"]


def prompt_of(pair: int) -> str:
    return f"{SUBJECTS[pair % len(SUBJECTS)]} on a {COLOURS[pair % len(COLOURS)]} background"


class Diffusers:
    """The in-process pipeline, with a stopwatch on each of its stages."""

    def __init__(self, args):
        import torch
        from diffusers import ZImagePipeline

        torch.set_num_threads(args.threads)
        self.torch, self.args, self.stages = torch, args, {}
        self.pipe = ZImagePipeline.from_pretrained(args.model, dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.encode_prompt = self._timed("encode", self.pipe.encode_prompt)
        self.pipe.transformer.forward = self._timed("forward", self.pipe.transformer.forward)
        self.pipe.vae.decode = self._timed("decode", self.pipe.vae.decode)

    def _timed(self, stage, function):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                with self.torch.no_grad():
                    return function(*args, **kwargs)
            finally:
                self.stages.setdefault(stage, []).append(time.perf_counter() - start)
        return wrapper

    def png(self, prompt: str, seed: int) -> bytes:
        image = self.pipe(
            prompt, width=self.args.width, height=self.args.height, num_inference_steps=self.args.steps,
            guidance_scale=0.0, generator=self.torch.Generator("cpu").manual_seed(seed)).images[0]
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()

    def environment(self) -> dict:
        import diffusers

        return {"torch": self.torch.__version__, "diffusers": diffusers.__version__, "threads": self.args.threads,
                "cpu_capability": self.torch.backends.cpu.get_cpu_capability(),
                "onednn": self.torch.backends.mkldnn.is_available(), "machine": platform.machine()}


class Server:
    """`llm-dit serve` on a free port, asked over HTTP."""

    def __init__(self, args, log):
        self.args = args
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [args.binary, "serve", "--no-history", "--host", "127.0.0.1", "--port", str(port), *shlex.split(args.serve_args)]
        self.process = subprocess.Popen(command, cwd=REPO, stdout=log, stderr=log)

    def wait_until_healthy(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"llm-dit serve exited with {self.process.returncode}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError("llm-dit serve did not become healthy")

    def png(self, prompt: str, seed: int) -> bytes:
        body = {"prompt": prompt, "seed": seed, "steps": self.args.steps, "width": self.args.width,
                "height": self.args.height, "guidance_scale": 0}
        request = urllib.request.Request(f"{self.url}/api/generate", data=json.dumps(body).encode(),
                                         headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.read()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def psnr(ours: bytes, theirs: bytes) -> float:
    """Decibels between two PNGs; infinite when they are equal."""
    import numpy as np
    from PIL import Image

    a, b = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float64) for png in (ours, theirs))
    error = ((a - b) ** 2).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def stopwatch(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def interleave(pairs: int, sides: dict, after=lambda results: None) -> dict:
    """Run every side once a pair, swapping the order each time; seconds by side."""
    seconds = {name: [] for name in sides}
    for pair in range(pairs):
        names = list(sides) if pair % 2 == 0 else list(sides)[::-1]
        results = {}
        for name in names:
            took, results[name] = stopwatch(sides[name], prompt_of(pair), pair + 1)
            seconds[name].append(took)
        after(results)
    return seconds


def summary(seconds: dict) -> dict:
    """Median, least and most seconds a side, and the same of the per-pair ratio ours/theirs."""
    def three(values):
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    out = {name: three(values) | {"all": values} for name, values in seconds.items()}
    if {"ours", "diffusers"} <= seconds.keys():
        out["ratio"] = three([a / b for a, b in zip(seconds["ours"], seconds["diffusers"])])
    return out


def warm(args, diffusers: Diffusers) -> dict:
    with contextlib.ExitStack() as stack:
        sides = {}
        if not args.reference_only:
            log = stack.enter_context(tempfile.TemporaryFile())
            server = Server(args, log)
            stack.callback(server.stop)
            try:
                server.wait_until_healthy()
            except RuntimeError as error:
                log.seek(0)
                sys.exit(f"{error}\n{log.read().decode(errors='replace')[-4000:]}")
            sides["ours"] = server.png
        sides["diffusers"] = diffusers.png
        for side in sides.values():
            for seed in (901, 902):
                side("a warm cup of coffee", seed)
        diffusers.stages.clear()
        decibels = []
        seconds = interleave(
            args.pairs, sides, lambda r: decibels.append(psnr(r["ours"], r["diffusers"])) if len(r) == 2 else None)
    result = summary(seconds)
    result["diffusers_stages"] = {k: statistics.median(v) for k, v in diffusers.stages.items()}
    if decibels:
        result["psnr_db"] = {"min": min(decibels), "median": statistics.median(decibels)}
    return result


def process(args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        size = ["--width", str(args.width), "--height", str(args.height), "--steps", str(args.steps)]
        script = str(Path(__file__).with_name("diffusers_generate.py"))

        def run(command):
            subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def ours(prompt, seed):
            run([args.binary, "generate", prompt, "--seed", str(seed), "--output", f"{folder}/ours.png", *size,
                 "--guidance-scale", "0", *shlex.split(args.generate_args)])

        def theirs(prompt, seed):
            run([sys.executable, script, str(args.model), prompt, "--seed", str(seed),
                 "--output", f"{folder}/theirs.png", *size])

        sides = {"diffusers": theirs} if args.reference_only else {"ours": ours, "diffusers": theirs}
        for side in sides.values():  # once each, so that neither pays for a cold page cache
            side(prompt_of(0), 1)
        try:
            return summary(interleave(args.process_pairs, sides))
        except subprocess.CalledProcessError as error:
            sys.exit(f"{error}\n{error.stderr.decode(errors='replace')[-4000:]}")


def show(report: dict) -> None:
    print(f"\n{'':9} {'side':10} {'median s':>9} {'min':>8} {'max':>8}")
    for what in ("warm", "process"):
        for name in ("ours", "diffusers", "ratio"):
            if row := report.get(what, {}).get(name):
                print(f"{what:9} {name:10} {row['median']:9.3f} {row['min']:8.3f} {row['max']:8.3f}")
    if stages := report.get("warm", {}).get("diffusers_stages"):
        print("\ndiffusers, median seconds: " + ", ".join(f"{k} {v:.4f}" for k, v in stages.items()))
    if decibels := report.get("warm", {}).get("psnr_db"):
        print(f"PSNR against diffusers: min {decibels['min']:.1f} dB, median {decibels['median']:.1f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/llm-dit", help="relative to the repository")
    parser.add_argument("--model", type=Path, default=REPO / "models" / "demo", help="the model diffusers loads")
    parser.add_argument("--serve-args", default="", help="more arguments for `llm-dit serve`, as one string")
    parser.add_argument("--generate-args", default="--dtype f32", help="more arguments for `llm-dit generate`")
    parser.add_argument("--pairs", type=int, default=15, help="warm pairs (0 leaves them out)")
    parser.add_argument("--process-pairs", type=int, default=5, help="whole-process pairs (0 leaves them out)")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads (default: all cores)")
    parser.add_argument("--reference-only", action="store_true", help="time diffusers alone")
    parser.add_argument("--json", type=Path, help="also write the report here")
    args = parser.parse_args()
    args.binary = str((REPO / args.binary).resolve())
    args.model = args.model.resolve()
    if not args.reference_only and not Path(args.binary).exists():
        sys.exit(f"{args.binary} does not exist: run `cargo build --release`, or pass --binary or --reference-only")

    report = {}
    if args.process_pairs:  # first, while no torch thread pool of ours is alive
        report["process"] = process(args)
    if args.pairs:
        diffusers = Diffusers(args)
        report = {"environment": diffusers.environment()} | report
        report["warm"] = warm(args, diffusers)
    show(report)
    print("\n" + json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
