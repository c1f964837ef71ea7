"""The paper's models, workloads, numbers and worlds, which the figures share."""
