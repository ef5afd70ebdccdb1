"""How TensorFlow runs a step of a rule. Knows no rule class."""
