"""All rules, by the names of ATen operations. Without a rule, all atoms of its inputs freeze."""

from nsopt.models.tracing import cut_rules, index_rules, product_rules, shape_rules
from nsopt.models.tracing.tracer import Rule

RULES: dict[str, Rule] = {
    name: function
    for module in (cut_rules, index_rules, product_rules, shape_rules)
    for function in vars(module).values()
    for name in getattr(function, "operations", ())
}
