"""Trained networks of the base widths that methods start from, one per seed."""

from torch import nn

from nsopt.compute.checkpoint import Checkpoint
from nsopt.compute.device import place
from nsopt.compute.locks import hold_lock
from nsopt.compute.random_state import use_seed
from nsopt.session.session import Session
from nsopt.storage import schema
from nsopt.training.loop import identify_training


def train_base_network(session: Session, seed: int) -> nn.Module:
    """Return the base network that is trained with `seed`, or the one that the subject starts from.

    A checkpoint keeps it during the comparison: later trials, and the same command after an
    interruption, read it instead of training again. If several processes need it, one trains it and
    the others wait.
    """
    subject, device = session.subject, session.compute.device
    if subject.start is not None:
        return subject.start
    widths, settings = subject.arch.base_widths, subject.settings.base_training_for(seed)
    folder = session.workspace.checkpoints(subject.study_name(schema.BASE))
    path = folder / f"seed{seed}.pt"
    kept = Checkpoint(path, identify_training(subject.arch, widths, session.supervision, settings))
    with hold_lock(path):
        with session.compute.computing():
            weights = kept.load(device)
            if weights is not None:
                with use_seed(seed, device):
                    model = place(subject.arch.build(widths), device, subject.arch.layout)
                model.load_state_dict(weights)
                return model
        name = f"training the network to start from, seed {seed}"
        checkpoint = path.with_stem(f"{path.stem}-training")
        model = session.train(widths, settings, checkpoint, name).model
        kept.save(model.state_dict())
    return model
