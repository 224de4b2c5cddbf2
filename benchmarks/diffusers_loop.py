"""Training of a DiT as in diffusers' examples: their model, scheduler, moving average and loop."""

import time
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measuring import synchronise
from benchmarks.rivals import DiffusersDiT, forward_flops
from ulzoo.runtime.devices import autocast


def train_dit(
    latent: tuple[int, ...], flops: int, batch: int, steps: int, rows: int, compiled: bool, device: torch.device
) -> dict[str, Any]:
    """Images per second of `steps` steps on latents on the device, counted like the rows of the trainer's log.

    Args:
        latent: (channels, side, side).
        flops: forward FLOPs of one latent; the DiT with the nearest number is trained.
        rows: number of rows that the steps are divided into; the first one does not count.
    """
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    channels, side, _ = latent
    with device:
        model = DiffusersDiT(channels, side, flops).train()
        latents, labels = torch.randn(batch, *latent), torch.zeros(batch, dtype=torch.long)
    network = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    average, schedule = EMAModel(model.parameters(), decay=0.9999), DDPMScheduler(num_train_timesteps=1000)
    every, speeds = max(1, steps // rows), []
    for step in range(steps):
        if step % every == 0:
            synchronise(device)
            started = time.perf_counter()
        noise = torch.randn_like(latents)
        times = torch.randint(schedule.config.num_train_timesteps, (batch,), device=device)
        noisy = schedule.add_noise(latents, noise, times)
        with autocast("bf16", device):
            predicted = network(noisy, times, labels)
        loss = F.mse_loss(predicted.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())
        loss.detach().item()  # logged at every step
        if step % every == every - 1:
            synchronise(device)
            speeds.append(batch * every / (time.perf_counter() - started))
    shape = model.network.config
    return {
        "batch": batch,
        "images_per_second": median(speeds[1:] or speeds),
        "forward_flops": forward_flops(model, latents[:1], times[:1], labels[:1]),
        "width": shape.num_attention_heads * shape.attention_head_dim,
        "depth": shape.num_layers,
    }
