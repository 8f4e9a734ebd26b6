"""Fit a torchvision model into a latency budget."""

import nsopt

# Its forward is traced, and tells which channels go together. A network of your own:
# arch = nsopt.trace(network, torch.randn(2, 3, 32, 32))
arch = nsopt.get_architecture("torchvision:resnet18", num_classes=10)
print(arch.summary())

# Digits have one channel; a network for colour wants three.
digits = nsopt.load_data("digits")
images = [split.images.expand(-1, 3, -1, -1).numpy() for split in (digits.train, digits.test)]
labels = [split.labels.numpy() for split in (digits.train, digits.test)]
data = nsopt.ImageData.from_arrays((images[0], labels[0]), (images[1], labels[1]))

# A latency model of this device, fitted to a few networks that are timed in turns.
arch = nsopt.with_latency(arch)
latency = arch.cost("latency")  # widths -> milliseconds for a batch of 100
narrowest = latency([1] * len(arch.base_widths))
print(f"unmodified: {latency(arch.base_widths):.1f} ms, with one channel each {narrowest:.1f}")
budget = max(5.0, 2 * narrowest)  # a slow or busy device needs more than 5 ms for any network

# One short search; importance is divided by the MACs that a channel's removal frees.
short = nsopt.SearchSettings(
    price="macs",
    iterations=1,
    pretrain_epochs=2,
    prune_every=2,
    filters_per_step=120,
    batch_size=64,
    lr=0.02,
)
law = nsopt.search(arch, data, short).law

# The widest networks that are not predicted to take longer, along the law and in proportion.
training = nsopt.TrainSettings(epochs=4, batch_size=32, lr=0.02)
for name, curve in (("law", law), ("uniform", nsopt.uniform_curve(arch.base_widths))):
    fit = nsopt.solve_widths(curve, latency, budget)
    outcome = nsopt.train(arch, fit.widths, data, training)
    measured = nsopt.measure_latency(outcome.model, arch.input_shape)
    print(
        f"{name}: {fit.cost:.2f} ms predicted, {measured.median_ms:.2f} measured, "
        f"test accuracy {outcome.test_accuracy:.1f} %, widths {fit.widths.tolist()}"
    )
