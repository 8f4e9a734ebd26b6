"""Which rule follows which ATen operation. What has none freezes the channels that reach it."""

from collections.abc import Iterable

from nsopt.models.tracing import cut_rules as cut
from nsopt.models.tracing import product_rules as product
from nsopt.models.tracing import shape_rules as shape
from nsopt.models.tracing.tracer import Rule


def _all(names: str, rule: Rule) -> Iterable[tuple[str, Rule]]:
    return ((name, rule) for name in names.split())


RULES: dict[str, Rule] = {
    "convolution": product.convolution,
    "linear": product.linear,
    "embedding": product.embedding,
    "_weight_norm_interface": product.weight_norm,
    **dict(_all("mv dot vdot", product.vector_product)),
    "native_group_norm": product.group_norm,
    **dict(_all("mm bmm", product.matrix_product)),
    **dict(_all("addmm baddbmm", product.sum_and_product)),
    **dict(_all("native_layer_norm _fused_rms_norm", product.layer_norm)),
    **dict(_all("_softmax _log_softmax", product.softmax)),
    **dict(
        _all(
            "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
            "cudnn_batch_norm",
            product.batch_norm,
        )
    ),
    **dict(
        _all(
            "scaled_dot_product_attention _scaled_dot_product_flash_attention "
            "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention",
            product.attention,
        )
    ),
    "as_strided": shape.as_strided,
    "cat": cut.concatenate,
    "constant_pad_nd": cut.pad,
    "expand": shape.expand,
    "flip": shape.flip,
    "glu": cut.glu,
    "linalg_vector_norm": shape.norm,
    "norm": shape.norm,
    "permute": shape.permute,
    "pixel_shuffle": shape.pixel_shuffle,
    "repeat": shape.repeat,
    "roll": shape.roll,
    "slice": cut.cut,
    "squeeze": shape.squeeze,
    "stack": cut.stack,
    "unsqueeze": shape.unsqueeze,
    **dict(_all("view _unsafe_view reshape _reshape_alias", shape.view)),
    **dict(_all("transpose t", shape.transpose)),
    **dict(_all("split split_with_sizes unsafe_split unsafe_split_with_sizes", cut.split)),
    **dict(_all("select unbind", cut.select)),
    **dict(_all("pointwise copy _prelu_kernel", shape.pointwise)),
    **dict(
        _all(
            "clone detach alias _to_copy lift_fresh contiguous native_dropout fill zero bernoulli "
            "uniform normal hardswish cumsum empty_like zeros_like ones_like full_like rand_like "
            "randn_like",
            shape.same,
        )
    ),
    **dict(
        _all(
            "mean sum amax amin var var_mean std prod logsumexp max min any all argmax argmin",
            shape.reduce,
        )
    ),
    **dict(
        _all(
            "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
            "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d avg_pool1d "
            "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d "
            "upsample_linear1d _upsample_nearest_exact2d _upsample_bilinear2d_aa "
            "reflection_pad2d replication_pad2d reflection_pad1d replication_pad1d",
            shape.spatial,
        )
    ),
    **dict(
        _all(
            "empty zeros ones full rand randn new_empty new_zeros new_ones new_full empty_strided "
            "new_empty_strided scalar_tensor",
            shape.alike,
        )
    ),
    **dict(_all("arange linspace eye tril_indices", shape.unlabelled)),
}
