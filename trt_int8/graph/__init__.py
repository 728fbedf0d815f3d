"""Export, normal form, FP16 twin."""
