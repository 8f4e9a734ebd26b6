"""Widths beside hyperparameters of your own, in an Optuna study of your own."""

import optuna

import nsopt

arch, data = nsopt.get_architecture("vgg11", in_channels=1), nsopt.load_data("digits")

# A law: from a search as here, from a storage, or nsopt.uniform_curve(arch.base_widths).
short = nsopt.SearchSettings(
    iterations=1, pretrain_epochs=1, prune_every=2, filters_per_step=120, batch_size=64, lr=0.05
)
law = nsopt.search(arch, data, short).law

# Widths come from the law, at 50,000 and 150,000 parameters in turn; all else from TPE.
sampler = nsopt.NeuralScaleSampler(law, "params", arch, budgets="50k,150k", seed=0)


def objective(trial: optuna.Trial) -> float:
    widths = nsopt.suggest_widths(trial, arch, low=1)
    settings = nsopt.TrainSettings(
        epochs=2,
        batch_size=trial.suggest_categorical("batch_size", [32, 64]),
        lr=trial.suggest_float("lr", 3e-3, 0.1, log=True),
    )
    return nsopt.train(arch, widths, data, settings).val_accuracy


study = optuna.create_study(direction="maximize", sampler=sampler)
# A trial may have a budget of its own, or widths of its own: their excess is a constraint.
study.enqueue_trial({}, user_attrs={"budget": 300_000})
study.optimize(objective, n_trials=6)

# Every trial stores its budget, the metric and its cost.
for trial in study.trials:
    print(trial.user_attrs, f"{trial.value:.1f} %", trial.params["lr"])
