"""LSQ against torch's own learnable fake quantization: the same values, and the same gradients to input and step."""

import pytest
import torch

from stq.quantizers.lsq import LSQActivation, LSQWeight

STEP = 0.25  # a power of two, so that both divide alike


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["non-negative", "signed", "weight"])
def test_values_and_gradients_are_those_of_torch(bits, kind):
    torch.manual_seed(bits)
    if kind == "weight":
        quantizer = LSQWeight(bits, channels=6)
    else:
        quantizer = LSQActivation(bits, channels=5, signed=kind == "signed")
    low, high = quantizer.low, quantizer.high
    # torch lets the gradient pass up to half a step beyond the clip, LSQ up to the clip: there are no inputs in between
    codes = torch.randint(low - 3, high + 4, (6, 5, 4, 4)).float()
    codes += torch.where(codes == low, torch.rand_like(codes), 0.8 * torch.rand_like(codes) - 0.4) * 0.45
    codes = torch.where((codes > high) & (codes < high + 1), codes - 1.0, codes)
    x = STEP * torch.where((codes < low) & (codes > low - 1), codes + 1.0, codes)
    quantizer.calibrate(x)
    quantizer.set_positive("step", torch.tensor(STEP))
    ours, theirs, wanted = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn_like(x)
    (quantizer.train()(ours) * wanted).sum().backward()
    count = x.numel() if kind == "weight" else x[:1].numel()
    step, point = torch.tensor([STEP], requires_grad=True), torch.zeros(1, requires_grad=True)
    factor = 1 / (count * high) ** 0.5
    y = torch._fake_quantize_learnable_per_tensor_affine(theirs, step, point, low, high, factor)
    (y * wanted).sum().backward()
    assert torch.equal(quantizer(x), y)
    assert torch.equal(ours.grad, theirs.grad)
    assert 0.05 < (ours.grad == 0).float().mean() < 0.9 or bits == 8  # some are clipped, some are not
    assert torch.allclose(quantizer.raw_step.grad, step.grad[0], rtol=1e-4)
