"""Rotary scalings as config.json writes them: rope_theta and rope_scaling, or rope_parameters since transformers 5."""

import math

from model.config import RopeConfig
from model.errors import BadConfig, UnsupportedModel
from model.families.fields import Fields

MAX_FACTOR = 4096.0
MAX_LENGTH = 2**31 - 1


def read_rope(config: Fields, head_dim: int, max_position: int) -> RopeConfig:
    """The rope of a config. Raises UnsupportedModel for a kind or a partial rotation that we don't have."""
    scaling = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    _refuse_partial_rotation(config, scaling)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    theta_at = scaling if scaling.has("rope_theta") else config
    theta = theta_at.number("rope_theta", 1.0, 1e12, 10_000.0)
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(kind="linear", theta=theta, factor=_factor(scaling))
    if kind == "dynamic":
        if head_dim <= 2:
            raise BadConfig(f"{config.where}: dynamic rope needs a head_dim above 2")
        return RopeConfig(kind="dynamic", theta=theta, factor=_factor(scaling), original_max_position=max_position)
    if kind == "llama3":
        return _llama3(scaling, theta, _original_length(config, scaling, max_position))
    if kind == "yarn":
        return _yarn(scaling, theta, _original_length(config, scaling, max_position), max_position)
    raise UnsupportedModel(
        f"{scaling.where}: rope_type {kind[:40]!r} is not supported; default, linear, dynamic, llama3 and yarn are"
    )


def _refuse_partial_rotation(config: Fields, scaling: Fields) -> None:
    for fields in (config, scaling):
        if fields.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
            raise UnsupportedModel(f"{fields.where}: partial_rotary_factor below 1 is not supported")


def _factor(scaling: Fields) -> float:
    return scaling.number("factor", 1.0, MAX_FACTOR)


def _original_length(config: Fields, scaling: Fields, max_position: int) -> int:
    name = "original_max_position_embeddings"
    place = config if config.has(name) else scaling
    return place.integer(name, 1, MAX_LENGTH, max_position)


def _llama3(scaling: Fields, theta: float, original: int) -> RopeConfig:
    low = scaling.number("low_freq_factor", 1e-3, 1e6)
    high = scaling.number("high_freq_factor", 1e-3, 1e6)
    if high <= low:
        raise BadConfig(f"{scaling.where}: high_freq_factor {high:g} must be above low_freq_factor {low:g}")
    return RopeConfig(
        kind="llama3",
        theta=theta,
        factor=_factor(scaling),
        original_max_position=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(scaling: Fields, theta: float, original: int, max_position: int) -> RopeConfig:
    # Some checkpoints leave the factor to be read off the two lengths.
    factor = scaling.number("factor", 1.0, MAX_FACTOR, max(1.0, max_position / original))
    return RopeConfig(
        kind="yarn",
        theta=theta,
        factor=factor,
        original_max_position=original,
        beta_fast=scaling.number("beta_fast", 1e-3, 1e6, 32.0),
        beta_slow=scaling.number("beta_slow", 1e-3, 1e6, 1.0),
        truncate=scaling.flag("truncate", True),
        attention_factor=_yarn_attention_factor(scaling, factor),
    )


def _yarn_attention_factor(scaling: Fields, factor: float) -> float:
    """0.1 ln(factor) + 1 (Peng et al. 2023, eq. 22), unless the config gives it or two scales for its parts."""
    if scaling.has("attention_factor"):
        return scaling.number("attention_factor", 1e-3, 1e3)
    scale = scaling.number("mscale", 0.0, 1e3, 0.0)
    scale_all_dim = scaling.number("mscale_all_dim", 0.0, 1e3, 0.0)
    log_factor = 0.1 * math.log(factor)
    if scale and scale_all_dim:
        return (scale * log_factor + 1.0) / (scale_all_dim * log_factor + 1.0)
    return log_factor + 1.0
