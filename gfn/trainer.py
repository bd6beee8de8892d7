"""Training a policy by Trajectory Balance: on-policy trajectories, replay and known crystals in one batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from al_crystal.seeds import rng, torch_rng
from gfn.policy import Policy
from gfn.replay import ReplayBuffer
from gfn.sampler import Sampler
from gfn.settings import SamplerSettings
from gfn.trajectories import Trajectories, retrace, roll_out
from gfn.trajectory_balance import loss

if TYPE_CHECKING:
    from al_crystal.crystal import CrystalBatch
    from gfn.constraints import Restriction
    from gfn.environment import CrystalEnvironment

LogReward = Callable[["CrystalBatch"], torch.Tensor]
Progress = Callable[[dict[str, float]], None]


class Trainer:
    """Trains a policy on a reward; can be called again to go on, with the same or another reward.

    Attributes:
        history: one record an iteration: ``iteration, loss, log_z, mean_log_reward`` and ``bad_rewards`` (NaN or infinite, floored).
        skipped: sentences about known crystals that lie outside the space.
    """

    def __init__(self, environment: CrystalEnvironment, settings: SamplerSettings, seed: int) -> None:
        self.environment, self.settings, self.seed = environment, settings, seed
        self.policy = Policy(environment, settings, torch_rng(seed, 0, "gfn/policy"))
        weights = [parameter for name, parameter in self.policy.named_parameters() if name != "log_z_weights"]
        self._weights = weights
        self.optimiser = torch.optim.Adam(
            [
                {"params": weights, "initial_lr": settings.learning_rate},
                {"params": [self.policy.log_z_weights], "initial_lr": settings.learning_rate_log_z},
            ],
            fused=True,
        )
        self.replay = ReplayBuffer(settings.replay_capacity, settings.replay_distance, len(environment.elements))
        self.iteration = 0
        self.history: list[dict[str, float]] = []
        self.skipped: dict[str, int] = {}
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def sampler(self) -> Sampler:
        """A sampler of the policy as it is now."""
        return Sampler(self.environment, self.policy)

    def inside(self, restriction: Restriction) -> Trainer:
        """A trainer that starts from this one's weights inside a restriction (finetuning); this one stays as it is."""
        trainer = Trainer(self.environment.restricted(restriction), self.settings, self.seed)
        trainer.policy.load_state_dict(self.policy.state_dict())
        return trainer

    def use_dataset(self, crystals: CrystalBatch) -> int:
        """Known crystals to retrace trajectories from (``dataset_size`` an iteration).

        Those outside the space are left out; :attr:`skipped` counts them by the constraint they violate. Returns how many remain.
        """
        inside, self.skipped = [], {}
        for row, crystal in enumerate(crystals):
            sentences = self.environment.contains(crystal)
            if sentences:
                reason = sentences[0].split(":")[0]
                self.skipped[reason] = self.skipped.get(reason, 0) + 1
            else:
                inside.append(row)
        self._known = self.environment.states(crystals[torch.tensor(inside, dtype=torch.int64)]) if inside else None
        return len(inside)

    def train(self, log_reward: LogReward, iterations: int, on_progress: Progress | None = None) -> list[dict[str, float]]:
        """Train for some iterations and return their records.

        ``log_reward`` maps a batch of crystals to natural logarithms of rewards ``(n,)``. NaN and infinite values count as the floor and
        are reported in the record as ``bad_rewards``.
        """
        records = []
        for _ in range(iterations):
            record = self._iterate(log_reward)
            self.history.append(record)
            records.append(record)
            if on_progress is not None:
                on_progress(record)
        return records

    def _iterate(self, log_reward: LogReward) -> dict[str, float]:
        random = rng(self.seed, self.iteration, "gfn/train")
        trajectories = self._collect(random)
        batch = self.environment.batch(trajectories.groups, trajectories.counts, trajectories.cube)
        rewards, bad = self._rewards(log_reward, batch)
        if self.settings.replay_size:
            fresh = slice(0, self.settings.batch_size)
            self.replay.add(trajectories.groups[fresh], trajectories.counts[fresh], trajectories.cube[fresh], rewards.numpy()[fresh])
        residuals = loss(self.environment, self.policy, trajectories, rewards / self.settings.temperature)
        self.policy.zero_grad(set_to_none=True)
        mean = residuals.mean()
        mean.backward()
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        if norm > self.settings.gradient_clipping:  # tested first: scaling by 1 would cost a pass over all weights
            torch.nn.utils.clip_grads_with_norm_(self._weights, self.settings.gradient_clipping, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * self.settings.learning_rate_factor(self.iteration)
        self.optimiser.step()
        self.iteration += 1
        return {
            "iteration": self.iteration,
            "loss": float(mean.detach()),
            "log_z": float(self.policy.log_z.detach()),
            "mean_log_reward": float(rewards[: self.settings.batch_size].mean()),
            "bad_rewards": bad,
        }

    def _collect(self, random: np.random.Generator) -> Trajectories:
        settings = self.settings
        parts = [roll_out(self.environment, self.policy, settings.batch_size, random, exploration=settings.exploration)]
        if settings.replay_size and len(self.replay):
            chosen = self.replay.draw(settings.replay_size, random)
            states = (self.replay.groups[chosen], self.replay.counts[chosen], self.replay.cube[chosen])
            parts.append(retrace(self.environment, self.policy, *states, random))
        if settings.dataset_size and self._known is not None:
            chosen = random.integers(len(self._known[0]), size=settings.dataset_size)
            groups, counts, cube = (array[chosen] for array in self._known)
            parts.append(retrace(self.environment, self.policy, groups, counts, cube, random))
        return Trajectories.join(parts) if len(parts) > 1 else parts[0]

    def _rewards(self, log_reward: LogReward, batch: CrystalBatch) -> tuple[torch.Tensor, int]:
        with torch.no_grad():
            rewards = log_reward(batch).detach().float().reshape(-1)
        if len(rewards) != len(batch):
            raise ValueError(f"the reward gave {len(rewards)} values for {len(batch)} crystals")
        bad = ~torch.isfinite(rewards) & (rewards != -torch.inf)
        floor = self.settings.reward_floor
        return torch.where(torch.isfinite(rewards), rewards, floor).clamp_min(floor), int(bad.sum())

    def save(self, path: str | Path) -> None:
        """Write a folder: ``policy.safetensors`` (weights, optimiser, replay) and ``trainer.json`` (settings, space, seed, history)."""
        from safetensors.torch import save_file

        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"policy/{name}": tensor for name, tensor in self.policy.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
        tensors |= {f"replay/{name}": torch.from_numpy(array) for name, array in self.replay.state().items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "policy.safetensors")
        record = {
            "space": json.loads(self.environment.space.model_dump_json()),
            "settings": json.loads(self.settings.model_dump_json()),
            "seed": self.seed,
            "iteration": self.iteration,
            "history": self.history,
        }
        (folder / "trainer.json").write_text(json.dumps(record))

    @classmethod
    def load(cls, path: str | Path, environment: CrystalEnvironment) -> Trainer:
        """A trainer that goes on where :meth:`save` was called.

        Raises:
            ValueError: when the checkpoint belongs to another space (the message names the fields that differ), or cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(path)
        record: dict[str, Any] = json.loads((folder / "trainer.json").read_text())
        ours = json.loads(environment.space.model_dump_json())
        different = [
            f"{name}: {record['space'].get(name)} there, {ours[name]} here" for name in ours if record["space"].get(name) != ours[name]
        ]
        if different:
            raise ValueError(f"the checkpoint {folder} belongs to another space. " + "; ".join(different))
        trainer = cls(environment, SamplerSettings.model_validate(record["settings"]), record["seed"])
        try:
            tensors = load_file(folder / "policy.safetensors")
            trainer.policy.load_state_dict(_part(tensors, "policy"))
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"the weights {folder / 'policy.safetensors'} are absent or broken ({error}): train again") from error
        except RuntimeError as error:
            raise ValueError(f"the checkpoint {folder} was written by another version of the policy: train again. {error}") from error
        trainer._restore_optimiser(_part(tensors, "optimiser"))
        trainer.replay.restore({name: tensor.numpy() for name, tensor in _part(tensors, "replay").items()})
        trainer.iteration, trainer.history = record["iteration"], record["history"]
        return trainer

    def _restore_optimiser(self, tensors: dict[str, torch.Tensor]) -> None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
