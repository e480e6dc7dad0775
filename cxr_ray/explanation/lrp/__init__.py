"""Layer-wise relevance propagation: the logit, distributed back to the pixels layer by layer, with a certificate that it adds up."""

from cxr_ray.explanation.lrp.methods import refusal
from cxr_ray.explanation.lrp.rules import LRP_RULES, Rule

__all__ = ["LRP_RULES", "Rule", "refusal"]
