"""Ways to run the same model on a CPU; each module prepares some for `scripts.bench_runtime`."""
