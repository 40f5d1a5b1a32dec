"""The losses: L1, and WGAN-GP (Gulrajani et al., arXiv 1704.00028) as the paper uses it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Weight of the WGAN term in the generator's loss (paper).
ADVERSARIAL_WEIGHT = 0.001
#: Weight of the gradient penalty: WGAN-GP's own; the paper's is not known.
PENALTY_WEIGHT = 10.0


def l1_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference of two batches ``(N, 1, D, H, W)``."""
    return (sr - hr).abs().mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """Mean over the batch of ``(|grad D(x)| - 1)^2`` at ``x = share * real + (1 - share) * fake``.

    Args:
        real, fake: ``(N, 1, D, H, W)``; no gradient flows back into them.
        share: ``(N,)`` in [0, 1], drawn anew each step.
    """
    share = share.view(-1, 1, 1, 1, 1)
    x = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)  # (N, 1, D, H, W)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def discriminator_loss(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    share: Tensor,
    penalty_weight: float = PENALTY_WEIGHT,
    penalised: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """WGAN-GP's loss ``D(fake) - D(real) + weight * penalty``, and its parts; weight 0 is plain WGAN.

    ``wasserstein`` is the discriminator's estimate ``D(real) - D(fake)`` of the distance between both.

    Args:
        real, fake, share: as for `gradient_penalty`.
        penalised: the same discriminator, called in another way for the penalty, whose gradient is taken
            within the loss (`sprl_utils.training.without_wrapper`); None: as for the scores.
    """
    # Two calls rather than one on the joined batch: same scores (there is no BatchNorm), less memory at once.
    wasserstein = discriminator(real).mean() - discriminator(fake.detach()).mean()
    penalty = torch.zeros(())
    if penalty_weight:
        penalty = gradient_penalty(penalised or discriminator, real, fake, share)
    loss = penalty_weight * penalty - wasserstein
    return loss, {"wasserstein": wasserstein.detach(), "penalty": penalty.detach()}


def generator_loss(
    discriminator: nn.Module, sr: Tensor, hr: Tensor, adversarial_weight: float = ADVERSARIAL_WEIGHT
) -> tuple[Tensor, dict[str, Tensor]]:
    """The paper's ``L1 + 0.001 * (-D(SR))``, and its parts."""
    l1, adversarial = l1_loss(sr, hr), -discriminator(sr).mean()
    return l1 + adversarial_weight * adversarial, {"l1": l1.detach(), "adversarial": adversarial.detach()}
