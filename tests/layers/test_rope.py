"""The angles of positions."""

import pytest
import torch

from model.config import RopeConfig
from model.layers.rope import Rope


@pytest.mark.parametrize("rope", [RopeConfig(), RopeConfig(kind="dynamic", factor=2.0, original_max_position=64)])
def test_both_of_a_pair_turn_by_the_same_angle_to_opposite_sides(rope):
    positions = torch.arange(0, 131_072, 7)
    rotation = Rope(rope, 64, torch.device("cpu")).rotation(positions, torch.float32)
    first_cos, second_cos = rotation.cos_T1D.chunk(2, dim=-1)
    first_sin, second_sin = rotation.sin_T1D.chunk(2, dim=-1)
    assert first_cos.equal(second_cos)
    assert first_sin.equal(-second_sin)
