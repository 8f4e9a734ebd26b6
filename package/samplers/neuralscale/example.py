"""Widths of VGG11 from a power law at two budgets, with a learning rate from TPE beside them."""

import optuna
import optunahub


module = optunahub.load_module("samplers/neuralscale")
arch = module.get_architecture("vgg11")
cost = arch.cost("params")
law = module.uniform_curve(arch.base_widths)  # or the law that `nsopt search` found
sampler = module.NeuralScaleSampler(
    law, cost, arch.layer_names, budgets=[300_000, 600_000], seed=0
)


def objective(trial: optuna.Trial) -> float:
    """Stands in for a training: wide layers and a learning rate near 0.01 are good."""
    widths = module.suggest_widths(trial, arch)
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    assert cost(widths) <= 600_000
    return float(sum(widths)) - abs(lr - 0.01)


study = optuna.create_study(direction="maximize", sampler=sampler)
study.optimize(objective, n_trials=20)
print(study.best_params)
