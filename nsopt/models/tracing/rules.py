"""The rules of ATen operations, by name. An operation without a rule freezes all its atoms."""

from nsopt.models.tracing import cut_rules, product_rules, shape_rules
from nsopt.models.tracing.tracer import Rule

RULES: dict[str, Rule] = {
    name: function
    for module in (cut_rules, product_rules, shape_rules)
    for function in vars(module).values()
    for name in getattr(function, "operations", ())
}
