import pytest
import torch
from torch import nn

from sprl_utils import losses


class Linear(nn.Module):
    """D(x) = <w, x>: its gradient is w everywhere."""

    def __init__(self, norm: float, size: int = 6):
        super().__init__()
        w = torch.randn(size**3)
        self.w = nn.Parameter(norm * w / w.norm())

    def forward(self, x):
        return x.flatten(1) @ self.w


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2: its gradient at x is a x."""

    def __init__(self, a: float):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x):
        return self.a * x.flatten(1).square().sum(1) / 2


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_penalty_of_a_linear_discriminator_is_its_slope_minus_one_squared(norm):
    real, fake, share = torch.randn(2, 1, 6, 6, 6), torch.randn(2, 1, 6, 6, 6), torch.rand(2)
    penalty = losses.gradient_penalty(Linear(norm), real, fake, share)
    torch.testing.assert_close(penalty.item(), (norm - 1) ** 2, atol=1e-5, rtol=1e-4)


def test_penalty_is_taken_at_each_samples_own_interpolate():
    real, fake, share = torch.randn(2, 1, 4, 4, 4), torch.randn(2, 1, 4, 4, 4), torch.tensor([0.25, 1.0])
    x = torch.stack([0.25 * real[0] + 0.75 * fake[0], real[1]])
    expected = (0.3 * x.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(losses.gradient_penalty(Quadratic(0.3), real, fake, share), expected)


def test_penalty_trains_the_discriminator_towards_slope_one():
    """d/da of mean (a |x| - 1)^2 is mean 2 |x| (a |x| - 1)."""
    discriminator = Quadratic(0.3)
    real = fake = torch.randn(2, 1, 4, 4, 4)
    losses.gradient_penalty(discriminator, real, fake, torch.rand(2)).backward()
    n = real.flatten(1).norm(dim=1)
    torch.testing.assert_close(discriminator.a.grad, (2 * n * (0.3 * n - 1)).mean())


def test_discriminator_loss_is_wgan_gp_and_leaves_the_generator_alone():
    discriminator = Linear(2.0)
    real, fake = torch.randn(2, 1, 6, 6, 6), torch.randn(2, 1, 6, 6, 6, requires_grad=True)
    loss, parts = losses.discriminator_loss(discriminator, real, fake, torch.rand(2))
    expected = discriminator(fake).mean() - discriminator(real).mean() + 10 * (2 - 1) ** 2
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts["penalty"].item(), 1.0, atol=1e-5, rtol=1e-4)
    loss.backward()
    assert fake.grad is None


def test_generator_loss_is_l1_minus_a_thousandth_of_the_score():
    discriminator = Linear(2.0)
    sr, hr = torch.rand(2, 1, 6, 6, 6), torch.rand(2, 1, 6, 6, 6)
    loss, _ = losses.generator_loss(discriminator, sr, hr)
    torch.testing.assert_close(loss, (sr - hr).abs().mean() - 0.001 * discriminator(sr).mean())
