"""How a campaign's surrogate learns from its labels: the YAML section ``surrogate:``. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SurrogateSettings(BaseModel):
    """Fine-tuning on the campaign's labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained: str | None = Field(default=None, description="folder of the ensemble to start from; null: the one shipped with the package")
    start: Literal["warm", "cold"] = Field(
        default="cold",
        description="cold: every round starts from the pretrained ensemble and sees all labels; warm: from the last round's ensemble",
    )
    experience: bool | Path = Field(
        default=True,
        description="what screened campaigns begin with that earlier ones with the same potential have measured; true: what the package "
        "ships, a file: a table by python -m al_crystal.experience, false: nothing",
    )
    epochs: int = Field(default=30, ge=0, description="passes over the labels; 0 leaves the ensemble as it is")
    batch_size: int = Field(default=32, ge=1, description="labelled rows per step")
    replay_share: float = Field(default=0.75, ge=0, lt=1, description="share of replay rows in a step; they hold what was learned before")
    replay_weight: float = Field(default=10.0, ge=0, description="weight of the replay loss against the labels' loss")
    strain_weight: float = Field(default=0.2, ge=0, description="weight of what proposed cells cost above relaxed ones, in log energies")
    learning_rate: float = Field(default=3e-4, gt=0, description="rate of AdamW, falling to 0 along half a cosine")
    weight_decay: float = Field(default=0.01, ge=0, description="decoupled weight decay")
    unknown_noise_energy: float = Field(default=0.05, gt=0, description="eV/atom; error of a potential's energy that states none")
    unknown_noise_gap: float = Field(default=0.3, gt=0, description="eV; error of a non-reference gap that states none")
    prior_strength: float = Field(default=20.0, ge=0, description="how many labels the pretrained calibration counts for")
