"""The inner loop: a rule trains an optimizee."""
