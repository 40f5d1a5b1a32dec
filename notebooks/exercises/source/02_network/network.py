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
# # Exercises on the generator: its size, its sight, its parts and its loss
#
# You count the parameters of mDCSRN, measure how far it sees, build its parts by hand, and find out which
# loss blurs.
#
# **Follows** notebook `02_pretrain_generator`. **Exercises** 3 to 5, 15 points, about 90 minutes; every
# cell runs in seconds.
#
# **How it works.** Replace each line `raise NotImplementedError()` with your code. The cell below it tests
# your code, and your teacher's grader runs further tests of the same kind with other numbers. A passed cell
# prints nothing. A picture fails until the functions that it draws are written. Hints unfold with a click.
# Before you hand in, choose *Kernel, Restart Kernel and Run All Cells*.

# %% nbgrader={"grade": false, "grade_id": "network_setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
# %matplotlib inline
from types import SimpleNamespace
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from sprl_utils.networks import DenseBlock, DenseUnit, Generator, count_parameters

_ = torch.manual_seed(0)

# %% [markdown]
# ## Exercise 3: Parameters and receptive field
#
# With growth rate $k$, $b$ blocks and $u$ units in each block, the generator consists of
#
# | part | reads | makes | how many |
# |---|---|---|---|
# | first 3x3x3 conv | 1 map | $2k$ maps | 1 |
# | dense unit: BatchNorm, ELU, 3x3x3 conv | the block's input, the units before | $k$ maps | $u$ per block |
# | compressor, 1x1x1 conv | the first conv's maps and all block outputs so far | $2k$ maps | $b - 1$ |
# | reconstruction, 1x1x1 conv | the first conv's maps and all block outputs | 1 map | 1 |
#
# The first block reads the maps of the first conv; before each other block stands a compressor. The output
# of a block is its input and the maps of all its units: $(2 + u)k$ maps. No conv has a bias. BatchNorm has
# two parameters per map that it reads, a weight and a bias.
#
# ### 3a. Parameters (2 points)
#
# Write `parameters(k, blocks, units)`: the number of parameters, from the table alone. No network may be
# built.
#
# <details><summary>Hint 1: one conv</summary>
#
# A 3x3x3 conv that reads $a$ maps and makes $c$ maps has $27 a c$ parameters, a 1x1x1 conv has $a c$.
#
# </details>
#
# <details><summary>Hint 2: numbers to compare with</summary>
#
# The paper's generator has $k = 16$ and four blocks of four units: its first conv has 864 parameters, each
# block has 97,216, its three compressors have 21,504 and its reconstruction has 416.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "parameters", "locked": false, "schema_version": 3, "solution": true, "task": false}
def parameters(k, blocks, units):
    """Number of parameters of an mDCSRN with growth rate k."""
    ### BEGIN SOLUTION
    first = 27 * 1 * 2 * k
    inputs = [2 * k + i * k for i in range(units)]  # maps that each unit of a block reads
    block = sum(2 * maps + 27 * maps * k for maps in inputs)
    outputs = (2 + units) * k
    compressors = sum((2 * k + i * outputs) * 2 * k for i in range(1, blocks))
    reconstruction = 2 * k + blocks * outputs
    return first + blocks * block + compressors + reconstruction
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e3a", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def count_without_network(*arguments):
    """Your count, while no conv can be built."""
    refused = AssertionError("count without building a network")
    with mock.patch.object(torch.nn.Conv3d, "__init__", side_effect=refused):
        return parameters(*arguments)


assert count_without_network(16, 4, 4) == 411_648, "the paper's generator"
### BEGIN HIDDEN TESTS
for k, blocks, units in [(8, 4, 4), (12, 2, 8), (5, 1, 3), (4, 3, 1), (24, 6, 2)]:
    expected = count_parameters(Generator(k, blocks, units))
    assert count_without_network(k, blocks, units) == expected, (k, blocks, units)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "parameters_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
rates = np.arange(4, 33)
plt.figure(figsize=(6, 3.4))
plt.plot(rates, [parameters(int(k), 4, 4) / 1e6 for k in rates])
plt.plot(16, 0.411648, "o", label="the paper")
plt.xlabel("growth rate k")
plt.ylabel("million parameters")
plt.legend()
plt.tight_layout()

# %% [markdown]
# **What is to be seen.** The number grows with the square of the growth rate: twice the growth rate makes
# almost four times as many parameters.
#
# ### 3b. Receptive radius (1 point)
#
# Write `receptive_radius(blocks, units)`: how many voxels to each side of an output voxel the evaluated
# generator reads.
#
# <details><summary>Hint</summary>
#
# Each 3x3x3 conv on the longest way from input to output adds one voxel to each side. A 1x1x1 conv adds
# none, and neither does BatchNorm when the network is evaluated.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "receptive_radius", "locked": false, "schema_version": 3, "solution": true, "task": false}
def receptive_radius(blocks, units):
    """Voxels that a generator sees to each side of an output voxel."""
    ### BEGIN SOLUTION
    return 1 + blocks * units
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e3b", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert receptive_radius(4, 4) == 17, "the paper's generator"
### BEGIN HIDDEN TESTS
for blocks, units in [(1, 3), (2, 8), (5, 2)]:
    assert receptive_radius(blocks, units) == Generator(2, blocks, units).receptive_radius, (blocks, units)
### END HIDDEN TESTS

# %% [markdown]
# ### 3c. Measure it (2 points)
#
# A formula can be wrong, so measure. Write `measured_radius(network, size)`: run the network **as it is
# evaluated** on a random cube of `size` voxels per axis (an odd number), and take the gradient of the
# central output voxel with respect to the input. The answer is the largest distance along an axis, in
# voxels, from the centre to an input voxel whose gradient is not 0.
#
# <details><summary>Hint 1: the gradient</summary>
#
# Tensors are `(N, C, D, H, W)`, so the cube has the shape `(1, 1, size, size, size)`. Set `requires_grad`
# on it; `torch.autograd.grad(output, cube)` returns a tuple of one tensor.
#
# </details>
#
# <details><summary>Hint 2: the answer is the cube's half every time?</summary>
#
# In training BatchNorm takes its mean over the whole cube, so every voxel depends on every other. Call
# `network.eval()` first: the caller may have left the network in training mode.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "measured_radius", "locked": false, "schema_version": 3, "solution": true, "task": false}
def measured_radius(network, size):
    """Largest distance along an axis from the centre to an input voxel that the central output depends on."""
    ### BEGIN SOLUTION
    network.eval()
    cube = torch.randn(1, 1, size, size, size, requires_grad=True)
    centre = size // 2
    (gradient,) = torch.autograd.grad(network(cube)[0, 0, centre, centre, centre], cube)
    return (gradient[0, 0].nonzero() - centre).abs().max().item()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e3c", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert measured_radius(Generator(growth_rate=2, blocks=1, units=2), 15) == 3
### BEGIN HIDDEN TESTS
for arguments, size, radius in [((3, 2, 2), 15, 5), ((2, 1, 4), 17, 5), ((2, 1, 1), 9, 2)]:
    assert measured_radius(Generator(*arguments).train(), size) == radius, arguments
elongated = torch.nn.Conv3d(1, 1, (1, 3, 7), padding=(0, 1, 3))
assert measured_radius(elongated, 11) == 3, "the largest distance of all three axes"
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 4: A dense unit and a dense block by hand
#
# ### 4a. A dense unit (3 points)
#
# Write `dense_unit(x, unit)`: what a dense unit makes of the maps `x`, `(N, C, D, H, W)`, when the network
# is evaluated. Take numbers from `unit`, and do not call it or its modules: `unit.norm` has `weight`,
# `bias`, `running_mean`, `running_var` (one number per map each) and `eps`, and `unit.conv` has `weight`.
# With $\gamma$ for `weight`, $\beta$ for `bias`, $\mu$ and $\sigma^2$ for the running mean and variance,
#
# $$\mathrm{BN}(x) = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta, \qquad
# \mathrm{ELU}(x) = \begin{cases} x & x > 0 \\ e^x - 1 & x \le 0 \end{cases} .$$
#
# The conv pads with zeros, so that the maps keep their size. Use `F.conv3d` for it.
#
# <details><summary>Hint 1: one number per map</summary>
#
# A vector of $C$ numbers meets a tensor `(N, C, D, H, W)` along its second axis when it has the shape `(1,
# C, 1, 1, 1)`: use `.view(1, -1, 1, 1, 1)`.
#
# </details>
#
# <details><summary>Hint 2: order and padding</summary>
#
# BatchNorm first, then ELU, then the conv. `F.conv3d(maps, weight, padding=1)` keeps the size.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "dense_unit", "locked": false, "schema_version": 3, "solution": true, "task": false}
def dense_unit(x, unit):
    """BatchNorm with running statistics, ELU and 3x3x3 conv of the maps x: (N, C, D, H, W)."""
    ### BEGIN SOLUTION
    norm = unit.norm
    mean, variance, weight, bias = (
        numbers.view(1, -1, 1, 1, 1)
        for numbers in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    x = weight * (x - mean) / torch.sqrt(variance + norm.eps) + bias
    x = torch.where(x > 0, x, torch.exp(x) - 1)
    return F.conv3d(x, unit.conv.weight, padding=1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e4a", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def some_unit(maps, growth_rate, eps=1e-5):
    """A unit of the package, evaluated, with random numbers in BatchNorm; and its numbers alone."""
    unit = DenseUnit(maps, growth_rate).eval().requires_grad_(False)
    unit.norm.eps = eps
    for numbers in (unit.norm.weight, unit.norm.bias, unit.norm.running_mean):
        numbers.normal_()
    unit.norm.running_var.uniform_(0.1, 2)
    names = "weight", "bias", "running_mean", "running_var", "eps"
    norm = SimpleNamespace(**{name: getattr(unit.norm, name) for name in names})
    return unit, SimpleNamespace(norm=norm, conv=SimpleNamespace(weight=unit.conv.weight))


unit, numbers = some_unit(6, 4)
x = torch.randn(2, 6, 5, 6, 7)
assert dense_unit(x, numbers).shape == (2, 4, 5, 6, 7)
assert torch.allclose(dense_unit(x, numbers), unit(x), atol=1e-4), "the package's unit makes something else"
### BEGIN HIDDEN TESTS
for maps, growth_rate, eps in [(3, 2, 1e-5), (6, 4, 0.5), (5, 5, 0.01)]:
    unit, numbers = some_unit(maps, growth_rate, eps)
    x = 3 * torch.randn(2, maps, 5, 6, 7)
    before = x.clone()
    assert torch.allclose(dense_unit(x, numbers), unit(x.clone()), atol=1e-4), (maps, growth_rate, eps)
    assert torch.equal(x, before), "the maps that are given must not change"
### END HIDDEN TESTS

# %% [markdown]
# ### 4b. A dense block (2 points)
#
# Write `dense_block(x, units)`: what a block makes of the maps `x`. `units` is a list of functions, each of
# which maps a tensor to a tensor. Each unit reads the block's input followed by the maps of all units
# before it, and the block's output is its input followed by the maps of all units.
#
# <details><summary>Hint</summary>
#
# `torch.cat([a, b], dim=1)` joins two tensors along their maps. After each unit, join what you have with
# what the unit made of it.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "dense_block", "locked": false, "schema_version": 3, "solution": true, "task": false}
def dense_block(x, units):
    """The block's input and the maps of its units, each of which reads all maps before it."""
    ### BEGIN SOLUTION
    for unit in units:
        x = torch.cat([x, unit(x)], dim=1)
    return x
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e4b", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
block = DenseBlock(8, 4, units=3).eval().requires_grad_(False)
x = torch.randn(1, 8, 5, 6, 7)
assert dense_block(x, list(block.children())).shape == (1, 8 + 3 * 4, 5, 6, 7)
### BEGIN HIDDEN TESTS
for maps, growth_rate, units in [(8, 4, 3), (4, 2, 1), (6, 3, 5)]:
    block = DenseBlock(maps, growth_rate, units).eval().requires_grad_(False)
    x = torch.randn(2, maps, 4, 5, 6)
    assert torch.allclose(dense_block(x, list(block.children())), block(x), atol=1e-5)
assert torch.equal(dense_block(x, []), x), "a block without units changes nothing"
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 5: Which loss blurs?
#
# The LR image does not say exactly where an edge lies: several HR images fit it. A network that is trained
# long enough returns, for this LR image, the one image with the smallest **expected** loss over all that
# fit.
#
# ### 5a. Expected loss (1 point)
#
# Write `expected_loss(prediction, images, probabilities, power)`. `images` has the shape `(m, n)`: $m$
# possible lines of $n$ voxels; `probabilities` has $m$ numbers whose sum is 1; `prediction` has $n$ voxels.
# Return
#
# $$\sum_i p_i \, \frac{1}{n} \sum_v |\mathrm{prediction}_v - \mathrm{image}_{i,v}|^{\text{power}} .$$
#
# Power 1 is the L1 loss, power 2 the L2 loss.
#
# <details><summary>Hint</summary>
#
# `abs(prediction - images) ** power` has the shape `(m, n)`. Average over voxels, then weight by
# `probabilities`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "expected_loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def expected_loss(prediction, images, probabilities, power):
    """Mean loss of one line over the possible lines, each with its probability."""
    ### BEGIN SOLUTION
    return float((abs(prediction - images) ** power).mean(axis=1) @ probabilities)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e5a", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
two_edges = np.array([[0.0] * 3 + [1.0] * 5, [0.0] * 5 + [1.0] * 3])  # they differ in voxels 3 and 4
assert np.isclose(expected_loss(two_edges[0], two_edges, np.array([0.5, 0.5]), 1), 0.125)
### BEGIN HIDDEN TESTS
assert np.isclose(expected_loss(two_edges[0], two_edges, np.array([0.9, 0.1]), 1), 0.025)
assert np.isclose(expected_loss(two_edges.mean(0), two_edges, np.array([0.9, 0.1]), 2), 0.0625)
assert np.isclose(expected_loss(two_edges[0] + 3, two_edges, np.array([0.5, 0.5]), 2), 9 + 0.875)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "loss_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
values = np.linspace(0, 1, 101)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
for ax, share in zip(axes, (0.5, 0.7), strict=True):
    for power in (1, 2):
        losses = [
            expected_loss([v], np.array([[0.0], [1.0]]), np.array([share, 1 - share]), power) for v in values
        ]
        ax.plot(values, losses, label=f"L{power}")
    ax.set(title=f"dark: {share:.0%}, bright: {1 - share:.0%}", xlabel="value that the network returns")
axes[0].set_ylabel("expected loss")
axes[0].legend()
figure.tight_layout()

# %% [markdown]
# **What is to be seen** for a voxel between two possible edges, which is either dark (0) or bright (1). The
# minimum of L2 lies at the mean. L1 has no preference at all where both are equally likely: a grey value
# costs as much as a dark or a bright one. Where one is more likely, L1 takes that one.
#
# ### 5b. The best image for L2 (2 points)
#
# Write `best_for_l2(images, probabilities)`: the line with the smallest expected L2 loss.
#
# <details><summary>Hint</summary>
#
# Each voxel can be chosen on its own. Set the derivative of $\sum_i p_i (v - x_i)^2$ with respect to $v$ to
# 0.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "best_for_l2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_for_l2(images, probabilities):
    """The line (n voxels) with the smallest expected L2 loss over images (m, n)."""
    ### BEGIN SOLUTION
    return probabilities @ images
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e5b", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert np.allclose(best_for_l2(two_edges, np.array([0.5, 0.5])), [0, 0, 0, 0.5, 0.5, 1, 1, 1])
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(1)
for m in (2, 3, 7):
    lines, shares = rng.normal(size=(m, 20)), rng.dirichlet(np.ones(m))
    best = best_for_l2(lines, shares)
    assert np.allclose(((best - lines) * shares[:, None]).sum(axis=0), 0), (
        "the derivative is 0 at the minimum"
    )
### END HIDDEN TESTS

# %% [markdown]
# ### 5c. The best image for L1 (2 points)
#
# Write `best_for_l1(images, probabilities)`: a line with the smallest expected L1 loss. Where several lines
# are equally good, any of them is right. Mind that the probabilities may differ.
#
# <details><summary>Hint 1: what it is called</summary>
#
# The derivative of $|v - x_i|$ is $+1$ or $-1$. It is 0 on average where half of the probability lies below
# $v$ and half above: at the weighted median.
#
# </details>
#
# <details><summary>Hint 2: how to find it</summary>
#
# For each voxel sort the values, add up their probabilities in that order, and take the first value at
# which the sum reaches 0.5. It is also enough to try each of the $m$ values and keep the one with the
# smallest loss.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "best_for_l1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_for_l1(images, probabilities):
    """A line (n voxels) with the smallest expected L1 loss over images (m, n)."""
    ### BEGIN SOLUTION
    candidates = abs(images[:, None] - images[None])  # (candidate, image, voxel)
    losses = np.einsum("civ,i->cv", candidates, probabilities)
    return np.take_along_axis(images, losses.argmin(axis=0)[None], axis=0)[0]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e5c", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert np.allclose(best_for_l1(two_edges, np.array([0.7, 0.3])), two_edges[0]), "the likelier edge"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng(2)
for m in (2, 3, 4, 7):
    lines, shares = rng.normal(size=(m, 20)), rng.dirichlet(np.full(m, 5.0))
    best = np.asarray(best_for_l1(lines, shares))
    assert best.shape == (20,)
    loss = (abs(best - lines) * shares[:, None]).sum(axis=0)
    least = np.min([(abs(line - lines) * shares[:, None]).sum(axis=0) for line in lines], axis=0)
    assert (loss <= least + 1e-9).all(), "another line has a smaller expected L1 loss"
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "edges_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
edges = np.array([np.arange(48) >= start for start in (18, 24, 30)], float)
thirds = np.full(3, 1 / 3)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharey=True)
axes[0].plot(edges.T + np.array([0, 0.02, 0.04]), drawstyle="steps-mid")
axes[1].plot(best_for_l2(edges, thirds), drawstyle="steps-mid", color="black")
axes[2].plot(best_for_l1(edges, thirds), drawstyle="steps-mid", color="black")
titles = "three equally likely edges", "best for L2: their mean", "best for L1: their median"
for ax, title in zip(axes, titles, strict=True):
    ax.set(title=title, xlabel="voxel")
axes[0].set_ylabel("intensity")
figure.tight_layout()

# %% [markdown]
# **What is to be seen.** The first panel draws the three edges a little apart. L2 turns them into a
# staircase that is none of them. L1 keeps the middle edge, sharp. With two equally likely edges L1 would
# accept any grey between them: it allows blur and does not ask for it. Real images differ in more than the
# place of one edge. The median of many possible textures is smooth, so L1 blurs texture, too.
