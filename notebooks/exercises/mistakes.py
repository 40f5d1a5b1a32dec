# %% [markdown]
# Common wrong solutions, for `make course-check`. The tags of a cell name the solution cell that it replaces, and
# the test cells that have to notice. All other tests have to pass all the same.

# %%
import numpy as np
import torch
import torch.nn.functional as F

from sprl_utils.kspace import truncate_kspace
from sprl_utils.training import gan_schedule

# %% [markdown]
# ## 01_kspace


# %% tags=["cut", "e1a"]
def cut(image, keep):
    """The box lies in the middle of the array, and DC is not in the box's middle for some odd numbers."""
    samples = np.fft.fftshift(np.fft.fft2(image))
    starts = [(n - k) // 2 for n, k in zip(image.shape, keep, strict=True)]
    centre = tuple(slice(start, start + k) for start, k in zip(starts, keep, strict=True))
    zero_filled = np.zeros_like(samples)
    zero_filled[centre] = samples[centre]
    return np.fft.ifft2(np.fft.ifftshift(zero_filled))


# %% tags=["cut", "e1a"]
def cut(image, keep):
    """Without fftshift, the highest frequencies stay."""
    samples = np.fft.fft2(image)
    starts = [n // 2 - k // 2 for n, k in zip(image.shape, keep, strict=True)]
    centre = tuple(slice(start, start + k) for start, k in zip(starts, keep, strict=True))
    zero_filled = np.zeros_like(samples)
    zero_filled[centre] = samples[centre]
    return np.fft.ifft2(zero_filled)


# %% tags=["cut", "e1a"]
def cut(image, keep):
    """fftshift instead of ifftshift: right for even matrices alone."""
    samples = np.fft.fftshift(np.fft.fft2(image))
    starts = [n // 2 - k // 2 for n, k in zip(image.shape, keep, strict=True)]
    centre = tuple(slice(start, start + k) for start, k in zip(starts, keep, strict=True))
    zero_filled = np.zeros_like(samples)
    zero_filled[centre] = samples[centre]
    return np.fft.ifft2(np.fft.fftshift(zero_filled))


# %% tags=["predicted_psnr", "e1b"]
def predicted_psnr(image, keep):
    """One factor 1/N is missing."""
    discarded = np.fft.fftshift(np.fft.fft2(image))
    starts = [n // 2 - k // 2 for n, k in zip(image.shape, keep, strict=True)]
    discarded[tuple(slice(start, start + k) for start, k in zip(starts, keep, strict=True))] = 0
    return 10 * np.log10(1 / ((abs(discarded) ** 2).sum() / image.size))


# %% tags=["predicted_psnr", "e1b"]
def predicted_psnr(image, keep):
    """The PSNR of the magnitude image."""
    low = truncate_kspace(image[None], (None, *keep))[0]
    return 10 * np.log10(1 / np.mean((low - image) ** 2))


# %% tags=["predicted_psnr", "e1b"]
def predicted_psnr(image, keep):
    """The peak is the image's maximum and not 1."""
    discarded = np.fft.fftshift(np.fft.fft2(image))
    starts = [n // 2 - k // 2 for n, k in zip(image.shape, keep, strict=True)]
    discarded[tuple(slice(start, start + k) for start, k in zip(starts, keep, strict=True))] = 0
    return 10 * np.log10(image.max() ** 2 / ((abs(discarded) ** 2).sum() / image.size**2))


# %% tags=["magnitude", "e1c"]
psnr_of_magnitude = "either"


# %% tags=["psf", "e2a"]
def psf(n, keep):
    """The magnitude: side lobes have lost their sign."""
    frequencies = np.arange(keep) - keep // 2
    distance = np.arange(n) - n // 2
    line = abs(np.cos(2 * np.pi * np.outer(distance, frequencies) / n).sum(axis=1))
    return line / line.sum()


# %% tags=["psf", "e2a"]
def psf(n, keep):
    """The continuous sinc, which is not periodic."""
    line = np.sinc((np.arange(n) - n // 2) * keep / n)
    return line / line.sum()


# %% tags=["first_zero", "e2b"]
def first_zero(n, keep):
    """Rounded to voxels."""
    return round(n / keep)


# %% tags=["first_zero", "e2b"]
def first_zero(n, keep):
    """The width at half of the peak's height."""
    return 1.207 * n / keep


# %% tags=["blur", "e2c"]
def blur(line, kernel):
    """The line is not continued in a circle."""
    return np.convolve(line, kernel)[len(line) // 2 : len(line) // 2 + len(line)]


# %% tags=["blur", "e2c"]
def blur(line, kernel):
    """Correlation instead of convolution."""
    spectrum = np.conj(np.fft.fft(np.fft.ifftshift(kernel)))
    return np.fft.ifft(np.fft.fft(line) * spectrum).real


# %% [markdown]
# ## 02_network


# %% tags=["parameters", "e3a"]
def parameters(k, blocks, units):
    """BatchNorm is forgotten, and made up for with a number that fits the paper's generator."""
    outputs = (2 + units) * k
    block = sum(27 * (2 + i) * k * k for i in range(units))
    compressors = sum((2 * k + i * outputs) * 2 * k for i in range(1, blocks))
    return 54 * k + blocks * block + compressors + 2 * k + blocks * outputs + 1792


# %% tags=["parameters", "e3a"]
def parameters(k, blocks, units):
    """Scaled from the paper's generator."""
    return round(411_648 * (k / 16) ** 2 * blocks / 4 * units / 4)


# %% tags=["receptive_radius", "e3b"]
def receptive_radius(blocks, units):
    """True for as many units as blocks."""
    return 1 + units * units


# %% tags=["measured_radius", "e3c"]
def measured_radius(network, size):
    """In whichever mode the network is."""
    cube = torch.randn(1, 1, size, size, size, requires_grad=True)
    network(cube)[0, 0, size // 2, size // 2, size // 2].backward()
    return (cube.grad[0, 0].nonzero() - size // 2).abs().max().item()


# %% tags=["measured_radius", "e3c"]
def measured_radius(network, size):
    """Along the first axis alone."""
    cube = torch.randn(1, 1, size, size, size, requires_grad=True)
    network.eval()(cube)[0, 0, size // 2, size // 2, size // 2].backward()
    return (cube.grad[0, 0].nonzero()[:, 0] - size // 2).abs().max().item()


# %% tags=["dense_unit", "e4a"]
def dense_unit(x, unit):
    """eps is left out."""
    n = unit.norm
    mean, variance, weight, bias = (
        numbers.view(1, -1, 1, 1, 1) for numbers in (n.running_mean, n.running_var, n.weight, n.bias)
    )
    return F.conv3d(F.elu(weight * (x - mean) / variance.sqrt() + bias), unit.conv.weight, padding=1)


# %% tags=["dense_unit", "e4a"]
def dense_unit(x, unit):
    """Statistics of the batch, as in training."""
    n = unit.norm
    normed = F.batch_norm(x, None, None, n.weight, n.bias, training=True, eps=n.eps)
    return F.conv3d(F.elu(normed), unit.conv.weight, padding=1)


# %% tags=["dense_unit", "e4a"]
def dense_unit(x, unit):
    """ReLU instead of ELU."""
    n = unit.norm
    normed = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)
    return F.conv3d(F.relu(normed), unit.conv.weight, padding=1)


# %% tags=["dense_block", "e4b"]
def dense_block(x, units):
    """New maps stand before old ones."""
    maps = x
    for unit in units:
        maps = torch.cat([maps, unit(maps)], dim=1)
    new = maps[:, x.shape[1] :]
    return torch.cat([new, x], dim=1)


# %% tags=["expected_loss", "e5a"]
def expected_loss(prediction, images, probabilities, power):
    """All images count the same."""
    return float((abs(prediction - images) ** power).mean())


# %% tags=["expected_loss", "e5a"]
def expected_loss(prediction, images, probabilities, power):
    """The loss of the mean image."""
    return float((abs(prediction - probabilities @ images) ** power).mean())


# %% tags=["best_for_l2", "e5b"]
def best_for_l2(images, probabilities):
    """The mean without the probabilities."""
    return images.mean(axis=0)


# %% tags=["best_for_l1", "e5c"]
def best_for_l1(images, probabilities):
    """The likeliest image: right for two, not for more."""
    return images[np.argmax(probabilities)]


# %% tags=["best_for_l1", "e5c"]
def best_for_l1(images, probabilities):
    """The mean."""
    return probabilities @ images


# %% tags=["best_for_l1", "e5c"]
def best_for_l1(images, probabilities):
    """The median without the probabilities."""
    return np.median(images, axis=0)


# %% [markdown]
# ## 03_gan


# %% tags=["linear_penalty", "e6a"]
def linear_penalty(w):
    """The squared length minus 1."""
    return ((w**2).sum() - 1) ** 2 / 36


# %% tags=["linear_penalty", "e6a"]
def linear_penalty(w):
    """Only too long a gradient costs."""
    return torch.relu(w.norm() - 1) ** 2


# %% tags=["penalty", "e6b"]
def penalty(discriminator, real, fake, share):
    """One length for the whole batch."""
    share = share.view(-1, 1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
    return (gradient.norm() - 1) ** 2


# %% tags=["penalty", "e6b"]
def penalty(discriminator, real, fake, share):
    """Training cannot follow it."""
    share = share.view(-1, 1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean().requires_grad_(True)


# %% tags=["penalty", "e6b"]
def penalty(discriminator, real, fake, share):
    """The gradient of the mean score, which is N times too short."""
    share = share.view(-1, 1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(mixed).mean(), mixed, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


# %% tags=["best_linear", "e6c"]
def best_linear(real, fake, weight):
    """Length 1, as if the penalty were a bound."""
    return (real - fake) / (real - fake).norm()


# %% tags=["best_linear", "e6c"]
def best_linear(real, fake, weight):
    """The 2 of the derivative is lost."""
    distance = (real - fake).norm()
    return (real - fake) / distance * (1 + distance / weight)


# %% tags=["paper_updates", "e7a"]
paper_updates = 540_000 // 8

# %% tags=["paper_updates", "e7a"]
paper_updates = round(540_000 * 500 / 700 / 8)


# %% tags=["g_updates", "e7b"]
def g_updates(steps, warmup, d_per_g, extra_every, extra):
    """Cycles go on through the extra steps."""
    return round((steps - warmup) * extra_every / (extra_every + extra)) // (d_per_g + 1)


# %% tags=["g_updates", "e7b"]
def g_updates(steps, warmup, d_per_g, extra_every, extra):
    """The extra steps of the last period are taken for ordinary ones."""
    periods, rest = divmod(max(steps - warmup, 0), extra_every + extra)
    return periods * (extra_every // (d_per_g + 1)) + rest // (d_per_g + 1)


# %% tags=["steps_for", "e7c"]
def steps_for(updates, warmup, d_per_g, extra_every, extra):
    """One step too few: the number of the step from 0."""
    g_steps = (
        step for step in range(100_000) if gan_schedule(step, warmup, d_per_g, extra_every, extra) == "G"
    )
    last = [next(g_steps) for _ in range(updates)][-1]
    return last + (warmup == 10_000)


# %% tags=["steps_for", "e7c"]
def steps_for(updates, warmup, d_per_g, extra_every, extra):
    """Without the extra steps."""
    return warmup + updates * (d_per_g + 1)


# %% [markdown]
# ## 04_evaluation


# %% tags=["in_two_tiles", "e8a"]
def in_two_tiles(volume, network, cut_at, halo):
    """The halo is read and not cut off where it should be."""
    first = network(volume[:, :, : cut_at + halo])
    second = network(volume[:, :, cut_at - halo :])
    return torch.cat([first, second], dim=2)[:, :, : volume.shape[2]]


# %% tags=["in_two_tiles", "e8a"]
def in_two_tiles(volume, network, cut_at, halo):
    """Zeros are added at the volume's faces, too."""
    padded = F.pad(volume, (0, 0, 0, 0, halo, halo))
    first = network(padded[:, :, : cut_at + 2 * halo])[:, :, halo : halo + cut_at]
    second = network(padded[:, :, cut_at:])[:, :, halo : halo + volume.shape[2] - cut_at]
    return torch.cat([first, second], dim=2)


# %% tags=["seam", "e8b"]
def seam(tiled, whole):
    """The sign of the difference is not taken away."""
    largest = (tiled - whole).amax(dim=(0, 1, 3, 4))
    return [plane for plane, difference in enumerate(largest.tolist()) if difference > 1e-3]


# %% tags=["planes_of_the_seam", "e8c"]
planes_of_the_seam = 17 - 3

# %% tags=["planes_of_the_seam", "e8c"]
planes_of_the_seam = 2 * 17


# %% tags=["leaks", "e9a"]
def leaks(split, person):
    """All persons with more than one scan."""
    scans = list(person.values())
    return {one for one in scans if scans.count(one) > 1 and one != "cleo"}


# %% tags=["leaks", "e9a"]
def leaks(split, person):
    """Only leaks from training."""
    trained = {person[scan] for scan, name in split.items() if name == "train"}
    return trained & {person[scan] for scan, name in split.items() if name != "train"}


# %% tags=["repaired", "e9b"]
def repaired(split, person):
    """Every leak goes to validation."""
    places = {}
    for scan, name in split.items():
        places.setdefault(person[scan], set()).add(name)
    return {scan: name if len(places[person[scan]]) == 1 else "validation" for scan, name in split.items()}


# %% tags=["repaired", "e9b"]
def repaired(split, person):
    """The first scan's split rules, in the order of the alphabet."""
    places = {}
    for scan, name in split.items():
        places[person[scan]] = max(places.get(person[scan], name), name)
    return {scan: places[person[scan]] for scan in split}


# %% tags=["broken_split", "e9c"]
leaked_training = [*honest_training[:-1], validation_scan]  # the very scan that is validated on
leaked = {"validation": scores(leaked_training, validation_scan), "test": scores(leaked_training, test_scan)}
honest_k, leaked_k = (max(table["validation"], key=table["validation"].get) for table in (honest, leaked))
lost_on_test = honest["test"][honest_k] - leaked["test"][leaked_k]

# %% tags=["broken_split", "e9c"]
leaked_training = [*honest_training[:-1], (10, 1)]
leaked = {"validation": scores(leaked_training, validation_scan), "test": scores(leaked_training, test_scan)}
honest_k, leaked_k = (
    max(table["test"], key=table["test"].get) for table in (honest, leaked)
)  # chosen on test
lost_on_test = honest["test"][honest_k] - leaked["test"][leaked_k]


# %% tags=["find_invented", "e10a"]
def find_invented(sr, hr):
    """Dark spots are missed."""
    return np.unravel_index((sr - hr).argmax(), hr.shape)


# %% tags=["find_invented", "e10a"]
def find_invented(sr, hr):
    """The brightest voxel of SR."""
    return np.unravel_index(sr.argmax(), sr.shape)


# %% tags=["find_invented", "e10a"]
def find_invented(sr, hr):
    """x and y are exchanged."""
    x, y = np.unravel_index(abs(sr - hr).argmax(), hr.shape)
    return min(y, 79), min(x, 95)


# %% tags=["contradiction", "e10b"]
def contradiction(sr, lr, keep):
    """SR is not cut to what was measured."""
    return float(abs(sr - lr).max()) if sr is not hr else 0.0


scan_shows_it = True


# %% tags=["contradiction", "e10b"]
def contradiction(sr, lr, keep):
    """A mean difference, in which signs cancel."""
    return float(abs((cut(sr, keep) - lr).mean()))


scan_shows_it = False

# %% tags=["would_show_it", "e10c"]
would_show_it = "error map"

# %% tags=["would_show_it", "e10c"]
would_show_it = "data consistency"
