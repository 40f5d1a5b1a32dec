# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises on the GAN: the gradient penalty and the schedule
#
# You compute the penalty of WGAN-GP by hand, see what it asks of a linear discriminator, and count how
# often the paper's schedule updates the generator.
#
# **Follows** notebook `03_train_gan`. **Exercises** 6 and 7, 10 points, about 60 minutes; every cell runs
# in seconds.
#
# **How it works.** Replace each line `raise NotImplementedError()` with your code. The cell below it tests
# your code, and your teacher's grader runs further tests of the same kind with other numbers. A passed cell
# prints nothing. A picture fails until the functions that it draws are written. Hints unfold with a click.
# Before you hand in, choose *Kernel, Restart Kernel and Run All Cells*.

# %% nbgrader={"grade": false, "grade_id": "gan_setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import torch

from sprl_utils import losses
from sprl_utils.networks import Discriminator
from sprl_utils.training import gan_schedule

_ = torch.manual_seed(0)

# %% [markdown]
# ## Exercise 6: The gradient penalty
#
# WGAN-GP asks the discriminator $D$ to have a gradient of length 1. It adds to the loss of $D$, with weight
# 10,
#
# $$\left(\lVert \nabla_{\hat x} D(\hat x) \rVert_2 - 1\right)^2, \qquad
# \hat x = \epsilon\, \mathrm{real} + (1 - \epsilon)\, \mathrm{fake},$$
#
# averaged over the batch. Each sample has its own $\epsilon$ between 0 and 1, and its own gradient.
#
# ### 6a. A case with a closed form (1 point)
#
# The discriminator $D(x) = \langle w, x \rangle = \sum_v w_v x_v$ is linear. Write `linear_penalty(w)`: its
# penalty, without autograd, for a tensor `w` of any shape.
#
# <details><summary>Hint</summary>
#
# What is the gradient of $\langle w, x \rangle$ with respect to $x$? It is the same at every $x$, so
# $\epsilon$, real and fake do not matter.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "linear_penalty", "locked": false, "schema_version": 3, "solution": true, "task": false}
def linear_penalty(w):
    """Gradient penalty of D(x) = <w, x>, a number or a tensor of one element."""
    ### BEGIN SOLUTION
    return (torch.sqrt((w**2).sum()) - 1) ** 2
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e6a", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert np.isclose(float(linear_penalty(torch.tensor([3.0, 4.0]))), 16)
### BEGIN HIDDEN TESTS
assert np.isclose(float(linear_penalty(torch.tensor([0.6, 0.8]))), 0, atol=1e-6)
assert np.isclose(float(linear_penalty(torch.zeros(5))), 1)
assert np.isclose(float(linear_penalty(torch.full((1, 2, 3, 3), -0.5))), (np.sqrt(4.5) - 1) ** 2)
### END HIDDEN TESTS

# %% [markdown]
# ### 6b. By autograd (2 points)
#
# Write `penalty(discriminator, real, fake, share)` for any discriminator. `real` and `fake` have the shape
# `(N, 1, D, H, W)`, `share` has the $N$ numbers $\epsilon$, and `discriminator` returns one score per
# sample. Training has to be able to follow the penalty: `penalty(...).backward()` must reach the
# discriminator's weights. Do not use `losses`.
#
# <details><summary>Hint 1: one share per sample</summary>
#
# `share.view(-1, 1, 1, 1, 1)` meets the samples along the first axis.
#
# </details>
#
# <details><summary>Hint 2: the gradient</summary>
#
# The mixed samples need `requires_grad_(True)`. The sum of all scores has the gradient of each sample's own
# score with respect to that sample: `torch.autograd.grad(scores.sum(), mixed, create_graph=True)` returns a
# tuple of one tensor. Without `create_graph=True` the penalty is a number that training cannot follow.
#
# </details>
#
# <details><summary>Hint 3: one length per sample</summary>
#
# `gradient.flatten(1)` has one row per sample, and `.norm(dim=1)` one length per row. A length over the
# whole batch is another number.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "penalty", "locked": false, "schema_version": 3, "solution": true, "task": false}
def penalty(discriminator, real, fake, share):
    """Mean over the batch of (length of the gradient - 1)^2 at share * real + (1 - share) * fake."""
    ### BEGIN SOLUTION
    share = share.view(-1, 1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e6b", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
w = torch.randn(1, 1, 4, 4, 4)
real, fake, share = torch.randn(3, 1, 4, 4, 4), torch.randn(3, 1, 4, 4, 4), torch.rand(3)
linear = (w.norm() - 1) ** 2
found = penalty(lambda x: (w * x).flatten(1).sum(dim=1), real, fake, share)
assert torch.isclose(found, linear), "a linear discriminator has the closed form of 6a"


### BEGIN HIDDEN TESTS
def curved(x):
    """A discriminator whose gradient is x itself."""
    return (x**2).flatten(1).sum(dim=1) / 2


for real, fake, share in [
    (torch.randn(2, 1, 3, 4, 5), torch.randn(2, 1, 3, 4, 5), torch.tensor([0.0, 1.0])),
    (3 * torch.randn(4, 1, 3, 3, 3), torch.randn(4, 1, 3, 3, 3), torch.rand(4)),
]:
    mixed = torch.stack([s * r + (1 - s) * f for s, r, f in zip(share, real, fake, strict=True)])
    expected = sum((sample.norm() - 1) ** 2 for sample in mixed) / len(mixed)
    assert torch.isclose(penalty(curved, real, fake, share), expected, rtol=1e-4)
network = Discriminator(16, width=4)
real, fake, share = torch.rand(2, 1, 16, 16, 16), torch.rand(2, 1, 16, 16, 16), torch.rand(2)
gradients = []
for made_by in (penalty, losses.gradient_penalty):
    network.zero_grad()
    value = made_by(network, real, fake, share)
    value.backward()
    gradients.append([value.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
assert len(gradients[0]) == len(gradients[1]) > 1, "training cannot follow the penalty"
for mine, package in zip(*gradients, strict=True):
    assert torch.allclose(mine, package, rtol=1e-3, atol=1e-5), "the package has another penalty"
### END HIDDEN TESTS

# %% [markdown]
# ### 6c. What it does to D (2 points)
#
# Let $D(x) = \langle w, x \rangle$ meet one real and one fake image. Its loss is
#
# $$\mathcal{L}_D(w) = \langle w, \mathrm{fake} \rangle - \langle w, \mathrm{real} \rangle +
# \lambda \left(\lVert w \rVert - 1\right)^2 .$$
#
# Write `best_linear(real, fake, weight)`: the $w$ with the smallest loss, in closed form, for the weight
# $\lambda$ and two different images. Is its gradient of length 1?
#
# <details><summary>Hint 1: direction</summary>
#
# For a given length of $w$ the first two terms are smallest when $w$ points from fake to real.
#
# </details>
#
# <details><summary>Hint 2: length</summary>
#
# With $d = \lVert \mathrm{real} - \mathrm{fake} \rVert$ and $w$ of length $s$ in that direction, the loss
# is $-s d + \lambda (s - 1)^2$. Set its derivative with respect to $s$ to 0.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "best_linear", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_linear(real, fake, weight):
    """The w that minimises the loss of D(x) = <w, x>; a tensor like `real`."""
    ### BEGIN SOLUTION
    difference = real - fake
    distance = difference.norm()
    return difference / distance * (1 + distance / (2 * weight))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e6c", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
w = best_linear(torch.tensor([5.0, 0.0]), torch.tensor([2.0, 0.0]), 1e6)
assert torch.allclose(w, torch.tensor([1.0, 0.0]), atol=1e-4), "a large weight makes the length 1"
### BEGIN HIDDEN TESTS
for shape, weight in [((7,), 10.0), ((2, 3, 4), 0.7), ((4,), 100.0)]:
    real, fake = torch.randn(shape, dtype=torch.double), torch.randn(shape, dtype=torch.double)
    w = best_linear(real, fake, weight).clone().requires_grad_(True)
    assert w.shape == real.shape
    loss = (w * (fake - real)).sum() + weight * (w.norm() - 1) ** 2
    (slope,) = torch.autograd.grad(loss, w)
    assert slope.abs().max() < 1e-6, "the loss falls when w changes"
    assert (w * (real - fake)).sum() > 0, "w has to give real images the higher score"
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "penalty_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
real, fake = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 0.0])
lengths = torch.linspace(0, 2.5, 101)
direction = (real - fake) / (real - fake).norm()
plt.figure(figsize=(6, 3.4))
for weight, colour in ((1, "C0"), (10, "C1")):
    loss = [float(s * direction @ (fake - real) + weight * linear_penalty(s * direction)) for s in lengths]
    plt.plot(lengths, loss, color=colour, label=f"weight {weight}")
    best = best_linear(real, fake, weight)
    lowest = float(best @ (fake - real) + weight * linear_penalty(best))
    plt.plot(float(best.norm()), lowest, "o", color=colour)
plt.axvline(1, color="grey", linewidth=0.8)
plt.xlabel("length of D's gradient")
plt.ylabel("loss of D")
plt.legend()
plt.tight_layout()

# %% [markdown]
# **What is to be seen.** The penalty is soft: the minimum (dot) lies above length 1, by half of the
# distance between real and fake divided by the weight.
#
# ## Exercise 7: How often is the generator updated?
#
# The paper trains its GAN for 550,000 steps, each of which updates one network. The first 10,000 steps
# update the discriminator (D). Then follow cycles of 7 D steps and one step of the generator (G). After
# every 500 such steps come 200 extra D steps, and the cycle of 7 and 1 begins anew. The package says which
# network a step updates:

# %% nbgrader={"grade": false, "grade_id": "schedule_shown", "locked": true, "schema_version": 3, "solution": false, "task": false}
print("steps 10,000 to 10,031:", "".join(gan_schedule(step) for step in range(10_000, 10_032)))
print("steps 10,480 to 10,520:", "".join(gan_schedule(step) for step in range(10_480, 10_521)))
print("steps 10,696 to 10,716:", "".join(gan_schedule(step) for step in range(10_696, 10_717)))

# %% [markdown]
# ### 7a. In the paper (1 point)
#
# Set `paper_updates` to the number of G steps among the paper's 550,000 steps. You may let the computer
# count.
#
# <details><summary>Hint</summary>
#
# `gan_schedule(step)` returns `"D"` or `"G"`, and steps are counted from 0.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "paper_updates", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
paper_updates = sum(gan_schedule(step) == "G" for step in range(550_000))
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "e7a", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert 10_000 < paper_updates < 68_750, "fewer than one in eight"
### BEGIN HIDDEN TESTS
assert paper_updates == 771 * 62 + 37  # 540,000 steps are 771 periods of 700 and 300 more
### END HIDDEN TESTS

# %% [markdown]
# ### 7b. By arithmetic (2 points)
#
# Write `g_updates(steps, warmup, d_per_g, extra_every, extra)`: the number of G steps among the first
# `steps` steps, without a loop. The arguments are those of `gan_schedule`.
#
# <details><summary>Hint 1: one period</summary>
#
# After the warm-up the schedule repeats every `extra_every + extra` steps. Of the `extra_every` first steps
# of a period every `d_per_g + 1`th is a G step. A cycle that the extra steps interrupt has none.
#
# </details>
#
# <details><summary>Hint 2: the rest</summary>
#
# `divmod(steps_after_warmup, extra_every + extra)` gives the whole periods and the steps of the last one.
# Of those no more than `extra_every` count. There may be fewer steps than the warm-up has.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "g_updates", "locked": false, "schema_version": 3, "solution": true, "task": false}
def g_updates(steps, warmup, d_per_g, extra_every, extra):
    """Number of generator updates among the first `steps` steps of `gan_schedule`."""
    ### BEGIN SOLUTION
    periods, rest = divmod(max(steps - warmup, 0), extra_every + extra)
    return periods * (extra_every // (d_per_g + 1)) + min(rest, extra_every) // (d_per_g + 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e7b", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert g_updates(10_700, 10_000, 7, 500, 200) == 62
# With a loop this does not end: interrupt the kernel (the square button) and think of an arithmetic way.
assert g_updates(10_000 + 700 * 10**12, 10_000, 7, 500, 200) == 62 * 10**12
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(7)
for _ in range(60):
    settings = [int(n) for n in rng.integers([0, 1, 1, 0], [30, 9, 40, 20])]
    steps = int(rng.integers(0, 300))
    counted = sum(gan_schedule(step, *settings) == "G" for step in range(steps))
    assert g_updates(steps, *settings) == counted, (steps, settings)
### END HIDDEN TESTS

# %% [markdown]
# ### 7c. The other way round (2 points)
#
# Write `steps_for(updates, warmup, d_per_g, extra_every, extra)`: the smallest number of steps after which
# G has been updated `updates` times. A loop is fine here. `updates` is at least 1, and `extra_every` is
# larger than `d_per_g`, so that G is updated at all.
#
# <details><summary>Hint</summary>
#
# Count steps from 0 and G steps beside them. After step number `step` there were `step + 1` steps.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "steps_for", "locked": false, "schema_version": 3, "solution": true, "task": false}
def steps_for(updates, warmup, d_per_g, extra_every, extra):
    """Smallest number of steps that hold `updates` generator updates."""
    ### BEGIN SOLUTION
    step, done = 0, 0
    while done < updates:
        done += gan_schedule(step, warmup, d_per_g, extra_every, extra) == "G"
        step += 1
    return step
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e7c", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert steps_for(1, 10_000, 7, 500, 200) == 10_008
### BEGIN HIDDEN TESTS
assert steps_for(63, 10_000, 7, 500, 200) == 10_708, "the cycle begins anew after the extra steps"
for updates, settings in [(1, (0, 1, 2, 0)), (9, (5, 3, 10, 4)), (40, (12, 2, 17, 1))]:
    g_steps = (step for step in range(10_000) if gan_schedule(step, *settings) == "G")
    expected = [next(g_steps) for _ in range(updates)][-1] + 1
    assert steps_for(updates, *settings) == expected, (updates, settings)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "schedule_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
steps = np.arange(0, 550_001, 5_000)
plt.figure(figsize=(6, 3.4))
plt.plot(
    steps / 1000, [g_updates(int(n), 10_000, 7, 500, 200) / 1000 for n in steps], label="paper's schedule"
)
plt.plot(steps / 1000, steps / 8000, "--", color="grey", label="one step in eight")
plt.xlabel("thousand steps")
plt.ylabel("thousand updates of G")
plt.legend()
plt.tight_layout()

# %% [markdown]
# **What is to be seen.** The extra D steps cost G a good part of its updates: they come to about one step
# in 11.5, and not to one in 8. A look at such a count is worth while. In the project that first reproduced
# the paper an error in a counter kept G from being updated at all, and its results were called GAN results.
