"""Golden schedulers: each oracle over a fixed sequence of model outputs, and with the demo model."""

import json
from pathlib import Path

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

import picture_goldens
from common import generator, write

STEPS = (1, 2, 3, 4, 8, 9, 20, 50)
SHIFTS = (3.0, 6.0, 1.0)
SHAPE = (1, 16, 1, 2)
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2, final_sigmas_type="zero",
            lower_order_final=True)


def euler(n: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    """As ZImagePipeline sets it up: linspace(1, 1/n, n), shifted, then 0."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=False)
    scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(n))
    return scheduler


def heun(n: int, shift: float) -> FlowMatchHeunDiscreteScheduler:
    """diffusers' Heun on Euler's sigmas. Its own grid ends at sigma_min, whose corrector would divide by 0 were that
    0; given this grid, each inner sigma twice and the 0 once, it makes 2n - 1 steps and its last is Euler's."""
    sigmas = euler(n, shift).sigmas
    scheduler = FlowMatchHeunDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(n)
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.timesteps = 1000 * torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2)])
    scheduler.set_begin_index(0)
    return scheduler


def dpm_solver(n: int, shift: float) -> DPMSolverMultistepScheduler:
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_type="midpoint", flow_shift=shift, **FLOW)
    scheduler.set_timesteps(n)
    scheduler.set_begin_index(0)  # two whole timesteps can be the same, so they are no index
    return scheduler


def unipc(n: int, shift: float) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(solver_type="bh2", flow_shift=shift, **FLOW)
    scheduler.set_timesteps(n)
    scheduler.set_begin_index(0)
    return scheduler


ORACLES = {"flow_euler": euler, "flow_heun": heun, "dpm_solver": dpm_solver, "unipc": unipc}


@torch.no_grad()
def schedulers(out: Path, seed: int) -> None:
    """Write schedulers.safetensors: one start, one sequence of outputs, and where they lead every oracle."""
    g = generator(seed * 10 + 8)
    start = torch.randn(SHAPE, generator=g)
    outputs = torch.randn((2 * max(STEPS) - 1, *SHAPE), generator=g)
    tensors = {"start": start, "outputs": outputs}
    for name, make in ORACLES.items():
        for shift in SHIFTS:
            for n in STEPS:
                scheduler = make(n, shift)
                key = f"{name}_shift{shift:g}_{n}"
                # Where each forward happens, in order: Heun's second is where its first has led to.
                tensors[f"sigmas_{key}"] = scheduler.sigmas[:-1].clone()
                latents, way = start, []
                for t, output in zip(scheduler.timesteps, outputs):
                    latents = scheduler.step(output, t, latents, return_dict=False)[0]
                    way.append(latents)
                tensors[f"latents_{key}"] = torch.stack(way)
    write(out / "schedulers.safetensors", tensors)


class Exact:
    """An oracle in the place of a pipeline's scheduler, with timesteps of its sigmas as they are.

    The oracles' own `timesteps` are cut to whole thousandths, which the model would then see."""

    order = 1

    def __init__(self, oracle):
        self.oracle, self.config, self.timesteps = oracle, oracle.config, 1000 * oracle.sigmas[:-1]

    def set_timesteps(self, sigmas=None, device=None, mu=None):
        """The sigmas are the oracle's own, and were set when it was made."""

    def set_begin_index(self, index):
        self.oracle.set_begin_index(index)

    def step(self, output, t, latents, return_dict):
        return self.oracle.step(output, t, latents, return_dict=return_dict)


@torch.no_grad()
def pictures(out: Path, model: Path, seed: int) -> None:
    """Write pictures/scheduler_*.png and pictures/schedulers.json: the demo model with every oracle but Euler's."""
    out = out / "pictures"
    out.mkdir(parents=True, exist_ok=True)
    pipe, plan = picture_goldens.load(model), []
    euler_config, both = pipe.scheduler.config, picture_goldens.cases(seed)
    for name in list(ORACLES)[1:]:
        # One without guidance, one with it.
        for case, steps in ((both[0], 8), (next(c for c in both if c["guidance_scale"] > 0 and c["width"] > 256), 5)):
            kind = "cfg" if case["guidance_scale"] else "plain"
            case = case | dict(file=f"scheduler_{name}_{kind}.png", steps=steps, scheduler=name)
            pipe.scheduler = Exact(ORACLES[name](steps, euler_config.shift))
            picture_goldens.draw(pipe, case)[0].save(out / case["file"], optimize=True)
            print(case["file"], case["prompt"], flush=True)
            plan.append(case)
    (out / "schedulers.json").write_text(json.dumps({"pictures": plan}, indent=1) + "\n")
