"""Bad input and bad users, thousands of them: `python -m experiments.hostile`."""
