"""Fused kernels against transformers' own layers, on a GPU: run where there is one, skipped elsewhere."""

import copy

import pytest
import torch

from alignment.ppo.kernels import FAMILIES, fuse_layers
from tests.families import adapted, random_model

pytest.importorskip("liger_kernel")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_the_plain_layers(family):
    plain = adapted(random_model(family)).cuda()
    ids = torch.arange(2, 26, device="cuda").view(3, 8)

    def logits_and_gradients(model):
        learned = [p for p in model.parameters() if p.requires_grad]
        logits = model(ids, use_cache=False).logits
        return logits.detach(), torch.autograd.grad((logits**2).mean(), learned)

    expected = logits_and_gradients(plain)
    fused = copy.deepcopy(plain)
    kinds = {type(m).__name__ for m in fused.modules()}
    fuse_layers([fused.get_base_model()])
    assert not any("forward" in vars(m) and hasattr(m.forward, "func") for m in fused.modules()), (
        "not Liger's"
    )
    assert {m._get_name() for m in fused.modules()} - kinds, "nothing was replaced"
    found = logits_and_gradients(fused)
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
