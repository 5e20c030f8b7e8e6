"""The gateway's HTTP API as docs/api/web_server_api.md has it, without a model behind it.

Serves gateway/page/ and answers what the page asks. Pictures are the goldens; a step takes `pace`
seconds, or waits for the test when there is none. What the contract does not know is refused, so
that a page that asks for it fails its test. To look at the page: python fake.py [PORT [PACE]].
"""

import base64, io, json, random, re, sys, threading, time, uuid
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "gateway/page"
POLICY = ("default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
          "form-action 'self'; frame-ancestors 'none'")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
GENERATE = set("""prompt negative_prompt width height steps num_inference_steps seed variation_seed variation_strength guidance_scale cfg_normalization
    cfg_truncation shift scheduler template system_prompt thinking_content assistant_content enable_thinking
    force_think_block strip_quotes raw_special_tokens hidden_layer max_tokens encoder loras image strength
    output_format output_compression""".split())
ENCODE = set("""prompt system_prompt thinking_content assistant_content enable_thinking force_think_block strip_quotes
    raw_special_tokens template encoder hidden_layer max_tokens""".split())
DEFAULTS = {"width": 256, "height": 256, "steps": 8, "guidance_scale": 0.0, "shift": 3.0, "scheduler": "flow_euler"}
LIMITS = {"side_multiple": 16, "min_side": 64, "max_side": 8192, "max_pixels": 4194304, "max_steps": 200,
          "max_caption_tokens": 1504}
SCHEDULERS = [
    {"id": "flow_euler", "name": "Euler", "description": "One forward pass a step. The one that the model was distilled for."},
    {"id": "flow_heun", "name": "Heun", "description": "Two forward passes a step, second order."},
    {"id": "dpm_solver", "name": "DPM-Solver++", "description": "Second order from the steps before; one forward pass a step."},
    {"id": "unipc", "name": "UniPC", "description": "Predictor and corrector; one forward pass a step."}]
LORAS = [
    {"name": "ink.safetensors", "bytes": 812344, "modules": 34, "rank": 8, "alpha": 8.0, "problem": None, "active": True,
     "scale": 0.8, "trigger_words": "ink wash"},
    {"name": "pixel.safetensors", "bytes": 412344, "modules": 34, "rank": 4, "alpha": 4.0, "problem": None,
     "active": False, "scale": None, "trigger_words": None},
    {"name": "broken.safetensors", "bytes": 12, "modules": 0, "rank": None, "alpha": None,
     "problem": "the header is cut off", "active": False, "scale": None, "trigger_words": None}]
ABOUT = json.loads((ROOT / "models/demo/about.json").read_text())
# What a test can change.
SWITCHES = {"loras": False, "history": True, "fail": None, "busy": False, "queue": 0, "model": True,
            "encoders": ["local"], "wide_seed": False, "cut": False, "hang_up": False, "key": None, "down": False,
            "lost_image": None, "about": ABOUT, "no_stream": None}
# More than a double holds: the page must not round it.
WIDE_SEED = 18446744073709551557


class Problem(Exception):
    TITLES = {400: "Bad request", 401: "Key needed", 404: "Not found", 405: "Method not allowed", 409: "Conflict", 410: "Gone", 422: "Key used before", 499: "Cancelled",
              500: "Internal error", 501: "Not set up", 502: "A service was lost", 503: "Busy", 507: "Out of memory"}

    def __init__(self, status, detail, **headers):
        super().__init__(detail)
        self.status, self.headers = status, headers
        self.body = {"type": "about:blank", "title": self.TITLES[status], "status": status, "detail": detail}


def now():
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def load_templates():
    """Front matter of the template files: flat keys, and blocks after `|`."""
    found = []
    for path in sorted((ROOT / "templates/z_image").glob("*.md")):
        _, head, body = path.read_text().split("---\n", 2)
        keys, key = {}, None
        for line in head.splitlines():
            if line.startswith("  ") and key:
                keys[key] += line[2:] + "\n"
            elif m := re.match(r"(\w+): ?(.*)", line):
                key, value = m.groups()
                keys[key] = "" if value == "|" else value.strip("\"'")
        full = keys["name"]
        found.append({"name": full.removeprefix("z_image_"), "full_name": full, "category": keys["category"],
                      "description": keys["description"], "has_thinking": "thinking_content" in keys,
                      "system_prompt": body.strip(), "thinking_content": keys.get("thinking_content", "").strip() or None,
                      "assistant_content": None, "add_think_block": keys.get("add_think_block") == "true"})
    return sorted(found, key=lambda one: (one["category"], one["name"]))


def encode_image(image, kind):
    out = io.BytesIO()
    image.convert("RGB").save(out, kind)
    return out.getvalue()


class Restarted(Exception):
    """The server was stopped in the middle of a job, and does it again."""


class World:
    """All that the server knows; `lock` guards it and wakes who waits."""

    def __init__(self, pace):
        self.pace = pace
        self.lock = threading.Condition()
        self.jobs, self.history, self.next_id = {}, {}, 1
        self.templates = load_templates()
        self.switches = dict(SWITCHES)
        self.permits = 0
        self.starts = 0
        self.requests, self.keys = [], {}
        index = json.loads((ROOT / "tests/goldens/pictures/index.json").read_text())
        self.goldens = [(one["prompt"], ROOT / "tests/goldens/pictures" / one["file"]) for one in index["pictures"]]

    def picture(self, prompt, seed, size):
        """The golden whose prompt has the most words in common."""
        words = set(prompt.lower().split()) - {"a", "on", "background"}
        best = max(self.goldens, key=lambda one: (len(words & set(one[0].split())), (hash(one[0]) ^ seed) % 97))
        return Image.open(best[1]).convert("RGB").resize(size, Image.LANCZOS)

    def go(self, steps):
        """Lets that many steps pass."""
        with self.lock:
            self.permits += steps
            self.lock.notify_all()

    def stop(self):
        """From now on nothing is answered, and open streams end."""
        with self.lock:
            self.switches["down"] = True
            self.lock.notify_all()

    def start(self):
        """Answers again, and does unfinished jobs from the beginning."""
        with self.lock:
            self.switches["down"] = False
            self.starts += 1
            self.lock.notify_all()

    def step(self, job):
        """Waits until the next step may be made; False when the job was cancelled."""
        is_over = lambda: job.cancelled or job.start != self.starts
        with self.lock:
            if self.pace is None:
                self.lock.wait_for(lambda: self.permits > 0 or is_over())
                self.permits -= 0 if is_over() else 1
            else:
                self.lock.wait_for(is_over, timeout=self.pace)
            if job.start != self.starts:
                raise Restarted
            return not job.cancelled

    def template(self, name):
        for one in self.templates:
            if name in (one["name"], one["full_name"]):
                return one
        raise Problem(400, f"there is no template '{name}'; did you mean 'noir'?")

    def format(self, body):
        chosen = self.template(body["template"]) if body.get("template") else {}
        system = body.get("system_prompt") or chosen.get("system_prompt")
        thinking = body.get("thinking_content") or chosen.get("thinking_content")
        has_think = body.get("enable_thinking", bool(thinking) or bool(body.get("force_think_block")))
        text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        text += f"<|im_start|>user\n{body['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        text += f"<think>\n{thinking or ''}\n</think>\n\n" if has_think else ""
        count = lambda part: len(re.findall(r"\w+|[^\w\s]", part or ""))
        tokens = {"system": count(system), "user": count(body["prompt"]), "thinking": count(thinking) if has_think else 0,
                  "assistant": 0, "frame": 8 + (5 if system else 0) + (4 if has_think else 0)}
        return text, tokens


class Job:
    def __init__(self, world, body):
        self.world, self.body = world, body
        self.id, self.created = str(uuid.uuid4()), now()
        self.status, self.result, self.error, self.file = "running", None, None, None
        self.cancelled = False
        self.start = world.starts
        self.events, self.next_event = [], 0
        self.progress = None
        self.tell_progress("encoding")
        threading.Thread(target=self.run, daemon=True).start()

    def tell(self, name, data):
        with self.world.lock:
            if name == "preview":
                self.events = [event for event in self.events if event[1] != "preview"]
            self.events.append((self.next_event, name, data))
            self.next_event += 1
            self.world.lock.notify_all()

    def tell_progress(self, stage, queue=None, step=0, left=None):
        steps = self.body["steps"] if stage in ("denoising", "decoding") else 0
        self.progress = {"stage": stage, "queue_position": queue, "step": step, "steps": steps, "seconds_left": left}
        self.tell("progress", self.progress)

    def run(self):
        try:
            self.draw()
        except Restarted:
            self.start, self.events = self.world.starts, []
            self.tell_progress("encoding")
            self.run()
        except Problem as problem:
            self.error = problem.body
            self.status = "cancelled" if problem.status == 499 else "failed"
            self.tell("error", problem.body)

    def pass_step(self):
        if not self.world.step(self):
            raise Problem(499, "the work was cancelled")

    def draw(self):
        world, body, began = self.world, self.body, time.monotonic()
        for ahead in range(world.switches["queue"], 0, -1):
            self.tell_progress("queued", queue=ahead)
            self.pass_step()
        size = (body["width"], body["height"])
        image = world.picture(body["prompt"], body["seed"], size)
        noise = Image.effect_noise(size, 90).convert("RGB")
        for step in range(body["steps"]):
            left = (body["steps"] - step) * (world.pace or 0.4) if step else None
            self.tell_progress("denoising", step=step, left=left)
            self.pass_step()
            if world.switches["fail"] and step == 2:
                raise world.switches["fail"]
            share = 1 - (step + 1) / body["steps"]
            small = Image.blend(image.filter(ImageFilter.GaussianBlur(8 * share)), noise, 0.75 * share)
            small.thumbnail((128, 128))
            data = base64.b64encode(encode_image(small, "JPEG")).decode()
            self.tell("preview", {"step": step + 1, "steps": body["steps"], "media_type": "image/jpeg", "image": data})
        self.tell_progress("decoding", step=body["steps"], left=0.1)
        self.finish(image, time.monotonic() - began)

    def finish(self, image, seconds):
        kind = self.body.get("output_format", "png")
        self.file, media = encode_image(image, kind.upper()), f"image/{kind}"
        parameters = {name: value for name, value in self.body.items() if name != "image"}
        if self.world.switches["loras"]:
            parameters.setdefault("loras", [{"name": one["name"], "scale": one["scale"]} for one in LORAS if one["active"]])
            parameters = {name: value for name, value in parameters.items() if name != "loras" or value}
        text, _ = self.world.format(self.body)
        entry = {"timestamp": now(), "media_type": media, "bytes": len(self.file), "generation_time": round(seconds, 3),
                 "formatted_prompt": text, "parameters": parameters, "file": self.file}
        known = None
        with self.world.lock:
            if self.world.switches["history"]:
                known = self.world.next_id
                self.world.next_id += 1
                self.world.history[known] = entry | {
                    "id": known, "image_url": f"/api/history/{known}/image", "thumbnail_url": f"/api/history/{known}/thumbnail"}
        self.result = {"image_url": f"/api/jobs/{self.id}/image", "media_type": media, "history_id": known,
                       "parameters": parameters, "formatted_prompt": text, "generation_time": round(seconds, 3),
                       "truncated_tokens": 0, "truncated_negative_tokens": 0, "embeddings_cached": False}
        self.status = "done"
        self.tell("result", self.result)

    def describe(self):
        return {"id": self.id, "status": self.status, "created": self.created, "progress": self.progress,
                "result": self.result, "error": self.error}


def check_fields(body, fields):
    for name in body:
        if name not in fields:
            raise Problem(400, f"unknown field '{name}'")
    if not isinstance(body.get("prompt"), str):
        raise Problem(400, "prompt is missing")


def check(world, body):
    """A request with its gaps filled, as the real one checks it."""
    check_fields(body, GENERATE)
    if not body["prompt"].strip():
        raise Problem(400, "the prompt is empty; describe the image")
    full = DEFAULTS | {"seed": WIDE_SEED if world.switches["wide_seed"] else random.randrange(2**53)} | body
    for side in ("width", "height"):
        check_side(side, full[side])
    if full["width"] * full["height"] > LIMITS["max_pixels"]:
        raise Problem(400, f"{full['width']}x{full['height']} is {full['width'] * full['height']} pixels; the "
                           f"maximum is {LIMITS['max_pixels']}")
    if not isinstance(full["steps"], int) or not 1 <= full["steps"] <= LIMITS["max_steps"]:
        raise Problem(400, f"steps {full['steps']} is out of range; use 1 to 200")
    if not isinstance(full["seed"], int) or not 0 <= full["seed"] < 2**64:
        raise Problem(400, f"seed {full['seed']} is no whole number from 0 to 18446744073709551615")
    if body.get("negative_prompt") and full["guidance_scale"] <= 0:
        raise Problem(400, "negative_prompt needs guidance_scale above 0")
    if full["scheduler"] not in [one["id"] for one in SCHEDULERS]:
        raise Problem(400, f"there is no scheduler '{full['scheduler']}'; known are flow_euler, flow_heun, dpm_solver, unipc")
    if "loras" in body and not world.switches["loras"]:
        raise Problem(501, "this service was started without --loras-dir")
    if "image" in body:
        full.setdefault("strength", 0.6)
        check_image(full, body)
    world.format(full)
    return full


def check_side(name, value):
    if not isinstance(value, int) or not LIMITS["min_side"] <= value <= LIMITS["max_side"]:
        raise Problem(400, f"{name} {value} is out of range; use 64 to 8192")
    if value % 16:
        below = value // 16 * 16
        raise Problem(400, f"{name} {value} is not a multiple of 16; the nearest are {below} and {below + 16}")


def check_image(full, body):
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(body["image"].split(",")[-1])))
    except Exception:
        raise Problem(400, "the image is not a PNG, JPEG or WebP file")
    if "width" not in body:
        full["width"], full["height"] = (max(64, side // 16 * 16) for side in picture.size)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world = None

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(data), "X-Content-Type-Options": "nosniff",
                            **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")

    def handle_any(self):
        if self.world.switches["down"]:
            self.close_connection = True
            return
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        try:
            if not self.page(url.path) and not self.session(url.path) and not self.route(url.path):
                raise Problem(404, f"there is no endpoint {url.path}")
        except Problem as problem:
            self.answer(problem.status, problem.body, "application/problem+json", **problem.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_DELETE = handle_any

    def page(self, path):
        file = PAGE / ("index.html" if path == "/" else path[1:])
        if self.command != "GET" or file.parent != PAGE or not file.is_file():
            return False
        self.answer(200, file.read_bytes(), TYPES[file.suffix], Content_Security_Policy=POLICY,
                    Referrer_Policy="no-referrer", Cache_Control="no-cache")
        return True

    def session(self, path):
        key = self.world.switches["key"]
        if path == "/api/session" and self.command == "POST":
            if self.body() != {"key": key}:
                raise Problem(401, "unknown API key", WWW_Authenticate="Bearer")
            self.send_response(204)
            self.send_header("Set-Cookie", "llm-dit-session=00ff; Path=/; HttpOnly; SameSite=Strict")
            self.end_headers()
            return True
        if path == "/health":
            return False
        if key and "llm-dit-session=00ff" not in self.headers.get("Cookie", ""):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            raise Problem(401, "an API key is required", WWW_Authenticate="Bearer")
        return False

    def route(self, path):
        for method, pattern, handler in ROUTES:
            if found := re.fullmatch(pattern, path):
                if method != self.command:
                    continue
                handler(self, *found.groups())
                return True
        return False

    def health(self):
        if self.world.switches["model"]:
            self.answer(200, {"status": "ok", "version": "0.1.0"})
        else:
            self.answer(503, {"status": "unavailable"})

    def model(self):
        if not self.world.switches["model"]:
            raise Problem(503, "no diffusion service can be reached", Retry_After=1)
        self.answer(200, {"model": "demo", "device": "cpu", "dtype": "f32", "version": "0.1.0", "defaults": DEFAULTS,
                          "limits": LIMITS, "encoders": self.world.switches["encoders"], "previews": True,
                          **self.world.switches["about"]})

    def list_templates(self):
        self.answer(200, {"templates": self.world.templates})

    def list_schedulers(self):
        self.answer(200, {"schedulers": SCHEDULERS})

    def format(self):
        body = self.body()
        check_fields(body, ENCODE)
        text, tokens = self.world.format(body)
        self.answer(200, {"formatted_prompt": text, "char_count": len(text), "token_count": sum(tokens.values()),
                          "tokens": tokens, "max_tokens": 512} | {name: body.get(name) for name in (
                              "prompt", "system_prompt", "thinking_content", "assistant_content", "enable_thinking",
                              "template")})

    def create_job(self):
        body = self.body()
        if self.world.switches["hang_up"]:
            raise ConnectionResetError
        self.world.requests.append({name: value for name, value in body.items() if name != "image"})
        if self.world.switches["busy"]:
            raise Problem(503, "the gateway is busy with 64 images; try again later", Retry_After=5)
        key = self.headers.get("Idempotency-Key")
        if key in self.world.keys:
            return self.answer(202, self.world.jobs[self.world.keys[key]].describe())
        job = Job(self.world, check(self.world, body))
        self.world.jobs[job.id] = job
        if key:
            self.world.keys[key] = job.id
        self.answer(202, job.describe(), Location=f"/api/jobs/{job.id}")

    def generate(self):
        """The plain way, for tests that want pictures at once."""
        body = check(self.world, self.body())
        job = Job(self.world, body)
        with self.world.lock:
            self.world.lock.wait_for(lambda: job.status != "running")
        self.answer(200, job.file, job.result["media_type"])

    def find_job(self, known):
        if known not in self.world.jobs:
            raise Problem(404, "there is no such job; old finished jobs are forgotten")
        return self.world.jobs[known]

    def get_job(self, known):
        self.answer(200, self.find_job(known).describe())

    def list_jobs(self):
        self.answer(200, {"jobs": [job.describe() for job in reversed(self.world.jobs.values())]})

    def delete_job(self, known):
        job = self.find_job(known)
        with self.world.lock:
            if job.status != "running":
                del self.world.jobs[known]
            job.cancelled = True
            self.world.lock.notify_all()
            self.world.lock.wait_for(lambda: job.status != "running")
        self.answer(200, job.describe())

    def job_image(self, known):
        job = self.find_job(known)
        if self.world.switches["lost_image"]:
            raise self.world.switches["lost_image"]
        if not job.file:
            raise Problem(409, "the image is not finished; /events reports when it is")
        self.answer(200, job.file, job.result["media_type"])

    def job_events(self, known):
        job = self.find_job(known)
        if self.world.switches["no_stream"]:
            raise self.world.switches["no_stream"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        self.wfile.write(b"retry: 20\n\n")
        told = int(self.headers.get("Last-Event-ID", -1))
        while True:
            with self.world.lock:
                self.world.lock.wait_for(lambda: self.world.switches["down"] or (job.events and job.events[-1][0] > told))
                if self.world.switches["down"]:
                    return
                news = [event for event in job.events if event[0] > told]
            for number, name, data in news:
                self.wfile.write(f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode())
                self.wfile.flush()
                told = number
                if name in ("result", "error") or self.world.switches["cut"]:
                    return

    def needs_history(self):
        if not self.world.switches["history"]:
            raise Problem(501, "this gateway has no history; it was started with --no-history")

    def entry(self, known):
        self.needs_history()
        if int(known) not in self.world.history:
            raise Problem(404, f"there is no image {known} in the history")
        return self.world.history[int(known)]

    def list_history(self):
        self.needs_history()
        limit, before = int(self.query.get("limit", [50])[0]), int(self.query.get("before", [2**62])[0])
        if not 1 <= limit <= 200:
            raise Problem(400, f"limit {limit} is out of range; use 1 to 200")
        entries = [one for known, one in sorted(self.world.history.items(), reverse=True) if known < before][:limit]
        self.answer(200, {"history": [told(one) for one in entries], "total": len(self.world.history)})

    def get_entry(self, known):
        self.answer(200, told(self.entry(known)))

    def entry_image(self, known):
        entry = self.entry(known)
        self.answer(200, entry["file"], entry["media_type"])

    def entry_thumbnail(self, known):
        image = Image.open(io.BytesIO(self.entry(known)["file"]))
        image.thumbnail((256, 256))
        self.answer(200, encode_image(image, "JPEG"), "image/jpeg")

    def delete_entry(self, known):
        self.entry(known)
        del self.world.history[int(known)]
        self.answer(200, {"deleted": int(known), "remaining": len(self.world.history)})

    def clear_history(self):
        self.needs_history()
        count = len(self.world.history)
        self.world.history.clear()
        self.answer(200, {"cleared": count})

    def list_loras(self):
        if not self.world.switches["loras"]:
            raise Problem(501, "this service was started without --loras-dir")
        self.answer(200, {"loras": LORAS, "active": [one for one in LORAS if one["active"]]})


def told(entry):
    return {name: value for name, value in entry.items() if name != "file"}


JOB, ID = r"/api/jobs/([0-9a-f-]+)", r"/api/history/(\d+)"
ROUTES = [
    ("GET", "/health", Handler.health), ("GET", "/api/model", Handler.model),
    ("GET", "/api/templates", Handler.list_templates), ("GET", "/api/schedulers", Handler.list_schedulers),
    ("POST", "/api/format-prompt", Handler.format), ("POST", "/api/generate", Handler.generate), ("POST", "/api/jobs", Handler.create_job),
    ("GET", "/api/jobs", Handler.list_jobs), ("GET", JOB, Handler.get_job), ("DELETE", JOB, Handler.delete_job),
    ("GET", JOB + "/image", Handler.job_image), ("GET", JOB + "/events", Handler.job_events),
    ("GET", "/api/history", Handler.list_history), ("DELETE", "/api/history", Handler.clear_history),
    ("GET", ID, Handler.get_entry), ("DELETE", ID, Handler.delete_entry), ("GET", ID + "/image", Handler.entry_image),
    ("GET", ID + "/thumbnail", Handler.entry_thumbnail), ("GET", "/api/loras", Handler.list_loras),
]


def serve(port=0, pace=None):
    """Starts the fake on the loopback. Returns the server; its port is `server_address[1]`."""
    handler = type("BoundHandler", (Handler,), {"world": World(pace)})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    server = serve(int(sys.argv[1]) if len(sys.argv) > 1 else 7860, float(sys.argv[2]) if len(sys.argv) > 2 else 0.4)
    print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
    threading.Event().wait()
