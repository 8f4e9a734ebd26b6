"""Fit the layers of a smaller network to those of a trained one by least squares, without training.

For each product of activations with a weight, in forward order (fit.py):
    minimise |U dW - (T - Y)|^2 + ridge |D^(1/2) dW|^2
U: the product's own inputs in the smaller network, whose earlier layers are fitted, and a one.
Y: its outputs there, with the inherited weights. T: the outputs of the trained network.
D: the diagonal of U^T U. dW: the change of the weights and the bias.

A pipeline calls

    inputs = Inputs(batches)                                      # no targets
    ranking = rank_by_fit(arch, model, inputs, progress)          # once
    widths = ranking.widths_per_cost(cost, budget)                # for each budget
    kept = ranking.pick_strongest(widths)
    fitted = fit_network(arch, model, kept, inputs, seed=seed, progress=progress, checkpoint=file)

and, to score widths cheaply, the last three lines with `rows=2048`.

(He, Zhang & Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017; Luo, Wu &
Lin, ThiNet, ICCV 2017. Targets that a ReLU clips: Zhang, Zou, He & Sun, Accelerating Very Deep
Convolutional Networks for Classification and Detection, PAMI 2016.)
"""
