from collections.abc import Iterator

import pytest
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tensor is without contents, on any device; reading a value raises."""
    # By default tensors of one element keep their value, and moving them to the GPU is tried in earnest.
    monkeypatch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0)
    with FakeTensorMode():
        yield
