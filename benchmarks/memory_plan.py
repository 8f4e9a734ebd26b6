"""Claim: the peak of the activations that nsopt predicts is what ExecuTorch plans.

Each network of torchvision and timm is planned by ExecuTorch's greedy memory planner, in float32,
for one image, at its own widths, half and a quarter of them. ExecuTorch has no operations in place,
so that both count the network with its activation functions out of place; the last column is what
nsopt predicts for the network as PyTorch runs it. `live` is what exists at once in ExecuTorch's
program, before its planner gives every buffer a place. Linear layers, SiLU and Hardswish stay
whole, as PyTorch runs them: else ExecuTorch plans transposed copies of weights, and three buffers
for x * sigmoid(x). Prints bytes, writes `memory_plan.csv`, and continues where it stopped.

Needs packages beside nsopt: pip install 'nsopt[timm]' executorch==1.5.1.
"""

import argparse
import logging
import sys
from itertools import accumulate
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import pandas as pd
import torch
from torch import nn

import nsopt
from benchmarks.trained import Results
from nsopt.models.architecture import Architecture

_CLOSE = 0.05
_WHOLE = [getattr(torch.ops.aten, name).default for name in ("linear", "silu", "hardswish")]
_SHARES = (1.0, 0.5, 0.25)
_FAILED = 0.0  # stands for a share in a row that says what went wrong
_NETWORKS = """
torchvision:resnet18 torchvision:resnet50 torchvision:mobilenet_v2 torchvision:mobilenet_v3_small
torchvision:mnasnet0_5 torchvision:squeezenet1_1 torchvision:vgg11_bn torchvision:alexnet
torchvision:googlenet torchvision:densenet121 torchvision:efficientnet_b0
torchvision:regnet_y_400mf torchvision:shufflenet_v2_x1_0 timm:resnet10t timm:lcnet_050
timm:mobilenetv3_small_100 timm:ghostnet_100 timm:repvgg_a0 timm:efficientnet_lite0
timm:test_byobnet timm:test_resnet timm:test_convnext timm:test_vit
torchvision:resnet34 torchvision:vgg11 torchvision:vgg13_bn torchvision:mnasnet1_0
torchvision:regnet_x_400mf torchvision:mobilenet_v3_large torchvision:squeezenet1_0
torchvision:shufflenet_v2_x0_5 timm:resnet14t timm:resnet18d timm:resnet26d timm:convnext_atto
timm:regnetx_002 timm:regnety_002 timm:mobilenetv4_conv_small
"""


def without_places(arch: Architecture) -> Architecture:
    """Return the same network with activation functions that write to new memory."""
    model = arch.build(arch.base_widths)
    for module in model.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]  # of nn.ReLU and others
    return nsopt.trace(model, torch.zeros(2, *arch.input_shape))


def plan(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the bytes that ExecuTorch plans for one image, and those that exist at once.

    A planner gives every buffer one place, and may so need more than what exists at once.
    """
    from executorch.exir import EdgeCompileConfig, to_edge  # noqa: PLC0415  (optional)
    from executorch.exir.memory_planning import collect_specs_from_nodes  # noqa: PLC0415

    program = torch.export.export(model.eval(), (torch.zeros(1, *shape),))
    config = EdgeCompileConfig(preserve_ops=[*_WHOLE])  # it grows the list
    planned = to_edge(program, compile_config=config).to_executorch()
    nodes = planned.exported_program().graph_module.graph.nodes
    found = collect_specs_from_nodes(
        nodes, ignore_graph_input=False, ignore_out_var_node=False, do_assertion=False
    )
    changes: dict[int, int] = {}
    for spec in found:
        first, last = spec.lifetime
        if first is not None:
            changes[first] = changes.get(first, 0) + spec.allocated_memory
            changes[last + 1] = changes.get(last + 1, 0) - spec.allocated_memory
    live = accumulate(change for _, change in sorted(changes.items()))
    sizes = planned.executorch_program.execution_plan[0].non_const_buffer_sizes
    return int(sum(sizes)), max(live)


def compare(word: str, size: int, rows: Results) -> None:
    """Add a row for each share of a network's widths, or one that says what went wrong."""
    try:
        arch = nsopt.get_architecture(word, image_size=size)
        own = without_places(arch)
        for share in _SHARES:
            if rows.has(network=word, share=share):
                continue
            widths = [max(1, int(share * width)) for width in arch.base_widths]
            planned, live = plan(own.build(widths), arch.input_shape)
            rows.add(
                network=word,
                share=share,
                planned=planned,
                live=live,
                predicted=int(own.cost("memory")(widths)),
                in_place=int(arch.cost("memory")(widths)),
            )
    except Exception as error:  # ExecuTorch raises anything for a network that it cannot plan
        rows.add(network=word, share=_FAILED, error=str(error).partition("\n")[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=_NETWORKS.split())
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--folder", type=Path, required=True, help="for results")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # ExecuTorch tells of every pass
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = Results(options.folder / "memory_plan.jsonl", ("network", "share"))
    for word in options.networks:
        if not rows.has(network=word, share=_FAILED):
            compare(word, options.size, rows)
    frame = pd.DataFrame(rows.rows)
    frame.to_csv(options.folder / "memory_plan.csv", index=False)
    print(frame.to_string())
    planned = frame[frame["share"] != _FAILED]
    for column in ("planned", "live"):
        apart = (planned["predicted"] / planned[column] - 1).abs()
        close = apart.groupby(planned["network"]).max() <= _CLOSE
        print(f"within {_CLOSE:.0%} of {column}: {close.sum()} of {len(close)} networks")


if __name__ == "__main__":
    main()
